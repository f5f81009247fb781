"""`unitok serve`: the HTTP service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.bundle.files import Bundle


def serve(
    *,
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of the bundle to serve.", show_default="models/sample")
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a further generation of the bundle, to be served beside it; may be repeated."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Catalogue store: `embedded:FOLDER`, or `redis://...` shared by replicas. A password is better put "
            "in UNITOK_STORE than on a command line.",
            show_default="embedded:var/catalogue",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.", show_default="8000")] = None,
    provider: Annotated[
        str | None, typer.Option(help="`cpu` or `cuda`; an error if it is not installed.", show_default="cpu")
    ] = None,
) -> None:
    """Serve a bundle over HTTP: tokenize, recommend, and a live catalogue.

    Every option can also be set in the environment, as `UNITOK_...`, and so can every limit. A new store is filled with
    the bundle's own catalogue first. SIGTERM finishes what runs, then exits.
    """
    from contextlib import ExitStack

    from service.http.app import create_app
    from service.http.generations import Generations
    from service.http.serving import DrainingServer
    from service.logs import configure_logs
    from service.opening import opened, warn_unless_current
    from service.settings import read_settings

    settings = read_settings(
        bundle=bundle, beside=tuple(beside) if beside else None, store=store, host=host, port=port, provider=provider
    )
    configure_logs(settings.log_level, settings.log_format)
    with ExitStack() as stack:
        folders = (settings.bundle, *settings.beside)
        parts = [stack.enter_context(opened(settings.model_copy(update={"bundle": folder}))) for folder in folders]
        warn_unless_current(settings, parts)
        apps = [create_app(settings, engine=part.engine, catalogue=part.catalogue) for part in parts]

        def announce(address: str) -> None:
            typer.echo(greeting(address, parts[0].engine.bundle))

        app = apps[0] if len(apps) == 1 else Generations(apps, settings.refresh_seconds)
        DrainingServer(app, settings, announce).run()


def greeting(address: str, bundle: Bundle) -> str:
    """Text with the address and two example curl commands for this bundle."""
    import json

    item = first_item(bundle)
    tokenize = {"items": [{"domain": item["domain"], "title": item["title"] or "An item"}]}
    known = {"domain": item["domain"], "item_id": item["item_id"]}
    recommend = {"history": [known], "k": 5}
    lines = [f"Serving {bundle.folder} on {address} (interactive documentation: {address}/docs)", ""]
    for path, body in (("/tokenize", tokenize), ("/recommend", recommend)):
        quoted = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
        lines.append(f"  curl -s {address}{path} -H 'Content-Type: application/json' -d '{quoted}'")
    return "\n".join([*lines, ""])


def first_item(bundle: Bundle) -> dict[str, str | None]:
    """An example item of the bundle: a well-known film if present, else the first item with a title, else the first."""
    import polars as pl

    path = bundle.path(bundle.manifest.catalogue.path)
    items = pl.scan_parquet(path, glob=False).select("domain", "item_id", "title")
    known = pl.col("title").str.starts_with("Toy Story").fill_null(value=False)
    found = items.sort(known, pl.col("title").is_not_null(), descending=True, maintain_order=True).head(1).collect()
    return found.row(0, named=True) if len(found) else {"domain": "items", "item_id": "first", "title": "An item"}
