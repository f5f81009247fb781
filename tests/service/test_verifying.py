"""`unitok verify` on the tiny bundle, whole and damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from service.bundle.files import hash_files
from service.bundle.sample import SAMPLE, ProvenSample
from service.cli.main import build
from service.errors import BundleError, ModelError, UnitokError
from service.verifying import verify


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def seal(folder: Path) -> None:
    """Make the manifest's hashes those of the files as they are now."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = hash_files(folder)
    path.write_text(json.dumps(manifest))


def test_a_whole_bundle_passes_every_check(tiny_bundle: Path) -> None:
    checks = {check.name: check.what for check in verify(tiny_bundle, threads=1)}
    assert list(checks) == [
        "hashes",
        "signatures",
        "catalogue",
        "text encoder",
        "semantic IDs",
        "recommender recommender",
        "constraint",
    ]
    assert checks["catalogue"].startswith("300 items in 3 domains")
    assert checks["semantic IDs"] == "codes and experts of 64 stored items are equal"
    assert checks["recommender recommender"].startswith("18 ranked lists of 10 are equal")
    assert checks["constraint"].startswith("360 results")


def test_no_torch_is_needed(tiny_bundle: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from service.verifying import verify\n"
        f"assert list(verify(Path({str(tiny_bundle)!r}), threads=1))\n"
        "assert not {'torch', 'transformers', 'training', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("name", ["recommender.onnx", "tokenizer.json", "catalogue/items.parquet", SAMPLE])
def test_an_altered_file_is_named(bundle: Path, name: str) -> None:
    with (bundle / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=f"{name}.*the file was altered"):
        list(verify(bundle, threads=1))


def change_codes(sample: ProvenSample) -> ProvenSample:
    codes = sample.codes.copy()
    codes[3, 0] = (codes[3, 0] + 1) % 16
    return replace(sample, codes=codes)


def change_experts(sample: ProvenSample) -> ProvenSample:
    return replace(sample, experts=(sample.experts + 1) % 3)


def change_vectors(sample: ProvenSample) -> ProvenSample:
    return replace(sample, text_vector=sample.text_vector[::-1].copy())


def change_scores(sample: ProvenSample) -> ProvenSample:
    return replace(sample, log_prob=sample.log_prob - np.float32(0.01))


def change_order(sample: ProvenSample) -> ProvenSample:
    return replace(sample, tokens=sample.tokens[:, ::-1].copy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_codes, "codes: 1 of 64 stored items differ; item 3"),
        (change_experts, "experts: 64 of 64 stored items differ"),
        (change_vectors, "sentence_embedding: differs from the proven vectors"),
        (change_scores, "recommender, stored history 0: log_prob: at rank"),
        (change_order, "recommender, stored history 0: semantic_id: at rank"),
    ],
)
def test_an_answer_that_was_not_proven_names_the_tensor(
    bundle: Path, change: Callable[[ProvenSample], ProvenSample], message: str
) -> None:
    change(ProvenSample.load(bundle / SAMPLE)).save(bundle)
    seal(bundle)
    with pytest.raises(ModelError, match=message):
        list(verify(bundle, threads=1))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("text_row", lambda rows: rows + 300, r"holds a row that is not within 0\.\.299 of the catalogue"),
        ("text_row", lambda rows: rows - 300, r"holds a row that is not within 0\.\.299 of the catalogue"),
        ("text_row", lambda rows: rows[:, None], r"is int64 \[32, 1\], but must be int64 \[m\]"),
        ("text_row", lambda rows: rows.astype(np.float64), r"is float64 \[32\], but must be int64 \[m\]"),
        ("text_vector", lambda vectors: vectors[:, :5], "has D = 5, but must have 24"),
        ("text_vector", lambda vectors: vectors[:5], "has m = 5, but must have 32"),
        ("embedding", lambda vectors: vectors[:0], "has n = 0, so nothing was proven"),
        ("codes", lambda codes: codes[:5], "has n = 5, but must have 64"),
        ("codes", lambda codes: codes[:, :2], "has L = 2, but must have 3"),
        ("experts", lambda experts: experts[:, :0], "has N = 0, but must have 1"),
        ("recommender", lambda names: np.where(np.arange(len(names)), names, "other"), "holds 'other', but the bundle"),
        ("domain", lambda names: np.where(np.arange(len(names)), names, "other"), "holds 'other', but the bundle has"),
        ("domain", lambda names: np.zeros(len(names)), r"is float64 \[18\], but must be str_ \[H\]"),
        ("history", lambda tokens: tokens[:, 0], r"is int64 \[18\], but must be int64 \[H, S\]"),
        ("history", lambda tokens: tokens + 10**6, r"holds a token of 'recommender' that is not within 0\.\."),
        ("history_mask", lambda mask: mask[:3], "has H = 3, but must have 18"),
        ("tokens", lambda tokens: tokens[:, :, :3], "has depth = 3, but must have 5"),
        ("tokens", lambda tokens: tokens[:, :0], "has W = 0, so nothing was proven"),
        ("log_prob", lambda scores: scores[:, :2], "has W = 2, but must have 10"),
    ],
)
def test_an_array_that_does_not_fit_the_bundle_is_named(
    bundle: Path, name: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    sample = ProvenSample.load(bundle / SAMPLE)
    changed: dict[str, Any] = {name: change(getattr(sample, name))}
    replace(sample, **changed).save(bundle)
    seal(bundle)
    with pytest.raises(BundleError, match=rf"verification\.npz: {name} {message}"):
        list(verify(bundle, threads=1))


def test_a_recommender_of_which_no_list_was_proven_is_named(bundle: Path) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["recommenders"].append(manifest["recommenders"][0] | {"name": "further"})
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"verification\.npz: recommender holds no 'further', so no ranked list"):
        list(verify(bundle, threads=1))


