"""`unitok tokenize`: the semantic ID of one item, without writing a request by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from service.lifecycle import Service


def tokenize(
    *,
    domain: Annotated[str, typer.Option(help="Domain of the item; a new name is fine.")],
    title: Annotated[str | None, typer.Option(help="Title.")] = None,
    brand: Annotated[str | None, typer.Option(help="Maker: a brand, a director, an author.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Category; may be repeated.")] = None,
    description: Annotated[str | None, typer.Option(help="Description; the first 600 characters are read.")] = None,
    item_id: Annotated[
        str | None, typer.Option(help="Name of the item; one that is in the catalogue reports its published ID.")
    ] = None,
    register: Annotated[bool, typer.Option(help="Store the ID, so that the item can be recommended.")] = False,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle.", show_default="models/sample")] = None,
    store: Annotated[str | None, typer.Option(help="Catalogue store.", show_default="embedded:var/catalogue")] = None,
    url: Annotated[
        str | None, typer.Option(help="Ask the server at this address instead of working in this process.")
    ] = None,
) -> None:
    """Print the semantic ID of an item as JSON, as POST /tokenize answers it."""
    from service.cli.asking import ask_here, ask_server
    from service.settings import read_settings

    fields: dict[str, Any] = {
        "item_id": item_id,
        "domain": domain,
        "title": title,
        "brand": brand,
        "categories": category or None,
        "description": description,
    }
    item = {name: value for name, value in fields.items() if value is not None}
    body = {"items": [item], "register": register}
    if url is not None:
        answer = ask_server(url, "/tokenize", body, read_settings().api_key)
    else:
        answer = ask_here(read_settings(bundle=bundle, store=store), lambda service: answer_tokenize(service, body))
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))


async def answer_tokenize(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """The response body of POST /tokenize, computed in this process."""
    from service.http.requests import TokenizeRequest, read_body
    from service.http.routes.operations import answer_tokenize as answer

    return (await answer(read_body(TokenizeRequest, body), service)).model_dump()
