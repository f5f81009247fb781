"""The manifest of a bundle: a strict, versioned schema.

Independent of ONNX: the contents of a file are checked where it is loaded.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.bundle.repeats import LearnedRepeats
from service.semantic_ids import TokenLayout

MANIFEST = "manifest.json"
SCHEMA_VERSION: Final = 2
"""Increased when the required contents of a bundle's files change; models/README.md lists the changes."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestModel(BaseModel):
    """Base of every part: unknown keys are refused, values are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Layout(ManifestModel):
    """Shape of a semantic ID; see `service.semantic_ids.TokenLayout`."""

    levels: Annotated[int, Field(ge=1, le=8)]
    codes: Annotated[int, Field(ge=2, le=1_048_576)]
    experts: Annotated[int, Field(ge=1, le=4096)]
    experts_per_item: Annotated[int, Field(ge=0, le=4)]
    suffixes: Annotated[int, Field(ge=1, le=65536)]
    expert_first: bool = False


class TextEncoderPart(ManifestModel):
    """`text_encoder.onnx` with its `tokenizer.json`."""

    model: str = "text_encoder.onnx"
    tokenizer: str = "tokenizer.json"
    max_tokens: Annotated[int, Field(ge=1, le=8192)]
    recipe: str
    source: str


class ItemTokenizerPart(ManifestModel):
    """`item_tokenizer.onnx`: D is `embedding_width`, K experts are named by `expert_names`.

    `quantization_error` is the mean over the bundle's own catalogue, by domain; older bundles do not say it.
    `alignments` is the file of alignments of domains that it was not trained on; None where there are none.
    """

    model: str = "item_tokenizer.onnx"
    alignments: str | None = None
    embedding_width: Annotated[int, Field(ge=1, le=65536)]
    latent_width: Annotated[int, Field(ge=1, le=65536)]
    expert_names: list[str]
    quantization_error: dict[str, Annotated[float, Field(ge=0)]] = {}


class RecommenderPart(ManifestModel):
    """One `recommender.onnx`.

    Attributes
    ----------
    domains : it was trained on; an empty list: every domain
    repeats : by domain, what items gain, or lose, that the history holds and that are not excluded
    """

    name: Name
    model: str
    domains: list[str]
    domain_tokens: list[str]
    max_history: Annotated[int, Field(ge=1, le=1024)]
    repeats: dict[str, LearnedRepeats] = {}


class CataloguePart(ManifestModel):
    """`catalogue/items.parquet`: item_id, domain, title, codes, experts, suffix."""

    path: str = "catalogue/items.parquet"
    items: Annotated[int, Field(ge=0)]


class Manifest(ManifestModel):
    """Everything the service must know of a bundle before it opens a model file."""

    schema_version: Literal[2]
    name: Name
    generation: Annotated[int, Field(ge=1)]
    created: str
    description: str
    layout: Layout
    text_encoder: TextEncoderPart
    item_tokenizer: ItemTokenizerPart
    recommenders: Annotated[list[RecommenderPart], Field(min_length=1)]
    catalogue: CataloguePart
    files: dict[str, Sha256]
    figures: dict[str, Any] = {}

    @field_validator("schema_version", mode="before")
    @classmethod
    def _is_of_this_version(cls, found: Any) -> Any:
        if found != SCHEMA_VERSION:
            raise ValueError(
                f"is {found!r}, but {SCHEMA_VERSION} is read here; export the bundle anew from its stages' folders"
            )
        return found

    @model_validator(mode="after")
    def _parts_are_listed(self) -> Manifest:
        parts = [self.text_encoder.model, self.text_encoder.tokenizer, self.item_tokenizer.model, self.catalogue.path]
        parts += [recommender.model for recommender in self.recommenders]
        parts += [self.item_tokenizer.alignments] if self.item_tokenizer.alignments else []
        for part in parts:
            if part not in self.files:
                raise ValueError(f"{part!r} is used by the manifest but has no hash under 'files'")
        for path in self.files:
            if path.startswith("/") or ".." in path.split("/") or "\\" in path:
                raise ValueError(f"{path!r} must be a relative path inside the bundle")
        if len(self.item_tokenizer.expert_names) != self.layout.experts:
            raise ValueError(
                f"item_tokenizer.expert_names has {len(self.item_tokenizer.expert_names)} names, "
                f"but layout.experts is {self.layout.experts}"
            )
        names = [recommender.name for recommender in self.recommenders]
        if len(set(names)) != len(names):
            raise ValueError(f"recommenders have equal names: {names}")
        return self

    @property
    def for_gpu(self) -> bool:
        """Whether its recommenders are laid out for a GPU; False for older bundles, which lack the figure."""
        return bool(self.figures.get("laid_out_for") == "gpu")

    def token_layout(self, recommender: RecommenderPart | None = None) -> TokenLayout:
        """Layout of the tokens that a recommender reads and writes; None: only the tokens of semantic IDs."""
        domains = () if recommender is None else tuple(recommender.domain_tokens)
        return TokenLayout(**self.layout.model_dump(), domains=domains)
