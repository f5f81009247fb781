"""`unitok recommend`: recommendations for a short history, without writing a request by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from service.lifecycle import Service


def recommend(
    history: Annotated[
        list[str],
        typer.Argument(help="Items, oldest first: `DOMAIN/ITEM_ID` for a known item, `DOMAIN:TITLE` for any."),
    ],
    *,
    k: Annotated[int, typer.Option(help="Results wanted.")] = 10,
    domain: Annotated[
        list[str] | None,
        typer.Option(help="Recommend from this domain; may be repeated.", show_default="the history's"),
    ] = None,
    beam_width: Annotated[int | None, typer.Option(help="Width of the search.", show_default="50, or k")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle.", show_default="models/sample")] = None,
    store: Annotated[str | None, typer.Option(help="Catalogue store.", show_default="embedded:var/catalogue")] = None,
    url: Annotated[
        str | None, typer.Option(help="Ask the server at this address instead of working in this process.")
    ] = None,
) -> None:
    """Print recommendations as JSON, as POST /recommend answers them.

    Example: `unitok recommend "movies:Toy Story" --k 5`
    """
    from service.cli.asking import ask_here, ask_server
    from service.settings import read_settings

    fields: dict[str, Any] = {
        "history": [history_entry(text) for text in history],
        "k": k,
        "domains": domain or None,
        "beam_width": beam_width,
    }
    body = {name: value for name, value in fields.items() if value is not None}
    if url is not None:
        answer = ask_server(url, "/recommend", body, read_settings().api_key)
    else:
        answer = ask_here(read_settings(bundle=bundle, store=store), lambda service: answer_recommend(service, body))
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def history_entry(text: str) -> dict[str, str]:
    """`movies/42` -> a known item, `movies:Toy Story` -> raw content; the first `/` or `:` decides."""
    at = next((position for position, sign in enumerate(text) if sign in "/:"), None)
    if not at or at + 1 == len(text):
        raise typer.BadParameter(f"{text!r} must be DOMAIN/ITEM_ID or DOMAIN:TITLE")
    return {"domain": text[:at], "item_id" if text[at] == "/" else "title": text[at + 1 :]}


async def answer_recommend(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """The response body of POST /recommend, computed in this process."""
    from service.http.requests import RecommendRequest, read_body
    from service.http.routes.operations import answer_recommend as answer

    return (await answer(read_body(RecommendRequest, body).query(), service)).model_dump()
