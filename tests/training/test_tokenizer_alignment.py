"""Alignment of unseen domains: the map, the stage that fits it, and the bundle and service that apply it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from http_server import serving
from numpy.typing import NDArray
from tiny import NOUNS, TOKENIZER, TinyStages, tiny_stages

from service.backfill.batches import Batch, BatchEncoder
from service.backfill.rows import Row
from service.bundle.files import Bundle
from service.cli.catalogue import ids_of_bundle
from service.errors import BundleError, ConfigError
from service.items import ItemContent, compose_text
from service.settings import read_settings
from service.verifying import verify
from training.export.bundle import export_bundle
from training.ids.quality import first_experts
from training.ids.table import read_ids
from training.stage import read_figures
from training.tokenizer.alignment import FEWEST, align, read_alignments
from training.tokenizer.estimator import UniTok
from training.tokenizer.stage import train_tokenizer

SEEN, NEW = tuple(NOUNS)[:2], tuple(NOUNS)[2]


def cloud(seed: int, count: int = 4000, width: int = 6) -> NDArray[np.float32]:
    """Correlated numbers, off zero."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(count, width)) @ random.normal(size=(width, width)) + random.normal(size=width)).astype(
        np.float32
    )


def test_mean_and_covariance_become_those_of_the_other_domain() -> None:
    new, seen = cloud(1), cloud(2)
    found = align(new, seen)
    assert found is not None
    moved = new.astype(np.float64) @ found.matrix + found.offset
    np.testing.assert_allclose(moved.mean(axis=0), seen.mean(axis=0), atol=1e-4)
    ours, theirs = shrunk(new), shrunk(seen)
    np.testing.assert_allclose(found.matrix.T @ ours @ found.matrix, theirs, atol=1e-4 * np.abs(theirs).max())
    assert np.linalg.norm(ours - theirs) > 0.5 * np.linalg.norm(theirs)


