"""The stage `train-baseline`: trains a baseline on one domain of a dataset and measures it.

All choices are made on validation; test is measured once, at the end. Knows nothing of the command line.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.baselines.corpus import Corpus
from training.baselines.graph import GraphBaseline
from training.baselines.parameters import AnyParameters, EpochParameters, LightGCNParameters, SequenceParameters
from training.baselines.rules import make_rule
from training.baselines.scoring import Measured, Scorer, learned_repeats, measure, with_repeats
from training.baselines.sequence import SequenceBaseline
from training.baselines.trainer import train, write_arrays
from training.checkpoint import CHECKPOINT, Checkpoint
from training.data.dataset import Dataset
from training.data.split import Examples, require_examples
from training.measures.users import evaluated_users
from training.processor import use_processor
from training.stage import Stage


@dataclass(frozen=True)
class Trained:
    """A trained baseline: its scorer, its number of parameters, and the result of its training."""

    scorer: Scorer
    numbers: int
    training: dict[str, Any]


def train_baseline(
    dataset: Path, domain: str, out: Path, parameters: AnyParameters, max_users: int | None = None
) -> dict[str, Any]:
    """Run the stage; a killed run resumes after its last finished epoch.

    Parameters
    ----------
    max_users : number of users measured at the end, the same as by `unitok evaluate`; None: all

    Returns
    -------
    the contents of `figures.json`

    Raises
    ------
    ConfigError : the dataset has no such domain, the domain has no examples of training or validation, or `out` holds a
        checkpoint of another training
    """
    use_processor(parameters.threads)
    corpus = Corpus.of(Dataset.open(dataset)[domain], parameters.max_history)
    stage = Stage("train-baseline", out)
    trained = _trained(corpus, parameters, Checkpoint(out / CHECKPOINT, stage.clock))
    examples = {part: evaluated_users(getattr(corpus.split, part), max_users, 0) for part in ("validation", "test")}
    parts = {name: _measured(trained.scorer, corpus, each, parameters) for name, each in examples.items()}
    figures = stage.finish(
        {
            "kind": parameters.kind,
            "domain": domain,
            "users": len(examples["test"]),
            "items": corpus.items,
            "learned_from": corpus.fingerprint(),
            "ranked_over": "all items of the domain",
            **{name: measured.kept.as_dict() for name, measured in parts.items()},
            "history_items_removed": {name: measured.removed.as_dict() for name, measured in parts.items()},
            **_repeats(trained.scorer, corpus, examples, parameters),
            "parameters": trained.numbers,
            "training": trained.training,
            "configuration": parameters.model_dump(mode="json"),
        }
    )
    (out / CHECKPOINT).unlink(missing_ok=True)
    return figures


def _trained(corpus: Corpus, parameters: AnyParameters, checkpoint: Checkpoint) -> Trained:
    if not isinstance(parameters, EpochParameters):
        rule = make_rule(corpus, parameters)
        write_arrays(checkpoint.path.parent, rule.arrays)
        return Trained(rule.scorer, sum(array.numel() for array in rule.arrays.values()), {})
    require_examples(corpus.domain, len(corpus.split.training), len(corpus.split.validation))
    torch.manual_seed(parameters.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: GraphBaseline | SequenceBaseline
    if isinstance(parameters, LightGCNParameters):
        model = GraphBaseline(corpus, parameters, device)
    else:
        model = SequenceBaseline(corpus, parameters, device)

    def validate(scorer: Scorer) -> float:
        # The better of both, as for our recommenders: the bonus of items of the history is learned after training.
        measured = _measured(scorer, corpus, corpus.split.validation, parameters)
        return round(max(measured.kept.ndcg_10, measured.removed.ndcg_10), 5)

    settings = parameters.model_dump_json(exclude={"threads"})
    fingerprint = hashlib.sha256(f"{settings} {corpus.fingerprint()}".encode()).hexdigest()
    result = train(model, parameters, validate, checkpoint, fingerprint)
    numbers = sum(array.numel() for array in model.network.parameters())
    return Trained(model.scorer(), numbers, asdict(result))


def _measured(scorer: Scorer, corpus: Corpus, examples: Examples, parameters: AnyParameters) -> Measured:
    return measure(scorer, examples, corpus.history_items, parameters.max_history)


def _repeats(
    scorer: Scorer, corpus: Corpus, measured: dict[str, Examples], parameters: AnyParameters
) -> dict[str, Any]:
    """The bonus of repeats, learned after training as for our recommenders, and the figures with it; sequences only."""
    if not isinstance(parameters, SequenceParameters):
        return {}
    learned = learned_repeats(scorer, corpus.split.validation, corpus.history_items, parameters.max_history)
    raised = with_repeats(scorer, learned)
    return {
        "repeats": learned.model_dump(),
        "with_repeats": {
            name: _measured(raised, corpus, examples, parameters).kept.as_dict() for name, examples in measured.items()
        },
    }
