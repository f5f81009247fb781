"""GET /explain/{domain}/{item_id}."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from service import limits
from service.catalogue.records import ItemKey
from service.http.answers import ComputedAnswer, ExplainResponse, NeighbourAnswer, SemanticIdParts
from service.http.routes.dependencies import (
    KEY_PROBLEMS,
    DomainPath,
    ItemIdPath,
    OpenService,
    Reader,
    generation_of,
    problems,
)

router = APIRouter(tags=["catalogue"])


@router.get("/explain/{domain}/{item_id:path}", responses=problems(*KEY_PROBLEMS, HTTPStatus.UNPROCESSABLE_ENTITY))
async def explain(
    domain: DomainPath,
    item_id: ItemIdPath,
    caller: Reader,
    service: OpenService,
    count: Annotated[int, Query(ge=0, le=limits.NEIGHBOURS, description="Most items alike.")] = 10,
) -> ExplainResponse:
    """Say why an item has the semantic ID it has: experts, quantization error, and the items with an ID most alike."""
    await caller.charge(1)
    found = await service.explaining.explain(ItemKey(domain, item_id), count)
    layout = service.engine.layout
    semantic_id = layout.semantic_id(found.entry.values)
    return ExplainResponse(
        item_id=item_id,
        domain=domain,
        title=found.entry.title,
        semantic_id=SemanticIdParts.of(semantic_id),
        tokens=layout.token_names(semantic_id),
        computed=None if found.computed is None else ComputedAnswer.of(found.computed),
        alike=[NeighbourAnswer.of(neighbour, layout.semantic_id(neighbour.entry.values)) for neighbour in found.alike],
        **generation_of(service),
    )
