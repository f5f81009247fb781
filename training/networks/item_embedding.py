"""Embeddings of a catalogue's items, shared (tied) by the input and the output of a network.

Knows nothing of its layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.data.split import PADDING

MASKED = PADDING - 1
"""The mask token of BERT4Rec: an item to be predicted."""


class ItemEmbedding(nn.Module):
    """One row an item, and one for `MASKED` where there is a use for it.

    Parameters
    ----------
    items, width : rows and columns
    masked : whether `MASKED` may occur
    """

    def __init__(self, items: int, width: int, *, masked: bool = False) -> None:
        super().__init__()
        self.scale = width**0.5
        self.table = nn.Parameter(torch.randn(items, width) * 0.02)
        self.mask = nn.Parameter(torch.randn(width) * 0.02) if masked else None

    def forward(self, items: Tensor) -> Tensor:
        """int64 [B, S] -> float32 [B, S, width]; rows at `PADDING` are meaningless."""
        rows: Tensor = nn.functional.embedding(items.clamp(min=0), self.table)
        if self.mask is not None:
            rows = torch.where((items == MASKED)[..., None], self.mask, rows)
        scaled: Tensor = rows * self.scale
        return scaled
