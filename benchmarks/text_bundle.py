"""A bundle whose texts go through all-MiniLM-L6-v2, made of films by the stages that a user runs, and kept.

It lies under `work/benchmarks/minilm`; delete that to have it made anew. The recommender is random and never asked.
Knows nothing of what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.catalogues import work_folder
from service.bundle.manifest import MANIFEST
from service.items import ItemContent
from training.data.dataset import Dataset, write_domain, write_index
from training.embed import embed_texts
from training.export.bundle import ExportOptions, export_bundle
from training.export.sources import Folders
from training.ids.table import read_ids
from training.networks.t5 import LayoutRecord, RecommenderRecord, T5Settings, build_t5, save_record, save_weights
from training.recommender.learned_ids import LEARNED_IDS, ids_digest
from training.recommender.stage import tokenizer_layout
from training.sample import films
from training.sample.invented import invent_histories
from training.stage import Stage
from training.tokenizer.clusterings import RqKMeansParameters
from training.tokenizer.configuration import StageParameters
from training.tokenizer.stage import train_tokenizer

FILMS = 2000
MAX_TOKENS = 128
TOKENIZER = StageParameters(tokenizer=RqKMeansParameters())
"""Learned in a second, and as quick to tell a vector's codes as any."""
T5 = T5Settings(d_model=32, d_ff=64, d_kv=8, heads=4, encoder_layers=1, decoder_layers=1, dropout=0.0)


@dataclass(frozen=True)
class TextBundle:
    """The bundle, its tokenizer (residual k-means) as it was trained, and the films that this has learned from."""

    folder: Path
    tokenizer: Path
    films: list[ItemContent]


def text_bundle() -> TextBundle:
    """The bundle, made if it is not there: a minute or two."""
    folder = work_folder() / "minilm"
    bundle, dataset = folder / "bundle", folder / "dataset"
    if not (bundle / MANIFEST).is_file():
        _make(folder, bundle, dataset)
    return TextBundle(bundle, folder / "tokenizer", Dataset.open(dataset)[films.DOMAIN].contents())


def _make(folder: Path, bundle: Path, dataset: Path) -> None:
    embeddings, tokenizer, recommender = (folder / name for name in ("embeddings", "tokenizer", "recommender"))
    items = films.build(films.read_films(), []).items.head(FILMS)
    write_index(
        dataset, [write_domain(dataset, films.DOMAIN, items, invent_histories(items["item_id"].to_list(), users=100))]
    )
    embed_texts(Dataset.open(dataset), embeddings, "minilm", max_tokens=MAX_TOKENS)
    train_tokenizer(dataset, embeddings, tokenizer, TOKENIZER)
    stage, layout = Stage("train-recommender", recommender), tokenizer_layout(tokenizer)
    torch.manual_seed(0)
    save_weights(recommender, build_t5(layout, T5).state_dict())
    record = RecommenderRecord(t5=T5, layout=LayoutRecord.of(layout), max_history=10, trained_on=(films.DOMAIN,))
    save_record(recommender, record)
    stage.finish({LEARNED_IDS: {name: ids_digest(ids) for name, ids in read_ids(tokenizer).items()}})
    export_bundle(
        Folders(dataset, embeddings, tokenizer, (recommender,)), bundle, ExportOptions("benchmark-minilm", histories=20)
    )
