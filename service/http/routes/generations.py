"""PUT /generations/current: what the service serves by default."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from http import HTTPStatus

from fastapi import APIRouter

from service.catalogue.current import switch
from service.http.answers import SwitchResponse
from service.http.requests import SwitchRequest
from service.http.routes.dependencies import BODY_PROBLEMS, Administrator, OpenService, StrictJsonRoute, problems

router = APIRouter(route_class=StrictJsonRoute, prefix="/generations", tags=["administration"])


@router.put("/current", responses=problems(*BODY_PROBLEMS, HTTPStatus.CONFLICT))
async def put_current(body: SwitchRequest, caller: Administrator, service: OpenService) -> SwitchResponse:
    """Make an ID generation of the bundle the current one, as `unitok catalogue switch` does; to go back, name the old.

    Replicas that serve it follow within `UNITOK_REFRESH_SECONDS`; requests that have begun are finished by the
    generation they began with. Needs the scope `admin`.
    """
    await caller.charge(1)
    url, bundle = service.settings.store.get_secret_value(), service.manifest.name
    return SwitchResponse(**asdict(await asyncio.to_thread(switch, url, bundle, body.generation, serving=True)))
