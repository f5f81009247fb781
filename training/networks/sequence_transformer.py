"""A pre-norm transformer over the items of a history: SASRec where it is causal, BERT4Rec where it is not.

Knows nothing of how it is trained.

Symbols: B batch, S sequence, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.split import PADDING
from training.networks.item_embedding import ItemEmbedding


class Block(nn.Module):
    """Attention and a feed-forward layer of four times the width, each behind a norm and added to the stream."""

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal, self.drop = heads, causal, dropout
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor, visible: Tensor | None) -> Tensor:
        """float32 [B, S, d] -> [B, S, d]; `visible` bool [B, 1, 1, S]: what may be attended to, where not causal."""
        batch, length, width = stream.shape
        parts = self.query_key_value(self.attention_norm(stream))
        query, key, value = parts.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.drop if self.training else 0.0
        seen = F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=dropout, is_causal=self.causal
        )
        stream = stream + self.dropout(self.output(seen.transpose(1, 2).reshape(batch, length, width)))
        out: Tensor = stream + self.dropout(self.feed_forward(self.feed_forward_norm(stream)))
        return out


class SequenceTransformer(nn.Module):
    """Item and position embeddings, blocks, a last norm.

    Padding stands at the end: a causal network never sees it, a bidirectional one masks it. Positions are counted from
    the oldest item in a causal network and from the newest in a bidirectional one, where the item to be predicted thus
    always has the same position.

    Parameters
    ----------
    items : of the catalogue
    length : of the longest sequence
    width, layers, heads, dropout : shape
    causal : whether a position sees the earlier ones alone; if not, `MASKED` may occur
    """

    def __init__(
        self, items: int, length: int, *, width: int, layers: int, heads: int, dropout: float, causal: bool
    ) -> None:
        super().__init__()
        self.causal = causal
        self.items = ItemEmbedding(items, width, masked=not causal)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, causal=causal) for _ in range(layers))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, items: Tensor) -> Tensor:
        """int64 [B, S], `PADDING` at the end -> float32 [B, S, d]."""
        at, visible = torch.arange(items.shape[1], device=items.device), None
        if not self.causal:
            present = items != PADDING
            at = (present.sum(dim=1, keepdim=True) - 1 - at).clamp(min=0)
            visible = present[:, None, None, :]
        stream = self.dropout(self.items(items) + self.positions[at])
        for block in self.blocks:
            stream = block(stream, visible)
        out: Tensor = self.norm(stream)
        return out
