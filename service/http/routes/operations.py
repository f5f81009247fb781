"""POST /tokenize and POST /recommend."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter

from service.access.keys import KeyScope
from service.http.answers import RecommendResponse, TokenizedItemAnswer, TokenizeResponse
from service.http.requests import RecommendRequest, TokenizeRequest
from service.http.routes.dependencies import (
    BODY_PROBLEMS,
    AnyCaller,
    OpenService,
    Reader,
    StrictJsonRoute,
    generation_of,
    problems,
)
from service.lifecycle import Service
from service.operations.queries import RecommendQuery

router = APIRouter(route_class=StrictJsonRoute, tags=["operations"])


@router.post("/tokenize", responses=problems(*BODY_PROBLEMS, HTTPStatus.CONFLICT))
async def tokenize(body: TokenizeRequest, caller: AnyCaller, service: OpenService) -> TokenizeResponse:
    """Give items their semantic IDs, and with `register` make them recommendable.

    Any domain name may be used; registering into a new one creates it. An item that is registered already reports its
    published ID, which never changes in a generation. Needs the scope `register` with `register`, else `read`.
    """
    caller.require(KeyScope.REGISTER if body.registers else KeyScope.READ)
    service.tokenizing.check_size(len(body.items))
    async with caller.charged(len(body.items)):
        return await answer_tokenize(body, service)


@router.post("/recommend", responses=problems(*BODY_PROBLEMS))
async def recommend(body: RecommendRequest, caller: Reader, service: OpenService) -> RecommendResponse:
    """Recommend what is most likely to follow a history of known and raw items.

    Only items of the catalogue come out, each once, excluded ones never, and fewer than `k` only if fewer qualify.
    """
    service.recommending.check_size(len(body.history))
    query = body.query()
    async with caller.charged(service.recommending.cost(query)):
        return await answer_recommend(query, service)


async def answer_tokenize(body: TokenizeRequest, service: Service) -> TokenizeResponse:
    """What /tokenize answers to a caller who may ask."""
    items = [item.item_input(item.domain, item.item_id) for item in body.items]
    found = await service.tokenizing.tokenize(items, body.registers)
    return TokenizeResponse(items=[TokenizedItemAnswer.of(item) for item in found], **generation_of(service))


async def answer_recommend(query: RecommendQuery, service: Service) -> RecommendResponse:
    """What /recommend answers to a caller who may ask."""
    found = await service.recommending.recommend(query)
    return RecommendResponse.of(service.manifest.name, service.manifest.generation, found)
