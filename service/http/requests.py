"""Bodies of requests: strict, bounded, and documented with examples that can be pasted.

Unknown fields are refused, values are not coerced, numbers are finite. The bounds here are hard limits; the operations
check the configured ones. Lists are read only up to their first wrong entry, so that refusing a body with many errors
costs no more than reading a valid one. Knows nothing of engines and stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from service import limits
from service.catalogue.records import ItemKey
from service.errors import InvalidInput
from service.items import ItemContent, distinct_categories
from service.operations.queries import ItemInput, RecommendQuery

Domain = Annotated[
    str, Field(pattern=limits.DOMAIN_PATTERN, description="Catalogue the item belongs to.", examples=["movies"])
]
ItemId = Annotated[
    str,
    Field(
        pattern=limits.ITEM_ID_PATTERN,
        description="Name of the item, unique in its domain.",
        examples=["toy-story-1995"],
    ),
]
Text = Annotated[str, Field(max_length=limits.TEXT_CHARACTERS)]


class Body(BaseModel):
    """Base of requests."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _is_small(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > limits.FIELDS:
            raise PydanticCustomError(
                "too_many_fields",
                "has {found} fields, but at most {limit} are read",
                {"found": len(value), "limit": limits.FIELDS},
            )
        return value


B = TypeVar("B", bound=Body)


def read_body(model: type[B], body: dict[str, Any]) -> B:
    """Read a body that did not arrive by HTTP.

    Raises
    ------
    InvalidInput : it violates the schema; names the first wrong field
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        raise InvalidInput(explained(problem), field_path(problem["loc"]) or None) from None


OBJECT = "must be a JSON object"
PATTERNS = {limits.DOMAIN_PATTERN: limits.DOMAIN_RULE, limits.ITEM_ID_PATTERN: limits.ITEM_ID_RULE}


def explained(problem: Mapping[str, Any]) -> str:
    """Pydantic's message of an error, or a clearer one."""
    match problem["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "there is no such field"
        case "model_type" | "model_attributes_type" | "dict_type":
            return OBJECT
        case "too_short":
            return f"must hold at least {problem['ctx']['min_length']}, but holds {problem['ctx']['actual_length']}"
        case "string_pattern_mismatch":
            return PATTERNS.get(problem["ctx"]["pattern"], str(problem["msg"]))
    return str(problem["msg"])


def field_path(location: Sequence[str | int]) -> str:
    """('items', 3, 'title') -> `items[3].title`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


NAME = frozenset({"domain", "item_id"})
"""Fields of an item that are not content."""
NO_CONTENT = ItemContent()


class ItemReference(Body):
    """A known item."""

    item_id: ItemId
    domain: Domain

    def reference(self) -> ItemKey:
        """Convert to the input of the operations."""
        return ItemKey(self.domain, self.item_id)


class Content(Body):
    """What an item is: text, or an embedding in place of the text."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"title": "Toy Story (1995)", "categories": ["Animation", "Comedy"]}]}
    )

    title: Text | None = Field(default=None, examples=["Toy Story"])
    brand: Text | None = Field(default=None, description="Maker: a brand, a director, an author.")
    categories: list[Text] | None = Field(
        default=None,
        max_length=limits.CATEGORIES,
        fail_fast=True,
        description="Empty and repeated ones are ignored.",
        examples=[["Animation", "Comedy"]],
    )
    description: Text | None = Field(default=None, description="The first 600 characters are read.")
    price: float | None = Field(
        default=None, ge=limits.LEAST_PRICE, description="Stored, but not read by the tokenizer."
    )
    embedding: list[float] | None = Field(
        default=None,
        min_length=1,
        max_length=limits.EMBEDDING_WIDTH,
        fail_fast=True,
        description="Used in place of the text: a vector of the bundle's embedding width, not all zeros.",
    )

    def item_input(self, domain: str, item_id: str | None) -> ItemInput:
        """Convert to the input of the operations."""
        if self.model_fields_set <= NAME:
            return ItemInput(domain, item_id, NO_CONTENT)
        categories = distinct_categories(self.categories or ())
        content = ItemContent(self.title, self.brand, categories, self.description, self.price)
        embedding = None if self.embedding is None else np.asarray(self.embedding, dtype=np.float64)
        return ItemInput(domain, item_id, content, embedding)


