"""The vector that scores items by likeness after a history without known items. A part of `semantic_t5`.

Knows nothing of networks.

Symbols: B batch, n items of the longest history, M model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ALIKE = 20.0
"""Length of the vector that scores by likeness: the decoder's share of a score then counts as little as elsewhere."""


def state_or_likeness(state: Tensor, content: Tensor, rows: Any, mask: Any) -> Tensor:
    """The vector whose product with an item's is the head's score.

    Parameters
    ----------
    state : float32 [B, M], the encoder's at the last item
    content : float32 [B, M], the sum of the likeness rows of that item's tokens
    rows, mask : int64 [B, n], as `EncodedItems` has them

    Returns
    -------
    float32 [B, 2 M]: the state and zeros; or, where no item of the history is known and there is content, zeros and the
    content's direction
    """
    length = content.norm(dim=1, keepdim=True)
    applies = ~((rows > 0) & (mask > 0)).any(dim=1, keepdim=True) & (length > 0)
    alike = content / length.clamp(min=torch.finfo(length.dtype).tiny) * ALIKE
    return torch.cat([torch.where(applies, 0.0, state), torch.where(applies, alike, 0.0)], dim=1)
