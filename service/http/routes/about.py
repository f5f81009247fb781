"""GET /domains, /bundle, /livez, /readyz and /metrics: what the service says of itself."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.http.answers import BundleResponse, DomainAnswer, DomainsResponse, Liveness, Readiness
from service.http.routes.dependencies import KEY_PROBLEMS, AnyService, Reader, generation_of, problems
from service.lifecycle import State

router = APIRouter()

UNKNOWN = problems(HTTPStatus.NOT_FOUND)
"""Of a request that names a generation which is not served; every path may answer it."""


@router.get("/domains", tags=["catalogue"], responses=problems(*KEY_PROBLEMS))
async def domains(caller: Reader, service: AnyService) -> DomainsResponse:
    """List every domain that holds items, with how many."""
    await caller.charge(1)
    counts = sorted(service.catalogue.domains().items())
    return DomainsResponse(
        domains=[DomainAnswer(domain=name, items=items) for name, items in counts], **generation_of(service)
    )


@router.get("/bundle", tags=["catalogue"], responses=problems(*KEY_PROBLEMS))
async def bundle(caller: Reader, service: AnyService) -> BundleResponse:
    """Say what is being served."""
    await caller.charge(1)
    manifest = service.manifest
    return BundleResponse(
        created=manifest.created,
        description=manifest.description,
        layout=manifest.layout.model_dump(),
        embedding_width=manifest.item_tokenizer.embedding_width,
        experts=manifest.item_tokenizer.expert_names,
        text_recipe=manifest.text_encoder.recipe,
        recommenders=[part.model_dump(include={"name", "domains", "max_history"}) for part in manifest.recommenders],
        items=service.items,
        figures=manifest.figures,
        **generation_of(service),
    )


@router.get("/livez", tags=["health"], responses={int(HTTPStatus.SERVICE_UNAVAILABLE): {"model": Liveness}, **UNKNOWN})
async def livez(service: AnyService, response: Response) -> Liveness:
    """Say whether the process does its work; restart it if not."""
    if service.alive:
        return Liveness(status="alive")
    response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Liveness(status="a worker thread has ended")


@router.get(
    "/readyz", tags=["health"], responses={int(HTTPStatus.SERVICE_UNAVAILABLE): {"model": Readiness}, **UNKNOWN}
)
async def readyz(service: AnyService, response: Response) -> Readiness:
    """Say whether requests should be sent here: a real tokenize and a real recommend have succeeded."""
    if service.state is not State.READY:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Readiness(status=service.state, checks=service.checks)


@router.get("/metrics", tags=["health"], response_class=PlainTextResponse, responses=UNKNOWN)
async def metrics(service: AnyService) -> Response:
    """Metrics in Prometheus's text format."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
