"""A complete small bundle, made in seconds by the real stages: for every test that needs one.

Three domains of a hundred items with invented titles; a static encoder over a small vocabulary; UniTok with L = 3,
T = 16, K = 3, trained for a moment; a T5 with random, seeded weights. Nothing is sensible, everything is real.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from service.engine.sessions import Runtime
from training.data.dataset import Dataset, write_domain, write_index
from training.embed import embed_texts
from training.encoders.folder import MODEL, write_card, write_tokenizer
from training.encoders.sentence_encoder import write_encoder_graph
from training.encoders.static import StaticEncoder
from training.evaluation.stage import EvaluationOptions, evaluate
from training.evaluation.subject import bundle_subject
from training.export.bundle import ExportOptions, export_bundle
from training.export.sources import Folders
from training.ids.table import read_ids
from training.networks.t5 import (
    LayoutRecord,
    RecommenderRecord,
    T5Settings,
    build_t5,
    save_record,
    save_weights,
)
from training.recommender.learned_ids import LEARNED_IDS, ids_digest
from training.recommender.stage import tokenizer_layout
from training.stage import Stage
from training.tokenizer.configuration import StageParameters
from training.tokenizer.parameters import Parameters
from training.tokenizer.stage import train_tokenizer

NOUNS = {
    "books": ("novel", "atlas", "diary", "comic", "poems"),
    "games": ("puzzle", "racer", "quest", "chess", "cards"),
    "tools": ("hammer", "saw", "drill", "wrench", "ruler"),
}
ADJECTIVES = ("red", "green", "blue", "large", "small", "old", "new", "quick", "quiet", "plain")
THINGS = ("winter", "river", "garden", "city", "island", "mountain", "forest", "harbour")
WIDTH = 24
ITEMS = 100
USERS = 90
T5 = T5Settings(d_model=32, d_ff=48, d_kv=8, heads=4, encoder_layers=1, decoder_layers=1, dropout=0.0)


TOKENIZER = StageParameters(
    tokenizer=Parameters(levels=3, codes=16, latent_width=8, hidden=(16,), warmup_epochs=2, epochs=3, batch_size=64),
    repair=True,
    suffixes=16,
    threads=1,
)


@dataclass(frozen=True)
class TinyStages:
    """Folders of all stages, and how to export them."""

    folders: Folders
    options: ExportOptions


def tiny_bundle(folder: Path) -> Path:
    """Make the bundle in `folder/bundle` (its stages beside it) and return that path."""
    stages = tiny_stages(folder)
    export_bundle(stages.folders, folder / "bundle", stages.options)
    return folder / "bundle"


def tiny_stages(folder: Path, parameters: StageParameters = TOKENIZER) -> TinyStages:
    """Run all stages before the export."""
    dataset, embeddings, tokenizer = folder / "dataset", folder / "embeddings", folder / "tokenizer"
    recommender = folder / "recommender"
    write_dataset(dataset)
    write_encoder(folder / "encoder")
    embed_texts(Dataset.open(dataset), embeddings, str(folder / "encoder"), max_tokens=32)
    train_tokenizer(dataset, embeddings, tokenizer, parameters)
    write_recommender(recommender, tokenizer, tuple(NOUNS))
    options = ExportOptions(name="tiny", description="for tests", histories=60, beams=10, threads=1)
    return TinyStages(Folders(dataset, embeddings, tokenizer, (recommender,)), options)


def evaluated_domains(bundle: Path, stages: TinyStages, out: Path) -> set[str]:
    """Measure an exported bundle on the histories of its stages; the domains that were."""
    subject = bundle_subject(bundle, Runtime(threads=1))
    return set(evaluate(subject, stages.folders.dataset, out, EvaluationOptions(max_users=20))["domains"])


def write_dataset(folder: Path, seed: int = 0) -> None:
    """Items with invented titles, some of them equal, and random histories."""
    random = np.random.default_rng(seed)
    summaries = []
    for domain, nouns in NOUNS.items():
        titles = [
            f"the {random.choice(ADJECTIVES)} {random.choice(ADJECTIVES)} {random.choice(nouns)} "
            f"of the {random.choice(THINGS)}"
            for _ in range(ITEMS)
        ]
        titles[-3:] = [titles[0]] * 3  # equal content, so that suffixes occur
        items = pl.DataFrame(
            {
                "item_id": [f"{domain}-{number}" for number in range(ITEMS)],
                "title": titles,
                "brand": [str(random.choice(THINGS)) if number < ITEMS - 3 else None for number in range(ITEMS)],
                "categories": [[domain]] * ITEMS,
                "description": [None] * ITEMS,
                "price": [None] * ITEMS,
            }
        )
        items[0, "brand"] = None
        lengths = random.integers(3, 12, USERS)
        rows = [(user, position) for user, length in enumerate(lengths) for position in range(length)]
        interactions = pl.DataFrame(
            {
                "user_id": [f"user-{user}" for user, _ in rows],
                "item_id": [f"{domain}-{random.integers(ITEMS)}" for _ in rows],
                "position": [position for _, position in rows],
                "timestamp": [None] * len(rows),
                "rating": [None] * len(rows),
            }
        )
        summaries.append(write_domain(folder, domain, items, interactions))
    write_index(folder, summaries)


def write_encoder(folder: Path, seed: int = 0) -> None:
    """A static encoder of random vectors over the words of the titles, digits and letters."""
    folder.mkdir(parents=True)
    words = [*ADJECTIVES, *THINGS, "the", "of", *(noun for nouns in NOUNS.values() for noun in nouns), *NOUNS]
    words += [*"0123456789abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    write_tokenizer(tokenizer, folder)
    table = torch.randn(len(vocabulary), WIDTH, generator=torch.Generator().manual_seed(seed))
    write_encoder_graph(StaticEncoder(table).eval(), folder / MODEL, 8192)
    write_card(folder, "random vectors", 64)


def write_recommender(
    folder: Path,
    tokenizer: Path,
    trained_on: tuple[str, ...],
    seed: int = 0,
    *,
    domain_tokens: tuple[str, ...] = (),
    expert_first: bool = False,
) -> None:
    """A T5 with random weights that answers differently to different histories, saved as training saves it."""
    stage = Stage("train-recommender", folder)
    layout = replace(tokenizer_layout(tokenizer), domains=domain_tokens, expert_first=expert_first)
    torch.manual_seed(seed)
    model = build_t5(layout, T5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=1.5 / parameter.shape[1] ** 0.5)
        model.shared.weight.normal_(std=1.5)
    save_weights(folder, model.state_dict())
    save_record(folder, RecommenderRecord(t5=T5, layout=LayoutRecord.of(layout), max_history=10, trained_on=trained_on))
    ids = read_ids(tokenizer)
    stage.finish({LEARNED_IDS: {name: ids_digest(ids[name]) for name in trained_on}})
