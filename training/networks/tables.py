"""Codes that are read from tables: a tree of clusters that is descended, and trained items that are looked up.

Both make an ID of any embedding, trained on or not, by nearness in the space of the embeddings. Symbols: B batch, D
embedding width, L levels, T codes, n trained items, G groups of items with one ID. Knows nothing of how the tables were
found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.networks.tokenized import Shape, Tokenized, TokenizerNetwork


class TreeNetwork(TokenizerNetwork):
    """A tree of clusters: a code is the number of a child among its siblings, the nearest of them at every level.

    Parameters
    ----------
    nodes : of the tree, without the root; the children of a node are consecutive

    Attributes
    ----------
    centres : [nodes, D]
    first, count : int64 [nodes + 1], where the children of a node begin and how many there are; node 0 is the root, and
        row r of `centres` belongs to node r + 1
    """

    centres: Tensor
    first: Tensor
    count: Tensor

    def __init__(self, *, embedding_width: int, levels: int, codes: int, nodes: int) -> None:
        super().__init__()
        self.shape = Shape(embedding_width, embedding_width, levels, codes, experts=1, experts_per_item=0)
        self.register_buffer("centres", torch.zeros(nodes, embedding_width))
        self.register_buffer("first", torch.zeros(nodes + 1, dtype=torch.int64))
        self.register_buffer("count", torch.zeros(nodes + 1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tokenized:
        """See `TokenizerNetwork`."""
        codes, rows = self._descend(x)
        error = (x - self.centres[rows]).square().sum(dim=1)
        return Tokenized.without_router(codes.to(torch.int32), error, x)

    def _descend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes int64 [B, L], and int64 [B] the rows of `centres` where the descent ends."""
        slots = torch.arange(self.shape.codes, device=x.device)
        node = torch.zeros_like(x[:, 0], dtype=torch.int64)
        codes = []
        for _ in range(self.shape.levels):
            rows = (self.first[node].unsqueeze(1) + slots).clamp_max(len(self.centres) - 1)
            squared = (x.unsqueeze(1) - self.centres[rows]).square().sum(dim=2)
            real = slots < self.count[node].unsqueeze(1)
            code = torch.where(real, squared, torch.inf).argmin(dim=1)
            codes.append(code)
            node = self.first[node] + code + 1
        return torch.stack(codes, dim=1), node - 1

    def reconstruct(self, x: Tensor) -> Tensor:
        """See `TokenizerNetwork`: the centre of the last cluster."""
        return self.centres[self._descend(x)[1]]

    def distances(
        self, latent: NDArray[np.float64], expert: int, before: Sequence[int], candidates: Sequence[int]
    ) -> NDArray[np.float64]:
        """See `TokenizerNetwork`."""
        node = 0
        for code in before:
            node = int(self.first[node]) + code + 1
        first, count = int(self.first[node]), int(self.count[node])
        children = np.square(latent - self.centres[first : first + count].double().numpy()).sum(axis=1)
        return np.asarray([children[code] if code < count else np.inf for code in candidates])

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of the clusters' centres."""
        return {"codebook": self.centres.numel()}


class LookupNetwork(TokenizerNetwork):
    """Trained items with their codes: an embedding has those of the nearest item.

    Parameters
    ----------
    items, groups : n trained items of different embeddings, and G different IDs among them

    Attributes
    ----------
    embeddings : [n, D]
    codes : int32 [n, L]
    groups : int64 [n], the items of one ID
    centres : [G, D], mean of a group's embeddings: what an ID says of them
    """

    embeddings: Tensor
    codes: Tensor
    groups: Tensor
    centres: Tensor

    def __init__(self, *, embedding_width: int, levels: int, codes: int, items: int, groups: int) -> None:
        super().__init__()
        self.shape = Shape(embedding_width, embedding_width, levels, codes, experts=1, experts_per_item=0)
        self.register_buffer("embeddings", torch.zeros(items, embedding_width))
        self.register_buffer("codes", torch.zeros(items, levels, dtype=torch.int32))
        self.register_buffer("groups", torch.zeros(items, dtype=torch.int64))
        self.register_buffer("centres", torch.zeros(groups, embedding_width))

    def forward(self, x: Tensor) -> Tokenized:
        """See `TokenizerNetwork`."""
        nearest = self._nearest(x)
        error = (x - self.embeddings[nearest]).square().sum(dim=1)
        return Tokenized.without_router(self.codes[nearest], error, x)

    def _nearest(self, x: Tensor) -> Tensor:
        """int64 [B]; see `ResidualQuantizer.nearest` for the missing term."""
        return (self.embeddings.square().sum(dim=1) / 2 - x @ self.embeddings.T).argmin(dim=1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """See `TokenizerNetwork`."""
        return self.centres[self.groups[self._nearest(x)]]

    def distances(
        self, latent: NDArray[np.float64], expert: int, before: Sequence[int], candidates: Sequence[int]
    ) -> NDArray[np.float64]:
        """See `TokenizerNetwork`: to the nearest item with the codes before and each candidate."""
        codes = self.codes.numpy()
        squared = np.square(latent - self.embeddings.double().numpy()).sum(axis=1)
        level = len(before)
        fits = (codes[:, :level] == np.asarray(before, dtype=np.int32)).all(axis=1)
        return np.asarray([squared[fits & (codes[:, level] == code)].min(initial=np.inf) for code in candidates])

    def parameter_counts(self) -> dict[str, int]:
        """Nothing is learned, but every trained item is kept."""
        return {"kept items": self.embeddings.numel()}
