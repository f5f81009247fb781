"""No broken file crashes, hangs or surprises: bundles and tables of items with bytes changed at random.

Each file is opened in another process (`broken_files.py`). The answer is success, for a change that harms nothing, or
one of the project's own errors, which names the file. `FUZZ_EXAMPLES` makes the search longer.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from broken_files import Mutation, Opener, mutated, mutations
from hypothesis import HealthCheck, Phase, given, settings

from service.bundle.files import sha256_of
from service.bundle.manifest import MANIFEST

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))
fuzzing = settings(
    max_examples=EXAMPLES,
    # A finding is not made smaller: it is at most six changes already, and each try at one that hangs takes a minute.
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)

ITEMS = [
    {"item_id": f"i{number}", "title": f'a "title", {number}', "categories": "a|b", "price": "3.5"}
    for number in range(9)
]


@pytest.fixture(scope="module")
def opener() -> Iterator[Opener]:
    opener = Opener()
    yield opener
    opener.close()


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that may be broken, one file at a time."""
    return Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("broken") / "bundle"))


def check(answer: str, name: str) -> None:
    assert answer == "ok" or answer.startswith("refused "), answer
    assert answer == "ok" or name in answer, answer


def test_a_bundle_that_was_altered_is_never_opened(opener: Opener, bundle: Path) -> None:
    assert opener.ask("bundle", bundle) == "ok"
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    for name in files:
        path = bundle / name
        whole = path.read_bytes()
        for altered in (whole[:-1], whole + b"\0", bytes([whole[0] ^ 1]) + whole[1:], b""):
            path.write_bytes(altered)
            answer = opener.ask("bundle", bundle)
            assert answer.startswith("refused ")
            assert f"{path}: SHA-256 is" in answer
        path.write_bytes(whole)


@given(changes=mutations)
@fuzzing
def test_a_broken_manifest_is_refused_or_harmless(opener: Opener, bundle: Path, changes: list[Mutation]) -> None:
    path = bundle / MANIFEST
    whole = path.read_bytes()
    try:
        path.write_bytes(mutated(whole, changes))
        check(opener.ask("manifest", bundle), str(bundle))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "name",
    [
        "catalogue/items.parquet",
        "item_tokenizer.onnx",
        "recommender.onnx",
        "text_encoder.onnx",
        "tokenizer.json",
        "verification.npz",
    ],
)
@given(changes=mutations)
@fuzzing
def test_a_broken_part_with_a_matching_hash_is_refused_or_harmless(
    opener: Opener, bundle: Path, name: str, changes: list[Mutation]
) -> None:
    """As if it had been broken before the manifest was written."""
    path, manifest = bundle / name, bundle / MANIFEST
    whole, stated = path.read_bytes(), manifest.read_text()
    try:
        path.write_bytes(mutated(whole, changes))
        content = json.loads(stated)
        content["files"][name] = sha256_of(path)
        manifest.write_text(json.dumps(content))
        check(opener.ask("bundle", bundle), "")
    finally:
        path.write_bytes(whole)
        manifest.write_text(stated)


def table(kind: str) -> bytes:
    """The items as a file of some format."""
    frame = pl.DataFrame(ITEMS)
    if kind == "parquet":
        target = BytesIO()
        frame.write_parquet(target)
        return target.getvalue()
    text = frame.write_csv() if kind == "csv" else frame.write_ndjson()
    return text.encode()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("reader", ["records", "domain"])
@given(changes=mutations)
@fuzzing
def test_a_broken_table_is_refused_or_read(
    opener: Opener, tmp_path: Path, *, reader: str, kind: str, packed: bool, changes: list[Mutation]
) -> None:
    content = gzip.compress(table(kind), mtime=0) if packed else table(kind)
    path = tmp_path / (f"items.{kind}.gz" if packed else f"items.{kind}")
    path.write_bytes(mutated(content, changes))
    check(opener.ask(reader, path), str(path))