class ItemToTokenize(Content):
    """One item of a tokenize request; `item_id` is needed only to register it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"domain": "movies", "title": "Toy Story"}]})

    item_id: ItemId | None = None
    domain: Domain


class TokenizeRequest(Body):
    """Items to give semantic IDs to."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "item_id": "my-film",
                            "domain": "movies",
                            "title": "Toy Story",
                            "categories": ["Animation", "Adventure", "Comedy"],
                            "description": "A cowboy doll is jealous of the new spaceman.",
                        }
                    ],
                    "register": False,
                }
            ]
        }
    )

    items: list[ItemToTokenize] = Field(min_length=1, max_length=limits.ITEMS, fail_fast=True)
    # `register` is a method of BaseModel's metaclass, so the field has another name in Python.
    registers: bool = Field(
        default=False,
        alias="register",
        description="Store the semantic IDs; the items are recommendable when the call returns.",
    )


class HistoryEntry(Content):
    """A known item (`item_id` and `domain`) or raw content (`domain` and text or embedding).

    With both, the published semantic ID is used where the item is known and the content where it is not.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"domain": "movies", "title": "Toy Story"}]})

    item_id: ItemId | None = None
    domain: Domain


class RecommendRequest(Body):
    """A history, oldest first, and what to recommend after it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"history": [{"title": "Toy Story", "domain": "movies"}], "k": 10, "domains": ["movies"]}]
        }
    )

    history: list[HistoryEntry] = Field(
        min_length=1,
        max_length=limits.HISTORY,
        fail_fast=True,
        description="Oldest first. The recommender reads the most recent known or raw items, as many as it was "
        "trained on; see /bundle.",
    )
    k: int = Field(default=10, ge=1, le=limits.BEAMS, description="Results wanted; fewer only if fewer items qualify.")
    domains: list[Domain] | None = Field(
        default=None,
        min_length=1,
        max_length=limits.DOMAINS,
        fail_fast=True,
        description="Recommend from these. Default: the domains of `allow`; without it those of the history that "
        "hold items; if none does, every domain.",
    )
    beam_width: int | None = Field(
        default=None, ge=1, le=limits.BEAMS, description="At least k. Default: the server's, raised to k."
    )
    exclude_history: bool = Field(
        default=True,
        description="Never recommend an item of the history, however old. If false, such items are ranked by how often "
        "items come again in their domain, as the recommender has learned it.",
    )
    exclude: list[ItemReference] = Field(
        default=[],
        max_length=limits.REFERENCES,
        fail_fast=True,
        description="Never recommend these; unknown items exclude nothing.",
    )
    allow: list[ItemReference] | None = Field(
        default=None,
        max_length=limits.REFERENCES,
        fail_fast=True,
        description="Recommend these only; unknown items cannot be recommended.",
    )
    explain: bool = Field(default=False, description="Return each recommendation's score token by token.")

    def query(self) -> RecommendQuery:
        """Convert to the input of the operations."""
        return RecommendQuery(
            history=tuple(entry.item_input(entry.domain, entry.item_id) for entry in self.history),
            k=self.k,
            domains=None if self.domains is None else tuple(dict.fromkeys(self.domains)),
            beam_width=self.beam_width,
            exclude_history=self.exclude_history,
            exclude=tuple(item.reference() for item in self.exclude),
            allow=None if self.allow is None else tuple(item.reference() for item in self.allow),
            explain=self.explain,
        )


class SwitchRequest(Body):
    """Which ID generation is to be the current one."""

    generation: int = Field(ge=1, le=limits.GENERATION, examples=[2])
