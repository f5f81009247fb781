"""`unitok catalogue`: show, verify, repair, export and import the contents of a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from service.bundle.files import Bundle
    from service.catalogue.checking import IdsOf
    from service.catalogue.store import CatalogueStore
    from service.catalogue.transfer import Source
    from service.settings import Settings

BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", help="Folder of the bundle.", show_default="UNITOK_BUNDLE, else models/sample"),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Catalogue store: `embedded:FOLDER` or `redis://...`. A password is better put in UNITOK_STORE than on a "
        "command line.",
        show_default="UNITOK_STORE, else embedded:var/catalogue",
    ),
]


@dataclass(frozen=True)
class Opened:
    """A bundle, and the catalogue of its generation in a store."""

    settings: Settings
    bundle: Bundle
    catalogue: CatalogueStore

    @property
    def source(self) -> Source:
        """Name and generation of the bundle, as an export records them."""
        from service.catalogue.transfer import Source

        return Source(self.bundle.manifest.name, self.bundle.manifest.generation)


@contextmanager
def opened(bundle: Path | None, store: str | None, *, new: bool = False) -> Iterator[Opened]:
    """Open the bundle and store of options and settings; close the store at the end. `new`: it may not exist yet."""
    from contextlib import closing

    from service.bundle.files import Bundle
    from service.catalogue.opening import open_bundle_store, open_existing_store
    from service.settings import read_settings

    settings = read_settings(bundle=bundle, store=store)
    found = Bundle.open(settings.bundle)
    open_one = open_bundle_store if new else open_existing_store
    with closing(open_one(settings.store.get_secret_value(), found)) as catalogue:
        yield Opened(settings, found, catalogue)


def build() -> typer.Typer:
    """Assemble the subcommands."""
    app = typer.Typer(
        help="Inspect, check, copy and mend the catalogue in a store, and upgrade it to another tokenizer.",
        no_args_is_help=True,
    )
    for command in (status, verify, repair):
        app.command(command.__name__)(command)
    app.command("export")(export_items)
    app.command("import")(import_items)
    return app


def status(*, store: StoreOption = None) -> None:
    """Print what a store holds, as JSON: each bundle and ID generation, its domains, items, change log and bytes.

    `made_current` counts the switches of a bundle: the generation with the highest number is the current one.

    A fingerprint is equal in two stores if they hold the same items with the same IDs. Bytes are the file's (embedded)
    or about what the server says that the keys take (Redis).
    """
    from contextlib import closing

    from service.catalogue.current import turn
    from service.catalogue.opening import open_store, stored_generations
    from service.settings import read_settings

    url = read_settings(store=store).store.get_secret_value()
    found: list[dict[str, Any]] = []
    for generation in stored_generations(url):
        if generation.dropped:
            found.append({"bundle": generation.bundle, "generation": generation.number, "dropped": True})
            continue
        with closing(
            open_store(url, generation.bundle, generation.number, generation.layout, looking=True)
        ) as catalogue:
            said, made_current = catalogue.status(), turn(catalogue)
        found.append(
            {
                "bundle": generation.bundle,
                "generation": generation.number,
                "store": said.where,
                "complete": said.seeded,
                "made_current": made_current,
                "domains": {
                    domain: {"items": items, "fingerprint": f"{said.fingerprints.get(domain, 0):016x}"}
                    for domain, items in sorted(said.items.items())
                },
                "items": sum(said.items.values()),
                "latest_change": said.head,
                "log_length": said.log_length,
                "bytes": said.bytes,
            }
        )
    print_json(found)


def verify(
    *,
    bundle: BundleOption = None,
    store: StoreOption = None,
    content: Annotated[
        bool,
        typer.Option(
            help="Also tokenize the stored contents anew and count the items that would get other codes today. Not a "
            "fault: an item keeps its ID when its content is renewed, or was registered by an embedding."
        ),
    ] = False,
) -> None:
    """Check that a catalogue keeps its promises; ends with status 1 if it does not.

    Every ID is one of the layout and names one item; suffix counters are above every suffix that was given away; counts
    and fingerprints are those of the items; the change log is without gaps and names only items that are there. Prints
    what was found as JSON. Services may go on reading; if items are registered meanwhile, it starts over, and gives up
    after three times.
    """
    from service.catalogue.checking import examine

    with opened(bundle, store) as on:
        complete = on.catalogue.seeded()
        found = examine(on.catalogue, ids_of_bundle(on.bundle, on.settings) if content else None)
    report: dict[str, Any] = {
        "complete": complete,
        "items": sum(found.totals.items.values()),
        "deleted": found.deleted,
        "findings": [{"what": finding.what, "repairable": finding.mendable} for finding in found.findings],
    }
    if content:
        report["content"] = {"compared": found.compared, "other_codes_today": found.other_id}
    print_json(report)
    if found.findings:
        raise typer.Exit(1)


def repair(*, bundle: BundleOption = None, store: StoreOption = None) -> None:
    """Set right what the items themselves prove: counts, fingerprints, suffix counters; items are never changed.

    Prints as JSON what was found and whether it was repaired; ends with status 1 if something is left, such as an ID
    that names two items.
    """
    from service.catalogue.checking import repair as mend

    with opened(bundle, store) as on:
        found = mend(on.catalogue)
    print_json([{"what": finding.what, "repaired": finding.mendable} for finding in found.findings])
    if not all(finding.mendable for finding in found.findings):
        raise typer.Exit(1)


def export_items(
    file: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Parquet file to write; it appears when complete.")],
    *,
    bundle: BundleOption = None,
    store: StoreOption = None,
) -> None:
    """Write a catalogue to a Parquet file: every item with its ID, title and content, deleted ones marked.

    The columns of a bundle's own catalogue, and `bundle`, `generation`, `content`, `live`. Prints one line of JSON.

    For example: `unitok catalogue export backup.parquet --store redis://...`
    """
    from service.catalogue.transfer import export_catalogue
    from service.progress import progress

    with opened(bundle, store) as on, progress("export", None) as advance:
        source = on.source
        rows = export_catalogue(on.catalogue, source, file, advance)
    print_json(
        {"file": str(file), "bundle": source.bundle, "generation": source.generation, "items": rows}, indent=None
    )


def import_items(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help="Parquet file that `unitok catalogue export` wrote.")],
    *,
    bundle: BundleOption = None,
    store: StoreOption = None,
) -> None:
    """Put an exported catalogue into a store, each item with the ID it was published under, deleted ones as such.

    For an emptied store, or a new one; what a store knows already it keeps, so repeating an import changes nothing. A
    row that contradicts the store stops it before anything is stored, naming row and field. Afterwards an empty store
    is completed with the bundle's own catalogue; `left_out` counts items of it whose IDs the file gives to others.
    Prints one line of JSON.

    For example: `unitok catalogue import backup.parquet --store redis://...`
    """
    from dataclasses import asdict

    from service.catalogue.seeding import complete_from
    from service.catalogue.transfer import import_catalogue
    from service.progress import progress

    with opened(bundle, store, new=True) as on, progress("import", None) as advance:
        done = import_catalogue(on.catalogue, on.source, file, advance)
        left_out = 0 if on.catalogue.seeded() else complete_from(on.bundle, on.catalogue)
    print_json({**asdict(done), "left_out": left_out}, indent=None)


def ids_of_bundle(bundle: Bundle, settings: Settings) -> IdsOf:
    """A function from contents to codes and experts, computed with the bundle's networks."""
    import numpy as np

    from service.engine.engine import ItemParts
    from service.engine.sessions import Runtime
    from service.items import compose_texts

    parts = ItemParts.open(bundle, Runtime(settings.provider, settings.threads))

    def ids_of(domains: Any, contents: Any) -> Any:
        found = parts.item_tokenizer.tokenize(parts.text_encoder.encode(compose_texts(contents)), domains)
        return np.concatenate([found.codes, found.experts], axis=1)

    return ids_of


def print_json(report: Any, indent: int | None = 2) -> None:
    """Print a result as JSON."""
    import json

    typer.echo(json.dumps(report, indent=indent, ensure_ascii=False))
