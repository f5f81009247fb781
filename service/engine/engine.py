"""The parts of one bundle, opened together: text encoder, item tokenizer, recommenders.

Independent of HTTP and of the catalogue.
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
    """Interface of a text encoder; see `TextEncoder`."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...


class TokenizesItems(Protocol):
    """Interface of an item tokenizer; see `ItemTokenizer`."""

    width: int

    def tokenize(self, embeddings: NDArray[Any], domains: Sequence[str] = ()) -> TokenizedItems: ...


class SearchesItems(Protocol):
    """Interface of a recommender; see `Recommender`."""

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
    """The parts that compute the codes of items; opened without the recommenders, which take long to open."""

    text_encoder: TextEncoder
    item_tokenizer: ItemTokenizer

    @classmethod
    def open(cls, bundle: Bundle, runtime: Runtime) -> ItemParts:
        """Open both graphs.

        Raises
        ------
        BundleError : a graph's signature differs from its part of the manifest, the two graphs do not fit each other,
            or the manifest names another text recipe than this version's
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
    """The graphs of one bundle.

    Parameters
    ----------
    bundle : the bundle of the parts
    text_encoder, item_tokenizer, recommenders : the parts; recommenders in the order of the manifest

    Attributes
    ----------
    layout : shape of the bundle's semantic IDs; domain tokens are in each recommender's own layout
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
        bundle : an opened bundle, so its hashes have been checked
        provider : where the graphs run; a missing provider is an error
        threads : threads of one operator, 0 for every core
        spin_microseconds : see `Runtime`

        Raises
        ------
        BundleError : a graph's signature differs from its part of the manifest; also see `ItemParts.open`
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
        """Choose the recommender for a request over some domains.

        First choice: a recommender trained on all of them, with the fewest other domains. Second: one trained on every
        domain. Third: the one trained on most of them. Ties go to the first in the manifest.
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
