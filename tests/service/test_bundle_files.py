"""A bundle that is not whole, not unaltered or not of the known schema does not open, and says why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from service.bundle.files import Bundle, hash_files, write_manifest
from service.bundle.manifest import SCHEMA_VERSION, Manifest
from service.bundle.repeats import LearnedRepeats
from service.bundle.sample import ARRAYS, SAMPLE, ProvenSample
from service.catalogue.seeding import read_bundle_catalogue
from service.errors import BundleError

FILES = dict.fromkeys(
    (*(f"{part}.onnx" for part in ("text_encoder", "item_tokenizer", "recommender")), "tokenizer.json"), "0" * 64
) | {"catalogue/items.parquet": "0" * 64}


def manifest_of(folder: Path) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "name": "tiny",
        "generation": 1,
        "created": "2026-01-01T00:00:00Z",
        "description": "for a test",
        "layout": {"levels": 2, "codes": 4, "experts": 2, "experts_per_item": 1, "suffixes": 4},
        "text_encoder": {"max_tokens": 16, "recipe": "r", "source": "s"},
        "item_tokenizer": {"embedding_width": 8, "latent_width": 2, "expert_names": ["a", "b"]},
        "recommenders": [
            {"name": "all", "model": "recommender.onnx", "domains": [], "domain_tokens": [], "max_history": 20}
        ],
        "catalogue": {"items": 1},
        "files": hash_files(folder),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "catalogue").mkdir()
    names = (
        "text_encoder.onnx",
        "tokenizer.json",
        "item_tokenizer.onnx",
        "recommender.onnx",
        "catalogue/items.parquet",
    )
    for name in names:
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path, Manifest.model_validate(manifest_of(tmp_path)))
    return tmp_path


def rewrite(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(content))


def test_a_whole_bundle_opens(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.manifest.name == "tiny"
    assert bundle.path("tokenizer.json") == folder / "tokenizer.json"


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json: no such file"):
        Bundle.open(tmp_path)


def test_an_altered_file_is_named(folder: Path) -> None:
    (folder / "recommender.onnx").write_text("other")
    with pytest.raises(BundleError, match=r"recommender\.onnx: SHA-256 is .* altered"):
        Bundle.open(folder)


def test_a_file_is_no_bundle(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json/manifest\.json: no such file; a bundle is a folder"):
        Bundle.open(folder / "manifest.json")


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json: named in manifest\.json but missing"):
        Bundle.open(folder)


def test_an_unknown_key_is_named(folder: Path) -> None:
    rewrite(folder, colour="blue")
    with pytest.raises(BundleError, match="colour: Extra inputs are not permitted"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("repeats", "found"),
    [
        (-3, LearnedRepeats(bonus=-3.0)),
        (0.5, LearnedRepeats(bonus=0.5)),
        ({"bonus": 1.0, "recency": 2.0, "frequency": 3.0}, LearnedRepeats(bonus=1.0, recency=2.0, frequency=3.0)),
        ({"recency": 2.0}, "repeats.movies.bonus: Field required"),
        ({"bonus": 1.0, "often": 2.0}, "repeats.movies.often: Extra inputs"),
        ("much", "repeats.movies: "),
        (True, "repeats.movies.bonus: "),
    ],
)
def test_what_was_learned_of_repeats_is_a_number_or_three(folder: Path, repeats: object, found: object) -> None:
    (part,) = json.loads((folder / "manifest.json").read_text())["recommenders"]
    rewrite(folder, recommenders=[part | {"repeats": {"movies": repeats}}])
    if isinstance(found, str):
        with pytest.raises(BundleError, match=re.escape(found)):
            Bundle.open(folder)
    else:
        assert Bundle.open(folder).manifest.recommenders[0].repeats == {"movies": found}


@pytest.mark.parametrize("version", [1, 3, "2"])
def test_another_schema_version_is_refused_and_says_what_to_do(folder: Path, version: object) -> None:
    rewrite(folder, schema_version=version)
    with pytest.raises(BundleError, match=f"schema_version: .*is {version!r}, but 2 is read here; export the bundle"):
        Bundle.open(folder)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_path_outside_the_bundle_is_refused(folder: Path, path: str) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    rewrite(folder, files=files | {path: "0" * 64})
    with pytest.raises(BundleError, match="relative path inside the bundle"):
        Bundle.open(folder)


def test_a_part_without_hash_is_refused(folder: Path) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    del files["item_tokenizer.onnx"]
    rewrite(folder, files=files)
    with pytest.raises(BundleError, match=r"'item_tokenizer\.onnx' is used by the manifest but has no hash"):
        Bundle.open(folder)


def test_expert_names_must_match_the_layout(folder: Path) -> None:
    part = {"model": "item_tokenizer.onnx", "embedding_width": 8, "latent_width": 2, "expert_names": ["a"]}
    rewrite(folder, item_tokenizer=part)
    with pytest.raises(BundleError, match=r"expert_names has 1 names, but layout\.experts is 2"):
        Bundle.open(folder)


def test_a_file_that_is_not_json_is_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe not json")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(folder)


def broken(whole: bytes, step: int) -> Iterator[bytes]:
    """The bytes with one of them changed, or with a few missing, place after place."""
    for place in range(0, len(whole), step):
        yield whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        yield whole[:place] + whole[place + 3 :]


def test_a_broken_file_of_samples_is_an_error_of_ours_whatever_layer_breaks(tmp_path: Path) -> None:
    """Found by opening broken files: deflate, unknown zip methods and encryption raised errors of their own."""
    path = tmp_path / SAMPLE
    sizes = dict.fromkeys(("m", "n", "H"), 2) | dict.fromkeys(("D", "L", "N", "S", "W", "depth"), 3)
    arrays: dict[str, Any] = {
        name: np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        for name, (dtype, symbols) in ARRAYS.items()
        for shape in [[sizes[symbol] for symbol in symbols]]
    }
    ProvenSample(**arrays).save(tmp_path)
    ProvenSample.load(path)
    refused = 0
    for content in broken(path.read_bytes(), 3):
        path.write_bytes(content)
        try:
            ProvenSample.load(path)
        except BundleError:
            refused += 1
    assert refused > 100


def test_a_broken_catalogue_is_an_error_of_ours_even_where_polars_panics(tmp_path: Path) -> None:
    """Found by opening broken files: a panic is no `Exception`, and went through every handler."""
    (tmp_path / "catalogue").mkdir()
    path = tmp_path / "catalogue" / "items.parquet"
    rows = {"domain": ["a"], "item_id": ["i"], "title": ["t"], "codes": [[1, 2]], "experts": [[1]], "suffix": [0]}
    pl.DataFrame(rows).write_parquet(path)
    manifest = Manifest.model_validate(manifest_of(tmp_path) | {"files": FILES})
    layout = manifest.token_layout(manifest.recommenders[0])
    refused = 0
    for content in broken(path.read_bytes(), 5):
        path.write_bytes(content)
        try:
            read_bundle_catalogue(Bundle(tmp_path, manifest), layout)
        except BundleError:
            refused += 1
    assert refused > 100
