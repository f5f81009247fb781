"""Saves flat arrays to a folder, and opens them by memory map after checking hashes. Independent of their contents.

    FOLDER/manifest.json    version, description, and the hash, shape and type of each array; replaced atomically
    FOLDER/TOKEN/NAME.npy   the arrays that the manifest names

Saving again writes a new subfolder and then replaces the manifest, so a reader finds either all the old arrays or all
the new ones. Pickle is never used.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.durable import put_in_place, sync
from service.errors import SavedIndexError

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
OURS = re.compile(r"[0-9a-f]{16}|manifest\.json(\.[0-9a-f]{8})?")
"""File names in a folder of saved arrays; names with a suffix after `manifest.json` are left by killed processes."""
CHUNK_BYTES = 1 << 22
MADV_POPULATE_READ = 22
"""A constant of Linux that Python's `mmap` does not define."""

Arrays = Mapping[str, NDArray[Any]]


def save_arrays(folder: Path, arrays: Arrays, about: Mapping[str, Any]) -> None:
    """Replace the saved arrays of a folder; `about` describes them in JSON values.

    Raises
    ------
    OSError : the disk is full, or the folder is not writable; it still holds all the old arrays, or all the new ones
    SavedIndexError : the folder holds other files too, such as a bundle's; nothing is written
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(entry.name for entry in folder.iterdir()):
        if not OURS.fullmatch(name):
            raise SavedIndexError(f"{folder}: holds {name}, which no saved index does, so nothing is saved here")
    token = secrets.token_hex(8)
    inside = folder / token
    inside.mkdir()
    try:
        described = {name: _write(inside / f"{name}.npy", array) for name, array in arrays.items()}
        sync(inside)
        manifest = {"version": FORMAT_VERSION, "about": dict(about), "folder": token, "arrays": described}
        _replace(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    except BaseException:
        # The disk may fail after the manifest was renamed.
        if not (folder / MANIFEST).exists() or token not in (folder / MANIFEST).read_text():
            shutil.rmtree(inside, ignore_errors=True)
        raise
    for other in folder.iterdir():
        if other.is_dir() and other.name != token:
            shutil.rmtree(other, ignore_errors=True)
        elif other.name.startswith(f"{MANIFEST}."):
            other.unlink(missing_ok=True)


def load_arrays(folder: Path, about: Mapping[str, Any]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Load saved arrays, memory-mapped copy-on-write; returns them and their description.

    Parameters
    ----------
    about : values that the description must contain; it may contain more

    Raises
    ------
    SavedIndexError : nothing is saved here, a file is missing or altered, or the description differs from `about`
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        version, said, described = manifest["version"], dict(manifest["about"]), dict(manifest["arrays"])
        inside = folder / Path(manifest["folder"]).name
    except FileNotFoundError:
        raise SavedIndexError(f"{folder}: nothing is saved here") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SavedIndexError(f"{path}: is not a manifest: {type(error).__name__}: {error}") from None
    if version != FORMAT_VERSION:
        raise SavedIndexError(f"{path}: version is {version!r}, but this program reads {FORMAT_VERSION}")
    for name, value in about.items():
        if said.get(name) != value:
            raise SavedIndexError(f"{path}: {name} is {said.get(name)!r}, but {value!r} is wanted")
    paths = {name: inside / f"{Path(name).name}.npy" for name in described}
    with ThreadPoolExecutor(max_workers=2) as pool:
        for _ in pool.map(lambda name: _check(paths[name], described[name]), described):
            pass
    # Sequentially: NumPy parses headers with Python's own parser, which in CPython 3.11 fails now and then if two
    # threads run it at once.
    return {name: _map(paths[name], described[name]) for name in described}, said


def _write(path: Path, array: NDArray[Any]) -> dict[str, Any]:
    with path.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    sync(path)
    return {"sha256": _sha256(path), "shape": list(array.shape), "dtype": array.dtype.str}


def _check(path: Path, described: Mapping[str, Any]) -> None:
    """Refuse a file whose hash differs from the manifest's."""
    try:
        same = _sha256(path) == described["sha256"]
    except (OSError, KeyError, TypeError) as error:
        raise SavedIndexError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
    if not same:
        raise SavedIndexError(f"{path}: is not what was saved: its SHA-256 differs from the manifest's")


def _map(path: Path, described: Mapping[str, Any]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SavedIndexError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
    if list(array.shape) != described.get("shape") or array.dtype.str != described.get("dtype"):
        raise SavedIndexError(
            f"{path}: is {array.dtype.str} {list(array.shape)}, but the manifest says "
            f"{described.get('dtype')} {described.get('shape')}"
        )
    _touch(array)
    # As a plain array: slices of NumPy's memmap subclass are slower.
    return np.asarray(array)


def _touch(array: NDArray[Any]) -> None:
    """Map all pages now (the hash check has just read them), so that requests take no page faults: a search among ten
    million items touches about a hundred pages that were not touched before."""
    if isinstance(array.base, mmap.mmap):
        with suppress(OSError):  # Linux before 5.14 does not know it.
            array.base.madvise(MADV_POPULATE_READ)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        beside.write_bytes(content)
        put_in_place(beside, path)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()
