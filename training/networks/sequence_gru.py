"""GRU4Rec: a gated recurrent network over the items of a history. Knows nothing of how it is trained.

Symbols: B batch, S sequence, d width.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.networks.item_embedding import ItemEmbedding


class SequenceGRU(nn.Module):
    """Item embeddings, recurrent layers, and a projection back to the embeddings' space.

    Parameters
    ----------
    items : of the catalogue
    width, layers, dropout : shape
    """

    def __init__(self, items: int, *, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.items = ItemEmbedding(items, width)
        self.recurrent = nn.GRU(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.output, self.norm, self.dropout = nn.Linear(width, width), nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, items: Tensor) -> Tensor:
        """int64 [B, S], `PADDING` at the end, which no earlier position sees -> float32 [B, S, d]."""
        states, _ = self.recurrent(self.dropout(self.items(items)))
        out: Tensor = self.norm(self.output(self.dropout(states)))
        return out
