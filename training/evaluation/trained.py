"""A trained recommender as a subject of evaluation, exported for the engine without a bundle.

Evaluation needs neither the text encoder nor the tokenizer's network, only the IDs. Knows nothing of figures.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from service.errors import ConfigError
from service.progress import progress
from training.data.dataset import Dataset
from training.evaluation.subject import Subject
from training.export.lists import CodedDomain, draw_histories, prove_lists
from training.graphs.recommender import GRAPH, export_recommender, recommender_part
from training.ids.table import read_ids
from training.networks.t5 import load_recommender
from training.processor import use_processor
from training.recommender.corpus import item_values
from training.recommender.exhaustive import scored_ranks
from training.recommender.learned_ids import require_learned_ids
from training.stage import read_figures

HISTORIES, BEAMS = 20, 20
"""Number of real histories on which the graph is checked before it is measured, and the beam width of that check."""


def trained_subject(tokenizer: Path, recommender: Path, dataset: Path, out: Path, runtime: Runtime) -> Subject:
    """The subject from the folders of `train-tokenizer` and `train-recommender`; its graph is written to `out`, proven.

    Raises
    ------
    ConfigError : one of the folders is not finished, or the recommender learned other IDs than the tokenizer's
    ModelError : the graph does not give the network's ranked lists
    """
    use_processor(runtime.threads)
    ids, data = read_ids(tokenizer), Dataset.open(dataset)
    read_figures(recommender)  # raises if training is unfinished: its weights are not yet the final ones
    trained = load_recommender(recommender)
    without = [name for name in trained.trained_on if name not in ids]
    if without:
        raise ConfigError(f"{recommender}: learned from {', '.join(without)}, but {tokenizer} has no IDs of it")
    require_learned_ids(recommender, trained.trained_on, ids, data, trained.layout)
    out.mkdir(parents=True, exist_ok=True)
    export_recommender(trained.model, trained.layout, out / GRAPH)
    part = recommender_part(trained, recommender.resolve().name, GRAPH)
    opened = Recommender.open(out / GRAPH, part, trained.layout, runtime)
    coded = [CodedDomain(data[name], item_values(ids[name], data[name], trained.layout)) for name in part.domains]
    drawn = draw_histories(coded, HISTORIES, np.random.default_rng(0), trained.max_history)
    with progress("proving ranked lists", HISTORIES) as advance:
        proof = prove_lists(opened, trained, drawn, beams=BEAMS, advance=advance).figures
    described = {"recommender": part.name, "tokenizer": tokenizer.resolve().name, "proof": proof}
    return Subject(described, ids, (part,), lambda _: opened, scored=partial(scored_ranks, trained))
