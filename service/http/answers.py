"""Bodies of answers, built from the operations' results, each field described. Knows nothing of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from service.semantic_ids import SemanticId

if TYPE_CHECKING:
    # Only imported for types, so that a client can use these models without an installed engine.
    from service.catalogue.view import Neighbour
    from service.operations.explaining import Computed
    from service.operations.recommending import Recommendations
    from service.operations.tokenizing import TokenizedItem


class Answer(BaseModel):
    """Base of responses."""

    model_config = ConfigDict(frozen=True)


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
    tokens: list[str] = Field(
        description="The tokens that a recommender reads for the item in a history; with the suffix unless that is 0."
    )
    quantization_error: float = Field(description="Squared distance in latent space between the item and its codes.")
    expert_weights: dict[str, float] = Field(description="The router's weight for each expert.")

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
        description="Its log-probability given the history and the tokens before it. With a head over items, this is "
        "mixed with the change that the token makes in the best score of the head below it."
    )


class RecommendedItem(Answer):
    """One recommendation."""

    item_id: str
    domain: str
    score: float = Field(
        description="Log-probability of the semantic ID given the history. With a head over items, it is mixed with "
        "the head's score, or the head's score alone; then only the order of scores has a meaning."
    )
    semantic_id: SemanticIdParts
    title: str | None
    score_by_level: list[TokenScoreAnswer] | None = Field(
        default=None,
        exclude_if=lambda levels: levels is None,
        description="With `explain`: the contributions of the codes, experts and suffix, which add up to the score.",
    )


class KnownItemName(Answer):
    """An item named by a request."""

    item_id: str
    domain: str


class RecommendResponse(Generation):
    """Recommendations, best first."""

    items: list[RecommendedItem]
    unknown_history: list[KnownItemName] = Field(
        description="History entries that were ignored: in no catalogue, and sent without content."
    )

    @classmethod
    def of(cls, bundle: str, generation: int, found: Recommendations) -> RecommendResponse:
        """From a result of the operation, whose parts have the names of the fields."""
        parts = {"items": found.items, "unknown_history": found.unknown}
        return cls.model_validate({"bundle": bundle, "generation": generation, **parts}, from_attributes=True)


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
        description="Whether they equal those of the published ID. If not, the content has changed since, or the ID "
        "was computed from more than is stored: from an embedding, or from the bundle, of which only titles are stored."
    )
    quantization_error: float
    expert_weights: dict[str, float] = Field(description="The router's weight for each expert.")

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
    shared: int = Field(description="How many of codes, experts and suffix the two share, from the first token on.")

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

    computed: ComputedAnswer | None = Field(
        description="Null if none of the content that the tokenizer reads is stored."
    )
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


class SwitchResponse(Answer):
    """A switch that was made."""

    bundle: str
    before: int | None = Field(description="The generation that was current before; null if there was none.")
    current: int


class Liveness(Answer):
    """The process answers."""

    status: str


class Readiness(Answer):
    """A real tokenize and a real recommend have succeeded, and the service is not draining."""

    status: str
    checks: dict[str, str]
