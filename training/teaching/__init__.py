"""Knowledge distillation from earlier recommenders and baselines into a recommender in training."""
