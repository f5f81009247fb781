"""Bodies of requests and responses: strict, bounded, documented with examples that can be pasted.

Unknown fields are refused, values are not coerced, numbers are finite. The bounds here are ceilings; the configured
limits are checked by the operations. A body is read to the first wrong entry of a list, so that refusing one that is
wrong everywhere costs no more than reading one that is right. Knows nothing of engines and stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from service import limits
from service.catalogue.store import ItemKey
from service.errors import InvalidInput
from service.items import ItemContent, distinct_categories
from service.queries import ItemInput, RecommendQuery
from service.semantic_ids import SemanticId

if TYPE_CHECKING:
    # Results are only read here: without them a client can use these models where no engine is installed.
    from service.catalogue.live import Neighbour
    from service.explaining import Computed
    from service.recommending import Recommendations
    from service.searching import Recommendation
    from service.tokenizing import TokenizedItem

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
    """Read a body that came another way than by HTTP.

    Raises
    ------
    InvalidInput : it does not fit the schema; names the first wrong field
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        raise InvalidInput(problem["msg"], field_path(problem["loc"]) or None) from None


def field_path(location: Sequence[str | int]) -> str:
    """('items', 3, 'title') -> `items[3].title`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


class Answer(BaseModel):
    """Base of responses."""

    model_config = ConfigDict(frozen=True)


class ItemReference(Body):
    """A known item."""

    item_id: ItemId
    domain: Domain

    def reference(self) -> ItemKey:
        """As the operations take it."""
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
        description="Empty ones and repetitions are left out.",
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
        description="Stands in for the text: a vector of the bundle's embedding width, not all zeros.",
    )

    def item_input(self, domain: str, item_id: str | None) -> ItemInput:
        """As the operations take it."""
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
        description="Recommend no item of the history, old ones included. Without it, they are as likely as the "
        "recommender has learned that items come again in their domain.",
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
    explain: bool = Field(default=False, description="Say how each recommendation's score comes about, token by token.")

    def query(self) -> RecommendQuery:
        """As the operations take it."""
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


class SemanticIdParts(Answer):
    """The tuple that names an item."""

    codes: list[int]
    experts: list[int]
    suffix: int

    @classmethod
    def of(cls, semantic_id: SemanticId) -> SemanticIdParts:
        """From its parts."""
        return cls(codes=list(semantic_id.codes), experts=list(semantic_id.experts), suffix=semantic_id.suffix)


class TokenizedItemAnswer(Answer):
    """One item's semantic ID: the published one where the item is known, else what its content gives."""

    item_id: str | None
    domain: str
    semantic_id: SemanticIdParts
    tokens: list[str] = Field(description="The tokens that stand for the item in a history.")
    quantization_error: float = Field(description="Squared distance, in latent space, of what the content gives.")
    expert_weights: dict[str, float] = Field(description="The router's weight of every expert.")

    @classmethod
    def of(cls, item: TokenizedItem) -> TokenizedItemAnswer:
        """From a result of the operation."""
        return cls(
            item_id=item.item_id,
            domain=item.domain,
            semantic_id=SemanticIdParts.of(item.semantic_id),
            tokens=list(item.tokens),
            quantization_error=item.quantization_error,
            expert_weights=dict(item.expert_weights),
        )


class Generation(Answer):
    """Which bundle and which ID generation an answer comes from."""

    bundle: str
    generation: int


class TokenizeResponse(Generation):
    """The items in the order of the request."""

    items: list[TokenizedItemAnswer]


class TokenScoreAnswer(Answer):
    """A token of a semantic ID, and what it adds to the score."""

    token: str
    log_prob: float = Field(
        description="Its log-probability after the history and the tokens before it; where the recommender has a head "
        "over items, mixed with what it changes of the best score that the head expects behind it."
    )