def shrunk(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Covariance, with a tenth of its mean variance on top of every direction's."""
    covariance = np.cov(embeddings, rowvar=False, bias=True)
    return covariance + 0.1 * np.mean(np.diag(covariance)) * np.eye(len(covariance))


def test_of_all_maps_the_one_that_moves_least() -> None:
    # The optimal transport's matrix is symmetric and positive definite, and nothing moves what lies right already.
    found, stays = align(cloud(1), cloud(2)), align(cloud(1), cloud(1))
    assert found is not None
    assert stays is not None
    np.testing.assert_allclose(found.matrix, found.matrix.T, atol=1e-5)
    assert np.linalg.eigvalsh(found.matrix.astype(np.float64)).min() > 0
    np.testing.assert_allclose(stays.matrix, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(stays.offset, 0, atol=1e-5)


def test_few_or_equal_items_do_no_harm() -> None:
    assert align(cloud(1, FEWEST - 1), cloud(2)) is None
    same = align(np.repeat(cloud(1, 1), FEWEST, axis=0), cloud(2))
    assert same is not None
    assert np.isfinite(same.matrix).all()
    assert np.isfinite(same.offset).all()


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> TinyStages:
    """Stages whose tokenizer was trained on two of three domains."""
    parameters = TOKENIZER.model_copy(update={"train_domains": SEEN, "align": True})
    return tiny_stages(tmp_path_factory.mktemp("stages"), parameters)


@pytest.fixture(scope="module")
def bundle(stages: TinyStages) -> Path:
    out = stages.folders.dataset.parent / "bundle"
    export_bundle(stages.folders, out, stages.options)
    return out


def nearest(stages: TinyStages, domain: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Codes and experts of a domain's items, aligned where they are, before any repair."""
    folder = stages.folders.tokenizer
    vectors = np.load(stages.folders.embeddings / f"{domain}.npy")
    aligned = read_alignments(folder, vectors.shape[1])(vectors, [domain] * len(vectors))
    encoded = UniTok.load(folder).encode(aligned)
    return encoded.codes, encoded.experts


def test_the_stage_aligns_what_it_was_not_trained_on(stages: TinyStages) -> None:
    folder = stages.folders.tokenizer
    figures, ids = read_figures(folder)["domains"], read_ids(folder)
    assert [figures[name]["aligned_with"] for name in SEEN] == [None, None]
    assert figures[NEW]["aligned_with"] in SEEN
    vectors = np.load(stages.folders.embeddings / f"{NEW}.npy")
    assert list(read_alignments(folder, vectors.shape[1]).by_domain) == [NEW]
    codes, experts = nearest(stages, NEW)
    kept = (codes == ids[NEW].codes).all(axis=1)
    assert kept.sum() == len(codes) - figures[NEW]["items_moved"]
    np.testing.assert_array_equal(experts, ids[NEW].experts)
    as_they_are = UniTok.load(folder).encode(vectors)
    assert (as_they_are.codes != codes).any()
    assert figures[NEW]["aligned_with"] == SEEN[int(np.bincount(first_experts(as_they_are.experts)).argmax())]


def test_the_same_stage_without_it_leaves_no_file(stages: TinyStages, tmp_path: Path) -> None:
    folders = stages.folders
    parameters = TOKENIZER.model_copy(update={"train_domains": SEEN})
    figures = train_tokenizer(folders.dataset, folders.embeddings, tmp_path / "plain", parameters)
    assert figures["domains"][NEW]["aligned_with"] is None
    assert not (tmp_path / "plain" / "alignments.npz").exists()


def test_a_trained_tokenizer_is_reused(stages: TinyStages, tmp_path: Path) -> None:
    folders = stages.folders
    parameters = TOKENIZER.model_copy(update={"train_domains": SEEN, "align": True})
    figures = train_tokenizer(folders.dataset, folders.embeddings, tmp_path / "ids", parameters, folders.tokenizer)
    assert figures["log"]
    before, after = read_ids(folders.tokenizer), read_ids(tmp_path / "ids")
    for domain in NOUNS:
        np.testing.assert_array_equal(before[domain].codes, after[domain].codes)
        np.testing.assert_array_equal(before[domain].suffix, after[domain].suffix)
    other = {"tokenizer": TOKENIZER.tokenizer.model_copy(update={"alpha": 0.5})}
    for changes, says in ((other, "another alpha"), ({"train_domains": SEEN[:1]}, "was trained on")):
        asked = parameters.model_copy(update=changes)
        with pytest.raises(ConfigError, match=says):
            train_tokenizer(folders.dataset, folders.embeddings, tmp_path / "no", asked, folders.tokenizer)
    assert not (tmp_path / "no").exists() or not (tmp_path / "no" / "ids.parquet").exists()


def test_a_tokenizer_is_not_reused_where_it_learned_from_a_domain_without_ids(
    stages: TinyStages, tmp_path: Path
) -> None:
    folders = stages.folders
    asked = TOKENIZER.model_copy(update={"train_domains": SEEN, "id_domains": SEEN[:1]})
    train_tokenizer(folders.dataset, folders.embeddings, tmp_path / "two", asked)
    of_one = asked.model_copy(update={"train_domains": SEEN[:1]})
    with pytest.raises(ConfigError, match=f"was trained on {SEEN[0]}, {SEEN[1]}, not on {SEEN[0]}"):
        train_tokenizer(folders.dataset, folders.embeddings, tmp_path / "one", of_one, tmp_path / "two")


def test_a_tokenizer_reused_in_its_own_folder_is_left_whole(stages: TinyStages) -> None:
    folders = stages.folders
    before = read_figures(folders.tokenizer)
    with pytest.raises(ConfigError, match="cannot be reused from the folder that is written to"):
        train_tokenizer(folders.dataset, folders.embeddings, folders.tokenizer, TOKENIZER, folders.tokenizer)
    assert read_figures(folders.tokenizer) == before


def test_a_tokenizer_without_experts_cannot_align(stages: TinyStages, tmp_path: Path) -> None:
    folders = stages.folders
    parameters = TOKENIZER.model_copy(
        update={
            "train_domains": SEEN,
            "align": True,
            "tokenizer": TOKENIZER.tokenizer.model_copy(update={"domain_experts": False}),
        }
    )
    with pytest.raises(ConfigError, match="expert a domain"):
        train_tokenizer(folders.dataset, folders.embeddings, tmp_path / "one", parameters)


def test_every_way_into_the_service_gives_the_same_ids(stages: TinyStages, bundle: Path, tmp_path: Path) -> None:
    assert Bundle.open(bundle).manifest.item_tokenizer.alignments == "alignments.npz"
    assert [check.name for check in verify(bundle, threads=1)][-1] == "constraint"
    settings = read_settings(bundle=bundle, store=f"embedded:{tmp_path / 'store'}", threads=1)
    ids_of = ids_of_bundle(Bundle.open(bundle), settings)
    with serving(settings) as (client, parts):
        for domain in (SEEN[0], NEW):
            codes, experts = nearest(stages, domain)
            table = pl.read_parquet(stages.folders.dataset / domain / "items.parquet")[:40]
            contents = [
                ItemContent(row["title"], row["brand"], tuple(row["categories"]), row["description"], row["price"])
                for row in table.iter_rows(named=True)
            ]
            items = [
                {"domain": domain, "title": each.title, "brand": each.brand, "categories": list(each.categories)}
                for each in contents
            ]
            answer = client.post("/tokenize", json={"items": items})
            assert answer.status_code == 200, answer.text
            served = [(item["semantic_id"]["codes"], item["semantic_id"]["experts"]) for item in answer.json()["items"]]
            expected = list(zip(codes[:40].tolist(), experts[:40].tolist(), strict=True))
            assert served == expected
            rows = [Row(number, str(number), each, compose_text(each), None) for number, each in enumerate(contents)]
            encoder = BatchEncoder(domain, parts.engine.text_encoder, parts.engine.item_tokenizer)
            filled = encoder.encode(Batch(0, rows, [], last=True)).items
            assert [(list(each.codes), list(each.experts)) for each in filled] == expected
            said = ids_of([domain] * len(contents), contents)
            np.testing.assert_array_equal(said, np.hstack([codes[:40], experts[:40]]))


def test_alignments_are_hashed_and_must_be_there(bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    assert "alignments.npz" in manifest.files
    (bundle / "alignments.npz").rename(tmp_path / "away")
    try:
        with pytest.raises(BundleError, match=r"alignments\.npz"):
            Bundle.open(bundle)
    finally:
        (tmp_path / "away").rename(bundle / "alignments.npz")


def test_a_bundle_of_trained_domains_alone_holds_none(stages: TinyStages, tmp_path: Path) -> None:
    export_bundle(stages.folders, tmp_path / "seen", replace(stages.options, domains=SEEN, histories=4))
    assert Bundle.open(tmp_path / "seen").manifest.item_tokenizer.alignments is None
    assert not (tmp_path / "seen" / "alignments.npz").exists()
