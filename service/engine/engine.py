"""The parts of one bundle, opened together: text encoder, item tokenizer, recommenders.

Knows nothing of HTTP and of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.files import Bundle
from service.bundle.manifest import MANIFEST, RecommenderPart
from service.engine.item_tokenizer import ItemTokenizer
from service.engine.recommender import BeamResult, Recommender
from service.engine.resident import ResidentIndexes
from service.engine.sessions import Provider, Runtime
from service.engine.text_encoder import TextEncoder
from service.engine.tokenized_items import TokenizedItems
from service.errors import BundleError
from service.index.trie import TrieArrays
from service.items import TEXT_RECIPE
from service.semantic_ids import IntArray, TokenLayout


class EncodesTexts(Protocol):
    """What is asked of a text encoder; see `TextEncoder`."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...


class TokenizesItems(Protocol):
    """What is asked of an item tokenizer; see `ItemTokenizer`."""

    width: int

    def tokenize(self, embeddings: NDArray[Any], domains: Sequence[str] = ()) -> TokenizedItems: ...


class SearchesItems(Protocol):
    """What is asked of a recommender; see `Recommender`."""

    @property
    def part(self) -> RecommenderPart: ...

    @property
    def layout(self) -> TokenLayout: ...

    def search(  # noqa: PLR0917  the order of docs/architecture.md
        self,
        history: NDArray[np.int64],
        history_mask: NDArray[np.int64],
        index: TrieArrays,
        roots: IntArray,
        blocked: IntArray,
        beams: int,
    ) -> BeamResult: ...


@dataclass(frozen=True, slots=True)
class ItemParts:
    """What of a bundle gives items their codes; opened without the recommenders, which take long."""

    text_encoder: TextEncoder
    item_tokenizer: ItemTokenizer

    @classmethod
    def open(cls, bundle: Bundle, runtime: Runtime) -> ItemParts:
        """Open both graphs.

        Raises
        ------
        BundleError : a graph has another signature than its part of the manifest says, the two do not fit each other,
            or the texts are meant to be composed by another recipe than ours
        ProviderUnavailable : the provider is not in this installation
        """
        text, tokenizer = bundle.manifest.text_encoder, bundle.manifest.item_tokenizer
        if text.recipe != TEXT_RECIPE:
            raise BundleError(
                f"{bundle.folder / MANIFEST}: text_encoder.recipe is {text.recipe!r}, but this version composes texts "
                f"by {TEXT_RECIPE!r}"
            )
        encoder_path, tokenizer_path = bundle.path(text.model), bundle.path(tokenizer.model)
        encoder = TextEncoder.open(encoder_path, bundle.path(text.tokenizer), text.max_tokens, runtime)
        item_tokenizer = ItemTokenizer.open(tokenizer_path, tokenizer, runtime)
        if encoder.width != item_tokenizer.width:
            raise BundleError(
                f"{encoder_path}: writes {encoder.width} values a text, but {tokenizer_path} reads embeddings of "
                f"{item_tokenizer.width}"
            )
        return cls(encoder, item_tokenizer)


class Engine:
    """Everything of a bundle that computes.

    Parameters
    ----------
    bundle : where the parts come from
    text_encoder, item_tokenizer, recommenders : the parts; recommenders in the order of the manifest

    Attributes
    ----------
    layout : shape of the bundle's semantic IDs; domain tokens are a matter of each recommender's own layout
    """

    def __init__(
        self,
        bundle: Bundle,
        text_encoder: TextEncoder,
        item_tokenizer: ItemTokenizer,
        recommenders: Sequence[Recommender],
    ) -> None:
        self.bundle = bundle
        self.text_encoder = text_encoder
        self.item_tokenizer = item_tokenizer
        self.recommenders = tuple(recommenders)
        self.layout = bundle.manifest.token_layout()

    @classmethod
    def open(cls, bundle: Bundle, provider: Provider = "cpu", threads: int = 0, spin_microseconds: int = 0) -> Engine:
        """Open every graph of a bundle.

        Parameters
        ----------
        bundle : opened, so its hashes are known to be right
        provider : where the graphs run; one that is missing is an error
        threads : threads of one operator, 0 for every core
        spin_microseconds : see `Runtime`

        Raises
        ------
        BundleError : a graph has another signature than its part of the manifest says, or see `ItemParts.open`
        ProviderUnavailable : the provider is not in this installation
        """
        runtime = Runtime(provider, threads, spin_microseconds=spin_microseconds)
        manifest = bundle.manifest
        parts = ItemParts.open(bundle, runtime)
        item_tokenizer = parts.item_tokenizer
        found = (item_tokenizer.levels, item_tokenizer.experts, item_tokenizer.experts_per_item)
        said = (manifest.layout.levels, manifest.layout.experts, manifest.layout.experts_per_item)
        if found != said:
            raise BundleError(
                f"{bundle.path(manifest.item_tokenizer.model)}: writes L, K, N = {found}, but the manifest says {said}"
            )
        resident = ResidentIndexes(runtime) if provider == "cuda" else None
        recommenders = [
            Recommender.open(
                bundle.path(part.model),
                part,
                manifest.token_layout(part),
                runtime,
                resident,
                captured=provider == "cuda",
                for_gpu=manifest.for_gpu,
            )
            for part in manifest.recommenders
        ]
        return cls(bundle, parts.text_encoder, item_tokenizer, recommenders)

    def recommender_for(self, domains: Sequence[str]) -> Recommender:
        """The recommender for a request over some domains.

        The one trained on all of them, on as few others as possible; if there is none, one for every domain; else the
        one trained on most of them. The first in the manifest wins among equals.
        """
        asked = frozenset(domains)

        def fit(recommender: Recommender) -> tuple[int, int]:
            trained_on = recommender.part.domains
            if not trained_on:
                return (1, 0)
            if asked <= frozenset(trained_on):
                return (0, len(trained_on))
            return (2, -len(asked.intersection(trained_on)))

        return min(self.recommenders, key=fit)