class RecommendedItem(Answer):
    """One recommendation."""

    item_id: str
    domain: str
    score: float = Field(
        description="Log-probability of the semantic ID after this history; where the recommender has a head over "
        "items, mixed with its score, or that alone, and then only the order means something."
    )
    semantic_id: SemanticIdParts
    title: str | None
    score_by_level: list[TokenScoreAnswer] | None = Field(
        default=None,
        exclude_if=lambda levels: levels is None,
        description="With `explain`: what each code, expert and the suffix add to the score; they sum to it.",
    )

    @classmethod
    def of(cls, item: Recommendation) -> RecommendedItem:
        """From a result of the operation."""
        return cls(
            item_id=item.item_id,
            domain=item.domain,
            score=item.score,
            semantic_id=SemanticIdParts.of(item.semantic_id),
            title=item.title,
            score_by_level=None
            if item.score_by_level is None
            else [TokenScoreAnswer(token=level.token, log_prob=level.log_prob) for level in item.score_by_level],
        )


class KnownItemName(Answer):
    """An item named by a request."""

    item_id: str
    domain: str


class RecommendResponse(Generation):
    """Recommendations, best first."""

    items: list[RecommendedItem]
    unknown_history: list[KnownItemName] = Field(
        description="History entries that are in no catalogue and came without content; they were not read."
    )

    @classmethod
    def of(cls, bundle: str, generation: int, found: Recommendations) -> RecommendResponse:
        """From a result of the operation."""
        return cls(
            bundle=bundle,
            generation=generation,
            items=[RecommendedItem.of(item) for item in found.items],
            unknown_history=[KnownItemName(item_id=item.item_id, domain=item.domain) for item in found.unknown],
        )


class ItemAnswer(Generation):
    """An item of the catalogue."""

    item_id: str
    domain: str
    semantic_id: SemanticIdParts
    tokens: list[str]
    title: str | None


class ComputedAnswer(Answer):
    """What the tokenizer says today of the content that is stored of an item."""

    codes: list[int]
    experts: list[int]
    agrees: bool = Field(
        description="They are those of the published ID. If not, the content has changed since, or the item came with "
        "more than is stored: as an embedding, or with the bundle, of which only titles are stored."
    )
    quantization_error: float
    expert_weights: dict[str, float] = Field(description="The router's weight of every expert.")

    @classmethod
    def of(cls, computed: Computed) -> ComputedAnswer:
        """From a result of the operation."""
        return cls(
            codes=list(computed.codes),
            experts=list(computed.experts),
            agrees=computed.agrees,
            quantization_error=computed.quantization_error,
            expert_weights=dict(computed.expert_weights),
        )


class NeighbourAnswer(Answer):
    """An item with a semantic ID alike."""

    item_id: str
    title: str | None
    semantic_id: SemanticIdParts
    shared: int = Field(
        description="How many of the codes, experts and suffix agree, from the first on, in the order of `tokens`."
    )

    @classmethod
    def of(cls, neighbour: Neighbour, semantic_id: SemanticId) -> NeighbourAnswer:
        """From a result of the operation."""
        entry = neighbour.entry
        return cls(
            item_id=entry.item_id,
            title=entry.title,
            semantic_id=SemanticIdParts.of(semantic_id),
            shared=neighbour.shared,
        )


class ExplainResponse(ItemAnswer):
    """An item of the catalogue, how its ID comes about, and the items of its domain with the IDs most alike."""

    computed: ComputedAnswer | None = Field(description="Null where no content is stored that the tokenizer reads.")
    alike: list[NeighbourAnswer]


class DomainAnswer(Answer):
    """A domain and how many items it holds."""

    domain: str
    items: int


class DomainsResponse(Generation):
    """Every domain that holds items."""

    domains: list[DomainAnswer]


class BundleResponse(Generation):
    """What is being served, from the bundle's manifest."""

    created: str
    description: str
    layout: dict[str, int | bool]
    embedding_width: int
    experts: list[str]
    text_recipe: str
    recommenders: list[dict[str, Any]]
    items: int = Field(description="Items in the live catalogue, registered ones included.")
    figures: dict[str, Any]


class SwitchRequest(Body):
    """Which ID generation is to be the current one."""

    generation: int = Field(ge=1, le=limits.GENERATION, examples=[2])


class SwitchResponse(Answer):
    """A switch that was made."""

    bundle: str
    before: int | None = Field(description="The one that was current; null where none ever was made so.")
    current: int


class Liveness(Answer):
    """The process answers."""

    status: str


class Readiness(Answer):
    """A real tokenize and a real recommend have succeeded, and the service is not draining."""

    status: str
    checks: dict[str, str]
