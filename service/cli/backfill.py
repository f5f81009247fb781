"""`unitok backfill`: registers the items of a file in the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.backfill.batches import Encoding
    from service.backfill.job import BackfillJob
    from service.bundle.files import Bundle
    from service.settings import Settings

ENGINES = ("local", "ray")


def backfill(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="File of items: Parquet, CSV or JSON lines (the last two also gzipped), of any size. Columns: "
            "`item_id`; `title`, `brand`, `categories` (a list, or one string with | between), `description`, `price`; "
            "or `embedding` (a list of numbers) in place of text.",
        ),
    ],
    domain: Annotated[str, typer.Option(help="Domain that the items belong to; a new one needs no retraining.")],
    *,
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of the bundle.", show_default="UNITOK_BUNDLE, else models/sample")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Catalogue store to fill: `embedded:FOLDER` or `redis://...`. A password is better put in "
            "UNITOK_STORE than on a command line.",
            show_default="UNITOK_STORE, else embedded:var/catalogue",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--format", help="`parquet`, `csv` or `jsonl`.", show_default="by the file's name"),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="Where the file names a column otherwise; repeatable."),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, max=10_000, help="Items encoded and stored at a time, and lost time after a kill.")
    ] = 512,
    provider: Annotated[
        str | None, typer.Option(help="`cpu` or `cuda`; an error if it is not installed.", show_default="cpu")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count rows that are wrong and go on, in place of stopping at the first.")
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="Where items are encoded: `local`, in this process, or `ray`, in processes on a Ray cluster (extra "
            "`ray`). Both give the same IDs, and each resumes where the other stopped."
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Ray cluster to use, which this machine is part of.",
            show_default="UNITOK_RAY_ADDRESS, else one is started on this machine",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that encode with `--engine ray`.", show_default="one a core"),
    ] = None,
) -> None:
    """Tokenize the items of a file and register them in the catalogue.

    Running services that share the store recommend them moments later. Progress is kept in the store after each
    acknowledged batch: a killed run resumes when it is started again on the same file, and a finished one may
    be repeated; an item that is there already keeps its semantic ID. Ends with one line of JSON.

    For example: `unitok backfill products.csv --domain shop --map item_id=sku --map title=name`
    """
    import json
    import re
    from contextlib import closing

    from service.backfill.filling import describe, run_backfill
    from service.backfill.job import BackfillJob
    from service.backfill.reading import FileFormat, count_rows, format_of
    from service.backfill.report import Tally
    from service.backfill.rows import read_mapping
    from service.bundle.files import Bundle
    from service.catalogue.seeding import open_catalogue
    from service.errors import ConfigError, InvalidInput
    from service.limits import DOMAIN_PATTERN, DOMAIN_RULE
    from service.progress import progress
    from service.settings import read_settings

    settings = read_settings(bundle=bundle, store=store, provider=provider, ray_address=ray_address)
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: must be one of {', '.join(ENGINES)}")
    if engine != "ray" and (ray_address is not None or workers is not None):
        raise ConfigError("--ray-address and --workers are for --engine ray")
    if not re.fullmatch(DOMAIN_PATTERN, domain):
        raise InvalidInput(f"--domain {domain!r}: {DOMAIN_RULE}")
    if kind is not None and kind not in set(FileFormat):
        raise ConfigError(f"--format {kind}: must be one of {', '.join(FileFormat)}")
    job = BackfillJob(
        path=file,
        kind=format_of(file) if kind is None else FileFormat(kind),
        columns=read_mapping(mapping or []),
        renamed=frozenset(pair.partition("=")[0] for pair in mapping or []),
        domain=domain,
        batch=batch,
        skip_bad=skip_bad,
    )
    job.check_columns()
    opened = Bundle.open(settings.bundle)
    with (
        _encoding(engine, job, opened, settings, workers) as encoding,
        closing(open_catalogue(settings.store.get_secret_value(), opened)) as catalogue,
        progress(f"backfill {file.name}", count_rows(file, job.kind)) as bar,
    ):

        def advance(tally: Tally, records: int) -> None:
            rate = tally.records / tally.seconds if tally.seconds else 0.0
            bar(records, f"{rate:.0f} items/s, {sum(tally.rejected.values())} rejected")

        tally = run_backfill(job, catalogue, encoding, advance)
        typer.echo(json.dumps(tally.report(**describe(job, catalogue))))


@contextmanager
def _encoding(
    engine: str, job: BackfillJob, bundle: Bundle, settings: Settings, workers: int | None
) -> Iterator[Encoding]:
    """The encoding of the file by the named engine, `local` or Ray."""
    from service.engine.sessions import Runtime
    from service.errors import ConfigError

    runtime = Runtime(settings.provider, settings.threads)
    if engine == "local":
        from service.backfill.batches import encode_here
        from service.engine.engine import ItemParts

        parts = ItemParts.open(bundle, runtime)
        yield encode_here(job, parts.text_encoder, parts.item_tokenizer)
        return
    try:
        from service.backfill.ray_data import encode_on_ray, ray_cluster
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--engine ray: needs the extra 'ray' ({error}); in a checkout: pip install --constraint constraints.txt "
            "'.[cpu,ray]'"
        ) from None
    cores = None if workers is None else workers * max(1, settings.threads)
    with ray_cluster(settings.ray_address, cores):
        yield encode_on_ray(job, bundle, runtime, workers)
