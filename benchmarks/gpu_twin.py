"""The search in torch that training validates with, as a peer: any device, plain eager calls.

Symbols: B batch, W beams.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration

from benchmarks.gpu_setting import Network, Setting
from benchmarks.recommenders import Histories, searching
from benchmarks.rows import Row
from service.engine.sessions import Provider
from service.index.trie import TrieArrays
from training.recommender.beam_search import TrieTensors, beam_search


@dataclass(frozen=True)
class Twin:
    """Weights and index on a device.

    Attributes
    ----------
    beams : W
    rows : requests taken at once; every beam repeats the keys and values of its request's history
    """

    beams: int
    rows: int
    _model: T5ForConditionalGeneration
    _trie: TrieTensors
    _device: torch.device

    @classmethod
    def of(
        cls, model: T5ForConditionalGeneration, arrays: TrieArrays, provider: Provider, beams: int, rows: int
    ) -> Twin:
        """Copies of both."""
        device = torch.device(provider)
        return cls(beams, rows, copy.deepcopy(model).to(device), TrieTensors.of(arrays, device), device)

    def search(self, asked: Histories) -> NDArray[np.int64]:
        """Ranked leaves below node 0: int64 [B, W]."""
        history, mask = (torch.from_numpy(each).to(self._device) for each in (asked.tokens, asked.mask))
        roots = torch.zeros(len(history), dtype=torch.int64, device=self._device)
        found = [
            beam_search(self._model, tokens, read, self._trie, first, beams=self.beams).cpu()
            for tokens, read, first in zip(*(self._parts(each) for each in (history, mask, roots)), strict=True)
        ]
        return np.asarray(torch.cat(found).numpy())

    def _parts(self, whole: torch.Tensor) -> list[torch.Tensor]:
        return [whole[first : first + self.rows] for first in range(0, len(whole), self.rows)]


def twin_rows_of(setting: Setting, network: Network) -> Iterator[Row]:
    """Both searches of one index: milliseconds, and how many ranked lists are equal."""
    trie, rows, limits = setting.twin_index, setting.twin_rows, setting.limits
    twin = Twin.of(network.model, trie.arrays(), setting.runtime.provider, setting.beams, rows)
    for batch in setting.batches:
        asked = setting.asked[batch]
        search = searching(network.recommender, asked, trie.arrays(), setting.beams)
        equal = int((search().leaf == twin.search(asked)).all(axis=1).sum())
        theirs, ours = limits.median(partial(twin.search, asked), warm=1), limits.median(search)
        note = f"torch {torch.__version__}, eager, at most {rows} requests at once; {equal} of {batch} lists equal"
        name = f"{setting.name(trie.leaf_count(0), batch)}, {network.reads}"
        yield Row(f"search beside torch's, {name}", ours, "ms", theirs, note)
