"""The blocking client.

Independent of the contents of the calls.
"""

from __future__ import annotations

import time
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


class UnitokClient:
    """A pool of connections to one service, shared by threads; close it, or use it with `with`.

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
        self._http = httpx.Client(**connection(base_url, api_key, generation, timeout_seconds))
        self._retry = retry or RetryPolicy()

    def tokenize(self, request: TokenizeRequest) -> TokenizeResponse:
        """Compute semantic IDs of items; with `register`, also store them."""
        return self._run(calls.tokenize(request))

    def recommend(self, request: RecommendRequest) -> RecommendResponse:
        """Recommend the items most likely to follow a history."""
        return self._run(calls.recommend(request))

    def get_item(self, domain: str, item_id: str) -> ItemAnswer:
        """Look an item up.

        Raises
        ------
        NotFound : the domain holds no such item
        """
        return self._run(calls.get_item(domain, item_id))

    def put_item(self, domain: str, item_id: str, content: Content) -> ItemAnswer:
        """Register one item; an existing item keeps its semantic ID."""
        return self._run(calls.put_item(domain, item_id, content))

    def delete_item(self, domain: str, item_id: str) -> None:
        """Remove an item; its semantic ID stays reserved for it.

        Raises
        ------
        NotFound : the domain holds no such item
        """
        self._run(calls.delete_item(domain, item_id))

    def explain(self, domain: str, item_id: str, count: int = 10) -> ExplainResponse:
        """Explain an item's semantic ID, and list the `count` items of its domain with the most similar IDs.

        Raises
        ------
        NotFound : the domain holds no such item
        """
        return self._run(calls.explain(domain, item_id, count))

    def domains(self) -> DomainsResponse:
        """Every domain that holds items, with the number of items."""
        return self._run(calls.domains())

    def bundle(self) -> BundleResponse:
        """Description of the bundle being served."""
        return self._run(calls.bundle())

    def switch_generation(self, generation: int) -> SwitchResponse:
        """Make an ID generation the current one, on every replica that serves it; needs the scope `admin`.

        Raises
        ------
        NotFound : the store does not hold it
        """
        return self._run(calls.switch_generation(generation))

    def livez(self) -> Liveness:
        """Whether the process is live; a negative result is returned, not raised."""
        return self._run(calls.livez())

    def readyz(self) -> Readiness:
        """Whether the service is ready for requests; a negative result is returned, not raised."""
        return self._run(calls.readyz())

    def metrics(self) -> str:
        """Metrics in Prometheus's text format."""
        return self._run(calls.metrics())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> UnitokClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: calls.Call[T]) -> T:
        sending = Sending(call, self._retry)
        while True:
            try:
                response = self._http.request(**sending.request)
            except httpx.RequestError as error:
                pause: float | None = sending.pause_after_break(error)
            else:
                pause = sending.pause_after_answer(response)
            if pause is None:
                return sending.read(response)
            time.sleep(pause)
