"""Bodies that are wrong everywhere: refusing one costs no more than reading one that is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from service import limits
from service.http.requests import Body, RecommendRequest, TokenizeRequest

ENTRY = {"domain": "d", "title": "T"}
KNOWN = {"domain": "d", "item_id": "a"}


def item(**more: Any) -> dict[str, Any]:
    return {"items": [ENTRY | more] * 50}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (TokenizeRequest, item(categories=[1] * limits.CATEGORIES)),
        (TokenizeRequest, item(embedding=[""] * 1000)),
        (TokenizeRequest, item(**{f"unknown {number}": 0 for number in range(1000)})),
        (TokenizeRequest, {"items": [ENTRY] * 50, **{f"unknown {number}": 0 for number in range(1000)}}),
        (TokenizeRequest, {"items": [{}] * 1000}),
        (TokenizeRequest, {"items": [0] * 1000}),
        (RecommendRequest, {"history": [{}] * 1000}),
        (RecommendRequest, {"history": [ENTRY], "domains": [0] * 1000}),
        (RecommendRequest, {"history": [ENTRY], "exclude": [{}] * 1000, "allow": [{}] * 1000}),
    ],
)
def test_few_errors_are_collected_however_many_there_are(model: type[Body], body: Mapping[str, Any]) -> None:
    """One wrong body of megabytes held the process up for 20 seconds: a million errors were collected."""
    with pytest.raises(ValidationError) as raised:
        model.model_validate(body)
    assert raised.value.error_count() <= limits.FIELDS


def test_an_object_of_too_many_fields_says_so() -> None:
    with pytest.raises(ValidationError, match="has 51 fields, but at most 50 are read"):
        RecommendRequest.model_validate({"history": [KNOWN], **{f"unknown {number}": 0 for number in range(50)}})
