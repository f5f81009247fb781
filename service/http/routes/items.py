"""GET, PUT and DELETE /items/{domain}/{item_id}."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Response

from service.catalogue.records import ItemKey, not_found
from service.http.answers import ItemAnswer, SemanticIdParts
from service.http.requests import Content
from service.http.routes.dependencies import (
    BODY_PROBLEMS,
    KEY_PROBLEMS,
    AnyService,
    DomainPath,
    ItemIdPath,
    OpenService,
    Reader,
    Registrar,
    StrictJsonRoute,
    generation_of,
    problems,
)

router = APIRouter(route_class=StrictJsonRoute, prefix="/items/{domain}", tags=["catalogue"])

ITEM = "/{item_id:path}"


@router.get(ITEM, responses=problems(*KEY_PROBLEMS, HTTPStatus.UNPROCESSABLE_ENTITY))
async def get_item(domain: DomainPath, item_id: ItemIdPath, caller: Reader, service: AnyService) -> ItemAnswer:
    """Look an item up."""
    await caller.charge(1)
    entry = service.catalogue.lookup([ItemKey(domain, item_id)])[0]
    if entry is None:
        raise not_found(ItemKey(domain, item_id), service.catalogue.domains())
    semantic_id = service.engine.layout.semantic_id(entry.values)
    return ItemAnswer(
        item_id=item_id,
        domain=domain,
        semantic_id=SemanticIdParts.of(semantic_id),
        tokens=service.engine.layout.token_names(semantic_id),
        title=entry.title,
        **generation_of(service),
    )


@router.put(
    ITEM,
    responses={
        **problems(*BODY_PROBLEMS, HTTPStatus.CONFLICT),
        int(HTTPStatus.CREATED): {"description": "The item is new.", "model": ItemAnswer},
    },
)
async def put_item(
    *,
    domain: DomainPath,
    item_id: ItemIdPath,
    body: Content,
    caller: Registrar,
    service: OpenService,
    response: Response,
) -> ItemAnswer:
    """Register one item, as /tokenize does with `register`: 201 if it is new, 200 if it was there.

    An item that was there keeps its semantic ID; its title and content are replaced.
    """
    async with caller.charged(1):
        item = (await service.tokenizing.tokenize([body.item_input(domain, item_id)], register=True, fields=[""]))[0]
    response.status_code = HTTPStatus.CREATED if item.created else HTTPStatus.OK
    return ItemAnswer(
        item_id=item_id,
        domain=domain,
        semantic_id=SemanticIdParts.of(item.semantic_id),
        tokens=list(item.tokens),
        title=body.title,
        **generation_of(service),
    )


@router.delete(
    ITEM,
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems(*KEY_PROBLEMS, HTTPStatus.UNPROCESSABLE_ENTITY),
)
async def delete_item(domain: DomainPath, item_id: ItemIdPath, caller: Registrar, service: OpenService) -> None:
    """Remove an item: it is not recommended any more. Its semantic ID is kept for it and never given to another."""
    async with caller.charged(1):
        deleted = await service.writing.delete(ItemKey(domain, item_id))
    if not deleted:
        raise not_found(ItemKey(domain, item_id), service.catalogue.domains())
