"""`unitok backfill`: a file of items into the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
) -> None:
    """Tokenize the items of a file and register them in the catalogue.

    Running services that share the store recommend them moments later. Progress is kept in the store after each
    acknowledged batch: a run that was killed goes on when it is started again on the same file, and a finished one may
    be repeated; an item that is there already keeps its semantic ID. Ends with one line of JSON.

    For example: `unitok backfill products.csv --domain shop --map item_id=sku --map title=name`
    """
    import json
    import re
    from contextlib import closing

    from service.backfill.job import BackfillJob, describe, run_backfill
    from service.backfill.reading import FileFormat, count_rows, format_of
    from service.backfill.report import Tally
    from service.backfill.rows import read_mapping
    from service.bundle.files import Bundle
    from service.catalogue.opening import open_catalogue
    from service.engine.item_tokenizer import ItemTokenizer
    from service.engine.sessions import Runtime
    from service.engine.text_encoder import TextEncoder
    from service.errors import ConfigError, InvalidInput
    from service.limits import DOMAIN_PATTERN
    from service.progress import progress
    from service.settings import read_settings

    settings = read_settings(bundle=bundle, store=store, provider=provider)
    if not re.fullmatch(DOMAIN_PATTERN, domain):
        raise InvalidInput(f"--domain {domain!r}: must be up to 64 letters, digits, _ . or -, the first no sign")
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
    # The recommender is not needed here, and is the part that takes long to open.
    manifest, runtime = opened.manifest, Runtime(settings.provider, settings.threads)
    text = manifest.text_encoder
    text_encoder = TextEncoder.open(opened.path(text.model), opened.path(text.tokenizer), text.max_tokens, runtime)
    item_tokenizer = ItemTokenizer.open(opened.path(manifest.item_tokenizer.model), manifest.item_tokenizer, runtime)
    with (
        closing(open_catalogue(settings.store.get_secret_value(), opened)) as catalogue,
        progress(f"backfill {file.name}", count_rows(file, job.kind)) as bar,
    ):

        def advance(tally: Tally, records: int) -> None:
            rate = tally.records / tally.seconds if tally.seconds else 0.0
            bar(records, f"{rate:.0f} items/s, {sum(tally.rejected.values())} rejected")

        tally = run_backfill(job, catalogue, text_encoder, item_tokenizer, advance)
        typer.echo(json.dumps(tally.report(**describe(job, catalogue))))