def altered(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Make the manifest say something else."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("suffixes", [15, 8])
def test_fewer_suffixes_than_a_recommender_was_trained_with_are_refused(
    bundle: Path, suffixes: int, capfd: pytest.CaptureFixture[str]
) -> None:
    altered(bundle, lambda manifest: manifest["layout"].update(suffixes=suffixes))
    with pytest.raises(
        BundleError, match=r"recommender\.onnx: has more than the \d+ tokens .* trained with more suffixes"
    ):
        list(verify(bundle, threads=1))
    assert not capfd.readouterr().err


def test_a_whole_bundle_is_verified_without_a_word_on_what_has_to_fail(
    tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert list(verify(tiny_bundle, threads=1))
    assert not capfd.readouterr().err


def test_fewer_items_than_a_recommender_was_proven_with_are_refused(bundle: Path) -> None:
    history = ProvenSample.load(bundle / SAMPLE).history
    longest = int(((history >= 3) & (history < 3 + 16)).sum(axis=1).max())  # first codes
    altered(bundle, lambda manifest: manifest["recommenders"][0].update(max_history=longest))
    assert list(verify(bundle, threads=1))
    altered(bundle, lambda manifest: manifest["recommenders"][0].update(max_history=longest - 1))
    said = rf"history holds {longest} items for 'recommender', but the manifest's max_history is {longest - 1}"
    with pytest.raises(BundleError, match=said):
        list(verify(bundle, threads=1))


def test_levels_that_do_not_sum_to_the_score_are_said(bundle: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = bundle / "recommender.onnx"
    model = onnx.load(path)
    (last,) = (node for node in model.graph.node if "log_prob_by_level" in node.output)
    last.op_type = "Neg"
    onnx.save(model, path)
    seal(bundle)
    with pytest.raises(ModelError, match="recommender: log_prob_by_level: its sum differs from log_prob by"):
        list(verify(bundle, threads=1))


@pytest.mark.parametrize("content", [None, b"not a zip file"])
def test_a_missing_or_broken_sample_is_said(bundle: Path, content: bytes | None) -> None:
    (bundle / SAMPLE).unlink()
    if content is not None:
        (bundle / SAMPLE).write_bytes(content)
    seal(bundle)
    with pytest.raises(BundleError, match=SAMPLE):
        list(verify(bundle, threads=1))


def test_objects_in_the_sample_are_not_unpickled(bundle: Path) -> None:
    np.savez(bundle / SAMPLE, text_row=np.asarray([object()]))
    seal(bundle)
    with pytest.raises(BundleError, match="not a file of proven samples"):
        list(verify(bundle, threads=1))


def test_the_command_prints_a_line_a_check_and_fails_with_one(bundle: Path) -> None:
    done = CliRunner().invoke(build(), ["verify", str(bundle), "--threads", "1"])
    assert done.exit_code == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()][:2] == ["ok  hashes", "ok  signatures"]
    (bundle / "recommender.onnx").unlink()
    failed = CliRunner().invoke(build(), ["verify", str(bundle)])
    assert isinstance(failed.exception, UnitokError)
    assert "recommender.onnx: named in manifest.json but missing" in str(failed.exception)
