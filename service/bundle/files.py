"""Opens a bundle on disk, and refuses it if a file is missing or altered.

Also the only place that writes a manifest, so that reading and writing stay consistent. Independent of ONNX.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from service.bundle.manifest import MANIFEST, Manifest
from service.errors import BundleError


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its verified manifest."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read the manifest and check the hash of every file it names.

        Raises
        ------
        BundleError : no manifest, a key or value that the schema does not allow, a file missing or altered
        """
        manifest = read_manifest(folder)
        for name, expected in manifest.files.items():
            file = folder / name
            if not file.is_file():
                raise BundleError(f"{file}: named in {MANIFEST} but missing")
            found = sha256_of(file)
            if found != expected:
                raise BundleError(f"{file}: SHA-256 is {found}, but {MANIFEST} says {expected}; the file was altered")
        return cls(folder, manifest)

    def path(self, name: str) -> Path:
        """Path of a file of the bundle; the name must be in the manifest."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder / name}: not listed in {MANIFEST}")
        return self.folder / name


def read_manifest(folder: Path) -> Manifest:
    """Read only the manifest, without checking the other files: enough to identify a bundle.

    Raises
    ------
    BundleError : no manifest, a key or value that the schema does not allow
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{path}: no such file; a bundle is a folder with a {MANIFEST}") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'manifest'}: {problem['msg']}" for problem in error.errors()
        )
        raise BundleError(f"{path}: {problems}") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; its `files` must already hold the hashes (see `hash_files`)."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def hash_files(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file of a bundle's folder except the manifest."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
