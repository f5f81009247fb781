"""A recommender as training left it, made into what the engine serves, without a bundle around it.

Evaluation needs neither a text encoder nor the tokenizer's network, only the IDs that it gave. Knows nothing of
histories and figures.
"""

from __future__ import annotations

from pathlib import Path

from service.bundle.manifest import RecommenderPart
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from training.evaluation.subject import Subject
from training.export.recommender import export_recommender
from training.networks.t5 import load_recommender
from training.tokenizer.ids import read_ids

GRAPH = "recommender.onnx"


def trained_subject(tokenizer: Path, recommender: Path, out: Path, runtime: Runtime) -> Subject:
    """What `train-tokenizer` and `train-recommender` wrote; the recommender's graph goes into `out`.

    Raises
    ------
    ConfigError : one of the folders is not finished
    """
    ids = read_ids(tokenizer)
    trained = load_recommender(recommender)
    out.mkdir(parents=True, exist_ok=True)
    export_recommender(trained.model, trained.layout, out / GRAPH)
    part = RecommenderPart(
        name=recommender.resolve().name,
        model=GRAPH,
        domains=list(trained.trained_on),
        domain_tokens=list(trained.layout.domains),
        max_history=trained.max_history,
    )

    def open_part(part: RecommenderPart) -> Recommender:
        return Recommender.open(out / part.model, part, trained.layout, runtime)

    described = {"recommender": part.name, "tokenizer": tokenizer.resolve().name}
    return Subject(described, ids, (part,), open_part)
