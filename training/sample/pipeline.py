"""Makes the sample bundle: runs all stages that a user runs one by one, with parameters for a few minutes.

Calls the functions behind the subcommands, and so also shows that they fit together. Knows nothing of the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from service.engine.sessions import Runtime
from service.verifying import verify
from training.data.configuring import parse_config
from training.data.dataset import Dataset
from training.data.prepare import prepare
from training.embed import embed_texts
from training.evaluation.stage import EvaluationOptions, evaluate
from training.evaluation.subject import bundle_subject
from training.export.bundle import ExportOptions, export_bundle
from training.export.sources import Folders
from training.networks.t5 import T5Settings
from training.recommender.parameters import RecommenderParameters
from training.recommender.stage import train_recommender
from training.sample import films
from training.sample.invented import invent_histories
from training.tokenizer.configuration import StageParameters
from training.tokenizer.parameters import Parameters
from training.tokenizer.stage import train_tokenizer

NAME = "sample"
GENERATION = 2
"""ID generation. Increment it with any change of how the IDs are made, since stores keep IDs as they were made."""
DISH_DOMAIN = "dishes"
DISHES = Path(__file__).with_name("dishes.jsonl")
DESCRIPTION = (
    "Ten thousand films with a recommender trained on real ratings, and a hundred dishes that no training has seen"
)
ENCODER = "static:minilm"
EVALUATED_USERS = 1000
PROVEN_HISTORIES = 200
TOKENIZER = StageParameters(
    tokenizer=Parameters(levels=4, codes=256, warmup_epochs=6, epochs=14),
    train_domains=(films.DOMAIN,),
    repair=True,
    suffixes=64,
)
RECOMMENDER = RecommenderParameters(
    network=T5Settings(
        d_model=48,
        d_ff=192,
        d_kv=12,
        heads=4,
        encoder_layers=2,
        decoder_layers=1,
        dropout=0.0,
        history="items",
        item_head=1.0,
        read_dropout=0.4,
        likeness=True,
    ),
    domains=(films.DOMAIN,),
    expert_first=True,
    max_history=10,
    epochs=20,
    batch_tokens=1024,
    learning_rate=1.5e-3,
    weight_decay=0.05,
    warmup_steps=100,
    average=0.995,
    content_start=0.8,
    validation_users=5000,
    patience=10,
)
"""Like `configs/recommender_small_domain.toml`, narrower; `likeness` is for dishes. For others see models/README.md."""


def make_sample(out: Path, work: Path, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run every stage.

    Parameters
    ----------
    out : folder of the bundle; an existing bundle is replaced once the new one is proven
    work : folder for intermediate artefacts of the stages
    threads : CPU threads; 0: all cores
    say : called with a message at each stage

    Returns
    -------
    figures of every stage, by name

    Raises
    ------
    ConfigError : a package of the extra `sample` is missing
    ModelError : the bundle's results differ from those of the networks
    """
    runtime = Runtime("cpu", threads)
    sources, dataset, public, embeddings, tokenizer, recommender = (
        work / name for name in ("sources", "dataset", "public", "embeddings", "tokenizer", "recommender")
    )
    figures: dict[str, Any] = {}
    say("1/7 films and ratings")
    figures["sources"] = write_sources(sources)
    say("2/7 prepare")
    figures["prepare"] = prepare(parse_config(rated_domains(sources), NAME), dataset)
    prepare(parse_config(public_domains(sources), NAME), public)
    say("3/7 embed")
    figures["embed"] = embed_texts(Dataset.open(dataset), embeddings, ENCODER, runtime=runtime)
    say("4/7 train-tokenizer")
    coding = TOKENIZER.model_copy(update={"threads": threads})
    figures["train-tokenizer"] = train_tokenizer(dataset, embeddings, tokenizer, coding)
    say("5/7 train-recommender")
    learning = RECOMMENDER.model_copy(update={"threads": threads})
    figures["train-recommender"] = train_recommender(dataset, tokenizer, recommender, learning, embeddings)
    say("6/7 export")
    options = ExportOptions(NAME, GENERATION, description=DESCRIPTION, replace=True, threads=threads)
    figures["export"] = export_bundle(Folders(public, embeddings, tokenizer, (recommender,)), out, options)
    say("7/7 verify and evaluate")
    figures["verify"] = {check.name: check.what for check in verify(out, "cpu", threads)}
    scored = EvaluationOptions(domains=(films.DOMAIN,), max_users=EVALUATED_USERS)
    figures["evaluate"] = evaluate(bundle_subject(out, runtime), dataset, work / "evaluation", scored)
    return figures


def write_sources(folder: Path) -> dict[str, Any]:
    """Write films, dishes, ratings and invented histories as JSON lines, like a user's own source files."""
    found = films.build(films.read_films(), films.read_ratings())
    folder.mkdir(parents=True, exist_ok=True)
    for domain, items in ((films.DOMAIN, found.items), (DISH_DOMAIN, pl.read_ndjson(DISHES))):
        items.write_ndjson(folder / f"{domain}.jsonl")
        invented = invent_histories(items["item_id"].to_list(), PROVEN_HISTORIES)
        invented.write_ndjson(folder / f"{domain}_invented.jsonl")
    found.interactions.write_ndjson(folder / f"{films.DOMAIN}_rated.jsonl")
    return {
        "films": len(found.items),
        "rated_films": found.rated_films,
        "ratings": found.ratings,
        "ratings_matched": round(found.matched_ratings / found.ratings, 4),
        "ratings_kept": len(found.interactions),
    }


def rated_domains(sources: Path) -> dict[str, Any]:
    """Configuration of `prepare` for training, in the form of a TOML file's contents."""
    return {"domains": [_domain(sources, films.DOMAIN, "rated"), _domain(sources, DISH_DOMAIN, None)]}


def public_domains(sources: Path) -> dict[str, Any]:
    """The same items with invented histories, for `export`, which stores some of them in the bundle."""
    return {"domains": [_domain(sources, name, "invented") for name in (films.DOMAIN, DISH_DOMAIN)]}


def _domain(sources: Path, name: str, histories: str | None) -> dict[str, Any]:
    """One domain of a configuration; without histories, it has only a catalogue."""
    domain = {"name": name, "format": "jsonl", "items": str(sources / f"{name}.jsonl")}
    return domain | ({"interactions": str(sources / f"{name}_{histories}.jsonl")} if histories else {})
