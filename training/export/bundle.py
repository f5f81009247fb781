"""The stage `export`: writes a bundle into a temporary folder, runs and proves it, and only then renames it in place.

Knows nothing of the command line.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from service.bundle.files import Bundle, hash_files, write_manifest
from service.bundle.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    CataloguePart,
    Layout,
    Manifest,
    TextEncoderPart,
)
from service.durable import make_folder, sync
from service.engine.alignment import FILE as ALIGNMENTS
from service.engine.engine import Engine
from service.errors import ConfigError
from service.id_columns import to_lists
from service.progress import progress
from training.encoders.folder import MODEL, TOKENIZER
from training.export.item_tokenizer import export_item_tokenizer
from training.export.proof import prove
from training.export.sources import Folders, Sources, open_sources
from training.graphs.recommender import GRAPH, export_recommender, recommender_part
from training.processor import use_processor


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export and its proof.

    Attributes
    ----------
    name, generation : of the bundle; together they identify its semantic IDs everywhere
    description : for humans
    domains : of the catalogue; None: all that have IDs
    histories, beams : number of real histories whose ranked lists are proven, and the beam width of these searches
    gpu : whether recommenders are laid out for a GPU
    half : implies `gpu`, with recommenders in half precision
    replace : whether an existing bundle may be replaced
    threads : of the proof; 0 takes every core
    """

    name: str
    generation: int = 1
    description: str = ""
    domains: tuple[str, ...] | None = None
    histories: int = 200
    beams: int = 20
    gpu: bool = False
    half: bool = False
    replace: bool = False
    threads: int = 0


def export_bundle(folders: Folders, out: Path, options: ExportOptions) -> dict[str, Any]:
    """Write a bundle; `out` is created, complete, only after everything is proven.

    Returns
    -------
    figures of the proof and sizes, as in the manifest

    Raises
    ------
    ConfigError : a folder is not finished, two do not fit each other, or `out` exists and may not be replaced
    ModelError : results of the bundle differ from those of the networks; names the tensor and the greatest difference
    """
    if out.exists() and not (options.replace and (out / MANIFEST).is_file()):
        raise ConfigError(f"{out}: exists already; choose another name; with --replace a bundle there is replaced")
    use_processor(options.threads)
    sources = open_sources(folders, options.domains)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    manifest = _write_parts(partial, sources, options)
    write_manifest(partial, manifest)
    engine = Engine.open(Bundle.open(partial), "cpu", options.threads)
    proof = prove(engine, sources, options.histories, options.beams, half=options.half, threads=options.threads)
    proof.sample.save(partial)
    files = hash_files(partial)
    sizes = {name: (partial / name).stat().st_size for name in files}
    figures = {
        "laid_out_for": "gpu" if options.gpu or options.half else "processor",
        "proof": proof.figures,
        "bytes": sum(sizes.values()),
        "file_bytes": sizes,
    }
    item_tokenizer = manifest.item_tokenizer.model_copy(update={"quantization_error": proof.quantization_error})
    proven = {"files": files, "figures": figures, "item_tokenizer": item_tokenizer}
    write_manifest(partial, manifest.model_copy(update=proven))
    Bundle.open(partial)
    _put_in_place(partial, out)
    return {"bundle": options.name, "generation": options.generation, "items": manifest.catalogue.items, **figures}


def _write_parts(folder: Path, sources: Sources, options: ExportOptions) -> Manifest:
    """Write every file except the proven sample; returns a manifest without figures."""
    with progress("writing the bundle", 3 + len(sources.recommenders)) as advance:
        for name in (MODEL, TOKENIZER):
            shutil.copyfile(sources.encoder_folder / name, folder / name)
        advance(1, "item tokenizer")
        item_tokenizer = export_item_tokenizer(sources.tokenizer, folder / "item_tokenizer.onnx")
        if sources.alignments.by_domain:
            sources.alignments.save(folder / ALIGNMENTS)
            item_tokenizer = item_tokenizer.model_copy(update={"alignments": ALIGNMENTS})
        advance(1, "recommender")
        recommenders = []
        for name, trained in sources.recommenders.items():
            model = GRAPH if len(sources.recommenders) == 1 else f"recommender_{name}.onnx"
            path = folder / model
            export_recommender(trained.model, trained.layout, path, half=options.half, for_gpu=options.gpu)
            recommenders.append(recommender_part(trained, name, model))
            advance(1, "catalogue")
        catalogue = CataloguePart(items=sum(len(domain.values) for domain in sources.domains))
        _write_catalogue(folder / catalogue.path, sources)
        advance(1)
    layout, card = sources.layout, sources.encoder
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=options.name,
        generation=options.generation,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        description=options.description,
        layout=Layout(**{name: getattr(layout, name) for name in Layout.model_fields}),
        text_encoder=TextEncoderPart(max_tokens=card.max_tokens, recipe=card.recipe, source=card.source),
        item_tokenizer=item_tokenizer,
        recommenders=recommenders,
        catalogue=catalogue,
        files=hash_files(folder),
    )


def _write_catalogue(path: Path, sources: Sources) -> None:
    """Write items and IDs, domain by domain, in order of item rows."""
    levels = sources.layout.levels
    frames = [
        pl.DataFrame(
            {
                "domain": pl.Series([domain.data.name] * len(domain.values), dtype=pl.String),
                "item_id": domain.data.items["item_id"],
                "title": domain.data.items["title"],
                "codes": to_lists(domain.values[:, :levels]),
                "experts": to_lists(domain.values[:, levels:-1]),
                "suffix": pl.Series(domain.values[:, -1], dtype=pl.Int32),
            }
        )
        for domain in sources.domains
    ]
    path.parent.mkdir(parents=True)
    pl.concat(frames).write_parquet(path)


def _put_in_place(partial: Path, out: Path) -> None:
    """Sync `partial` to disk and rename it to `out`; an old bundle is moved away just before, and deleted after."""
    for path in (*partial.rglob("*"), partial):
        sync(path)
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)
