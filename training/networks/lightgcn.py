"""LightGCN: embeddings of users and items, smoothed over the user-item interaction graph.

Layer k+1 of a user is the sum over the user's items of their layer k, weighed by 1 / sqrt(degree * degree), and the
other way round; the result is the mean over the layers (He et al. 2020, Eq. 3 and 4). Knows nothing of losses.

Symbols: U users, d width.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Smoothed:
    """`users` float32 [U, d] and `items` float32 [items, d] after propagation."""

    users: Tensor
    items: Tensor


class _Product(torch.autograd.Function):
    """A sparse matrix times a dense one; its transpose, made once, serves the gradient."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ gradient


class LightGCN(nn.Module):
    """Embeddings and the graph over which they are smoothed.

    Parameters
    ----------
    users, items : int64 [edges], who had what; repetitions count once
    shape : U and items
    width, layers : of the embeddings; steps of smoothing
    """

    def __init__(
        self, users: NDArray[np.int64], items: NDArray[np.int64], shape: tuple[int, int], *, width: int, layers: int
    ) -> None:
        super().__init__()
        self.layers = layers
        self.users = nn.Parameter(torch.randn(shape[0], width) * 0.1)
        self.items = nn.Parameter(torch.randn(shape[1], width) * 0.1)
        edges = np.unique(np.stack([users, items]), axis=1)
        degrees = [np.bincount(side, minlength=size) for side, size in zip(edges, shape, strict=True)]
        weights = 1.0 / np.sqrt(degrees[0][edges[0]] * degrees[1][edges[1]])
        values = torch.from_numpy(weights.astype(np.float32))
        matrix = torch.sparse_coo_tensor(torch.from_numpy(edges), values, shape, check_invariants=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")  # its product is all we ask of it
            self.register_buffer("matrix", matrix.coalesce().to_sparse_csr(), persistent=False)
            self.register_buffer("transposed", matrix.t().coalesce().to_sparse_csr(), persistent=False)

    def forward(self) -> Smoothed:
        """Smooth all embeddings."""
        users, items = self.users, self.items
        user_sum, item_sum = users, items
        for _ in range(self.layers):
            users, items = (
                _Product.apply(self.matrix, self.transposed, items),  # type: ignore[no-untyped-call]
                _Product.apply(self.transposed, self.matrix, users),  # type: ignore[no-untyped-call]
            )
            user_sum, item_sum = user_sum + users, item_sum + items
        return Smoothed(user_sum / (self.layers + 1), item_sum / (self.layers + 1))
