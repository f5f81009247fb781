"""A typed client of the HTTP service, blocking and asynchronous; needs the extra `client`.

from service.client import HistoryEntry, RecommendRequest, UnitokClient

with UnitokClient("http://localhost:8000") as unitok:
    history = [HistoryEntry(domain="movies", title="Toy Story")]
    for item in unitok.recommend(RecommendRequest(history=history, k=5)).items:
        print(item.title, item.score)
"""

from service.client.asynchronous import AsyncUnitokClient
from service.client.blocking import UnitokClient
from service.client.errors import Busy, Denied, NotFound, RequestFailed, Unreachable
from service.client.retrying import RetryPolicy
from service.http.requests import (
    Content,
    HistoryEntry,
    ItemReference,
    ItemToTokenize,
    RecommendRequest,
    TokenizeRequest,
)

__all__ = [
    "AsyncUnitokClient",
    "Busy",
    "Content",
    "Denied",
    "HistoryEntry",
    "ItemReference",
    "ItemToTokenize",
    "NotFound",
    "RecommendRequest",
    "RequestFailed",
    "RetryPolicy",
    "TokenizeRequest",
    "UnitokClient",
    "Unreachable",
]
