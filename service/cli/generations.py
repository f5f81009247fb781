"""`unitok catalogue switch | carry | compare | drop`: moves a catalogue from one ID generation to the next."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.catalogue import BundleOption, StoreOption, ids_of_bundle, print_json

if TYPE_CHECKING:
    from service.bundle.manifest import Manifest
    from service.settings import Settings

OldOption = Annotated[Path, typer.Option("--from", help="Folder of the bundle with the generation before.")]


def add(app: typer.Typer) -> None:
    """Add the subcommands."""
    for command in (carry, compare, switch, drop):
        app.command(command.__name__)(command)


def carry(*, old: OldOption, bundle: BundleOption = None, store: StoreOption = None) -> None:
    """Give the items of one generation IDs in the next: tokenize their stored texts with the bundle's networks.

    Services go on meanwhile. May be repeated and interrupted: an ID of the next generation stays. Repeat it after the
    switch, for what was registered in between. Until the switch, what was deleted is deleted in the next generation,
    too, and what got another title or content gets it there. Items registered by an embedding without a title have no
    text, and are counted. Prints one line of JSON.
    """
    from dataclasses import asdict

    from service.bundle.files import Bundle
    from service.catalogue.current import current_of, turn
    from service.catalogue.migrating import carry as carry_items
    from service.catalogue.opening import open_existing_store
    from service.catalogue.records import ItemKey
    from service.catalogue.seeding import open_catalogue, read_bundle_catalogue
    from service.progress import progress
    from service.settings import read_settings

    settings = read_settings(bundle=bundle, store=store)
    url, left, opened = settings.store.get_secret_value(), Bundle.open(old), Bundle.open(settings.bundle)
    before, now = left.manifest, opened.manifest
    _check_same(before, now)
    ids_of = ids_of_bundle(opened, settings)
    with (
        closing(open_existing_store(url, left)) as source,
        closing(open_catalogue(url, opened)) as target,
        progress("carry", sum(source.totals().items.values())) as advance,
    ):
        turns = {before.generation: turn(source), now.generation: turn(target)}
        since = None
        if current_of(turns) != now.generation:
            began = read_bundle_catalogue(left, source.layout).select("domain", "item_id", "title")
            since = {ItemKey(domain, item_id): title for domain, item_id, title in began.iter_rows()}
        done = carry_items(source, target, ids_of, since, advance)
    print_json({"from": before.generation, "to": now.generation, **asdict(done)}, indent=None)


def compare(
    *,
    old: OldOption,
    bundle: BundleOption = None,
    store: StoreOption = None,
    histories: Annotated[
        Path | None,
        typer.Option(help="Requests to replay on both: JSON lines, each the body of a POST /recommend."),
    ] = None,
) -> None:
    """Compare two generations: how many IDs moved, and how far recommendations agree.

    `agreement` is the mean share, over the requests that both answered, of the old list that is also in the new one;
    `unanswerable` counts by generation those that it refused, for a domain that it does not hold. Prints JSON.
    """
    from dataclasses import asdict

    from service.bundle.files import Bundle
    from service.catalogue.migrating import moves
    from service.catalogue.opening import open_existing_store
    from service.settings import read_settings

    settings = read_settings(bundle=bundle, store=store)
    url = settings.store.get_secret_value()
    bundles = [Bundle.open(old), Bundle.open(settings.bundle)]
    _check_same(bundles[0].manifest, bundles[1].manifest)
    with ExitStack() as stack:
        stores = [stack.enter_context(closing(open_existing_store(url, each))) for each in bundles]
        found = moves(*stores)
    report: dict[str, Any] = asdict(found)
    report["share_moved"] = round(found.moved / found.common, 4) if found.common else None
    if histories is not None:
        report |= _replay(histories, [settings.model_copy(update={"bundle": each.folder}) for each in bundles])
    print_json(report)


def switch(*, bundle: BundleOption = None, store: StoreOption = None) -> None:
    """Make the bundle's generation the current one: services that serve it follow within UNITOK_REFRESH_SECONDS.

    To go back, switch to the bundle before; both are served until the other is dropped. Prints one line of JSON.
    """
    from dataclasses import asdict

    from service.bundle.files import read_manifest
    from service.catalogue.current import switch as make_switch
    from service.settings import read_settings

    settings = read_settings(bundle=bundle, store=store)
    manifest = read_manifest(settings.bundle)
    done = make_switch(settings.store.get_secret_value(), manifest.name, manifest.generation)
    print_json(asdict(done), indent=None)


def drop(
    name: Annotated[str, typer.Argument(metavar="BUNDLE", help="Name of the bundle, as `status` shows it.")],
    generation: Annotated[int, typer.Argument(help="The generation to drop.")],
    *,
    store: StoreOption = None,
) -> None:
    """Remove a generation for good; never the current one.

    It cannot be opened again, so that its IDs, which others may still hold, are never given to other items. Services
    that still serve it go on from memory, and cannot register into it.
    """
    from service.catalogue.current import current_of, require_generation, stores_of, turn
    from service.errors import ConfigError
    from service.settings import read_settings

    with stores_of(read_settings(store=store).store.get_secret_value(), name) as stores:
        require_generation(name, generation, stores)
        current = current_of({number: turn(each) for number, each in stores.items()})
        if current is None or current == generation:
            said = "none is current" if current is None else "it is current"
            raise ConfigError(f"{name}:{generation}: {said}; make another current first (`unitok catalogue switch`)")
        stores[generation].drop()
    print_json({"bundle": name, "dropped": generation, "current": current}, indent=None)


def _check_same(old: Manifest, new: Manifest) -> None:
    from service.errors import ConfigError

    if old.name != new.name or old.generation == new.generation:
        raise ConfigError(
            f"--from is {old.name}:{old.generation} and --bundle {new.name}:{new.generation}, but they must be two "
            "generations of one bundle"
        )


def _replay(path: Path, settings: list[Settings]) -> dict[str, Any]:
    """Send the same requests to two bundles; a refused request is counted as unanswerable and skipped."""
    from service.bundle.files import read_manifest
    from service.cli.asking import ask_here
    from service.cli.recommend import answer_recommend
    from service.errors import InvalidInput

    bodies = _read_requests(path)

    async def ask(service: Any) -> dict[str, Any]:
        lists: list[Any] = []
        for body in bodies:
            try:
                lists.append((await answer_recommend(service, body))["items"])
            except InvalidInput:
                lists.append(None)
        return {"lists": lists}

    old, new = (
        [
            None if items is None else [(item["domain"], item["item_id"]) for item in items]
            for items in ask_here(each, ask)["lists"]
        ]
        for each in settings
    )
    shares = [
        len({*before} & {*after}) / len(before)
        for before, after in zip(old, new, strict=True)
        if before and after is not None
    ]
    numbers = [read_manifest(each.bundle).generation for each in settings]
    return {
        "replayed": len(bodies),
        "unanswerable": {number: lists.count(None) for number, lists in zip(numbers, (old, new), strict=True)},
        "agreement": round(sum(shares) / len(shares), 4) if shares else None,
    }


def _read_requests(path: Path) -> list[dict[str, Any]]:
    """The request bodies of a file of JSON lines, each checked."""
    from service.errors import InvalidInput
    from service.http.requests import RecommendRequest, read_body

    bodies: list[dict[str, Any]] = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: must be JSON lines in UTF-8: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            bodies.append(json.loads(line))
            read_body(RecommendRequest, bodies[-1])
        except (ValueError, RecursionError, InvalidInput) as error:
            raise InvalidInput(f"{path}: line {number}: {error}; must be the body of a POST /recommend") from None
    return bodies
