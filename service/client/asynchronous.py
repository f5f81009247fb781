"""The asynchronous client.

Independent of the contents of the calls.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TypeVar

import httpx

from service.client import calls
from service.client.retrying import RetryPolicy
from service.client.sending import TIMEOUT_SECONDS, Sending, connection
from service.http.answers import (
    BundleResponse,
    DomainsResponse,
    ExplainResponse,
    ItemAnswer,
    Liveness,
    Readiness,
    RecommendResponse,
    SwitchResponse,
    TokenizeResponse,
)
from service.http.requests import Content, RecommendRequest, TokenizeRequest

T = TypeVar("T")


class AsyncUnitokClient:
    """A pool of connections to one service, for one event loop; close it, or use it with `async with`.

    Parameters
    ----------
    base_url : address of the service, `https://unitok.example.org`
    api_key : sent as `Authorization: Bearer ...`, if the service asks for one
    generation : ID generation to use instead of the current one; `NotFound` if it is not served
    timeout_seconds : for the connection, and for each read
    retry : when a request is sent again
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        generation: int | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(**connection(base_url, api_key, generation, timeout_seconds))
        self._retry = retry or RetryPolicy()

    async def tokenize(self, request: TokenizeRequest) -> TokenizeResponse:
        """Compute semantic IDs of items; with `register`, also store them."""
        return await self._run(calls.tokenize(request))

    async def recommend(self, request: RecommendRequest) -> RecommendResponse:
        """Recommend the items most likely to follow a history."""
        return await self._run(calls.recommend(request))

    async def get_item(self, domain: str, item_id: str) -> ItemAnswer:
        """Look an item up.

        Raises
        ------
        NotFound : the domain holds no such item
        """
        return await self._run(calls.get_item(domain, item_id))

    async def put_item(self, domain: str, item_id: str, content: Content) -> ItemAnswer:
        """Register one item; an existing item keeps its semantic ID."""
        return await self._run(calls.put_item(domain, item_id, content))

    async def delete_item(self, domain: str, item_id: str) -> None:
        """Remove an item; its semantic ID stays reserved for it.

        Raises
        ------
        NotFound : the domain holds no such item
        """
        await self._run(calls.delete_item(domain, item_id))

    async def explain(self, domain: str, item_id: str, count: int = 10) -> ExplainResponse:
        """Explain an item's semantic ID, and list the `count` items of its domain with the most similar IDs.

        Raises
        ------
        NotFound : the domain holds no such item
        """
        return await self._run(calls.explain(domain, item_id, count))

    async def domains(self) -> DomainsResponse:
        """Every domain that holds items, with the number of items."""
        return await self._run(calls.domains())

    async def bundle(self) -> BundleResponse:
        """Description of the bundle being served."""
        return await self._run(calls.bundle())

    async def switch_generation(self, generation: int) -> SwitchResponse:
        """Make an ID generation the current one, on every replica that serves it; needs the scope `admin`.

        Raises
        ------
        NotFound : the store does not hold it
        """
        return await self._run(calls.switch_generation(generation))

    async def livez(self) -> Liveness:
        """Whether the process is live; a negative result is returned, not raised."""
        return await self._run(calls.livez())

    async def readyz(self) -> Readiness:
        """Whether the service is ready for requests; a negative result is returned, not raised."""
        return await self._run(calls.readyz())

    async def metrics(self) -> str:
        """Metrics in Prometheus's text format."""
        return await self._run(calls.metrics())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncUnitokClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: calls.Call[T]) -> T:
        sending = Sending(call, self._retry)
        while True:
            try:
                response = await self._http.request(**sending.request)
            except httpx.RequestError as error:
                pause: float | None = sending.pause_after_break(error)
            else:
                pause = sending.pause_after_answer(response)
            if pause is None:
                return sending.read(response)
            await asyncio.sleep(pause)
