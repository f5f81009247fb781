"""The kinds whose codes do not come from embeddings: category paths, title tokens, atomic IDs.

Training items get their codes from metadata or by number. An item without codes, such as a new one in the service, gets
those of the training item nearest to it by embedding. Of items with equal embeddings only the first counts. Symbols: n
items, L levels, T codes. Knows nothing of data sets.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer as TextTokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import BpeTrainer

from service.errors import ConfigError
from service.progress import Advance
from service.semantic_ids import IntArray
from training.checkpoint import Checkpoint
from training.ids.counts import groups_of
from training.networks.tables import LookupNetwork
from training.networks.tokenized import TokenizerNetwork
from training.tokenizer.description import Description
from training.tokenizer.interface import Tokenizer
from training.tokenizer.items import Extras, TrainingItems
from training.tokenizer.parameters import Codes, Levels, TokenizerParameters

NOTHING = 0
"""Code of a level for which an item has no value."""
MOST_CODES = 1 << 20
"""Greatest number of codes per level that a bundle's manifest allows."""


class Lookup(Tokenizer):
    """Base of the kinds that are a table of training items and their codes."""

    def _learn(
        self, items: TrainingItems, checkpoint: Checkpoint | None, advance: Advance
    ) -> tuple[Description, TokenizerNetwork]:
        x = items.embeddings.numpy()
        _, firsts = np.unique(x, axis=0, return_index=True)
        firsts = np.sort(firsts).astype(np.int64)
        codes = self._codes(items.extras, len(x), firsts)[firsts]
        if codes.max() >= MOST_CODES:
            raise ConfigError(f"{int(codes.max()) + 1} codes at one level, but at most {MOST_CODES} are possible")
        groups = groups_of(codes)
        sizes = {
            "items": len(firsts),
            "groups": int(groups.max()) + 1,
            "levels": codes.shape[1],
            "codes": max(2, int(codes.max()) + 1),
        }
        description = self._described(items, sizes=sizes)
        network = self._build(description)
        network.embeddings.copy_(torch.from_numpy(x[firsts]))
        network.codes.copy_(torch.from_numpy(codes))
        network.groups.copy_(torch.from_numpy(groups))
        counts = torch.bincount(network.groups).unsqueeze(1)
        network.centres.index_add_(0, network.groups, network.embeddings).div_(counts)
        advance(1)
        return description, network

    @abstractmethod
    def _codes(self, extras: Extras, items: int, firsts: NDArray[np.int64]) -> IntArray:
        """Codes of the training items, int32 [n, L]; only the rows `firsts` are used."""

    def _build(self, description: Description) -> LookupNetwork:
        return LookupNetwork(embedding_width=description.embedding_width, **description.sizes)


class AtomicParameters(TokenizerParameters):
    """Atomic IDs: a code of its own for every item."""

    MOVABLE: ClassVar[bool] = False
    kind: Literal["atomic"] = "atomic"


class Atomic(Lookup):
    """L = 1, and T is the number of items."""

    PARAMETERS = AtomicParameters

    def _codes(self, extras: Extras, items: int, firsts: NDArray[np.int64]) -> IntArray:
        codes = np.zeros((items, 1), dtype=np.int32)
        codes[firsts, 0] = np.arange(len(firsts))
        return codes


class CategoryPathParameters(TokenizerParameters):
    """Category paths.

    Attributes
    ----------
    levels : L; a longer path is cut, a shorter one is padded with code 0
    """

    MOVABLE: ClassVar[bool] = False
    kind: Literal["category-path"] = "category-path"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"categories"})
    levels: Levels = 4


class CategoryPath(Lookup):
    """The code of a level is the number of the category among its siblings, from 1 (P5-SemID, Hua et al. 2023).

    The suffix takes the role of the token that P5-SemID appends to distinguish the items of one category.
    """

    PARAMETERS = CategoryPathParameters
    parameters: CategoryPathParameters

    def _codes(self, extras: Extras, items: int, firsts: NDArray[np.int64]) -> IntArray:
        paths = [tuple(path[: self.parameters.levels]) for path in extras.categories or ()]
        children: dict[tuple[str, ...], set[str]] = {}
        for path in paths:
            for level, name in enumerate(path):
                children.setdefault(path[:level], set()).add(name)
        number = {
            (*parent, name): place for parent, names in children.items() for place, name in enumerate(sorted(names), 1)
        }
        codes = np.full((items, self.parameters.levels), NOTHING, dtype=np.int32)
        for row, path in enumerate(paths):
            codes[row, : len(path)] = [number[path[: level + 1]] for level in range(len(path))]
        return codes


class TitleTokensParameters(TokenizerParameters):
    """Title tokens.

    Attributes
    ----------
    levels : L; a longer title is cut, a shorter one is padded with code 0
    codes : T, size of the vocabulary that is learned from the titles
    """

    MOVABLE: ClassVar[bool] = False
    kind: Literal["title-tokens"] = "title-tokens"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"titles"})
    levels: Levels = 4
    codes: Codes = 4096


class TitleTokens(Lookup):
    """Codes are the first tokens of an item's title (P5-TID, Hua et al. 2023), by BPE trained on all titles."""

    PARAMETERS = TitleTokensParameters
    parameters: TitleTokensParameters

    def _codes(self, extras: Extras, items: int, firsts: NDArray[np.int64]) -> IntArray:
        titles = list(extras.titles or ())
        tokens = _vocabulary(titles, self.parameters.codes).encode_batch(titles)
        codes = np.full((items, self.parameters.levels), NOTHING, dtype=np.int32)
        for row, encoding in enumerate(tokens):
            first = encoding.ids[: self.parameters.levels]
            codes[row, : len(first)] = first
        return codes


def _vocabulary(titles: Sequence[str], size: int) -> TextTokenizer:
    """BPE tokenizer, with token 0 reserved for `NOTHING`; characters too rare for the vocabulary are dropped."""
    tokenizer = TextTokenizer(BPE())
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=["[NOTHING]"],
        limit_alphabet=max(1, size // 4),
        show_progress=False,
    )
    tokenizer.train_from_iterator(titles, trainer)
    return tokenizer
