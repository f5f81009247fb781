"""How a new item draws the state that judges to its like: see `semantic_t5`, which it is a part of.

Knows nothing of networks.

Symbols: B batch, M model width, m likeness.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIKENESS = "item_likeness"
"""Tensor of a network that has it: float32 [H, m], H as `token_tables.head_rows`, of a mean square length of 1 an
item."""
ALIKE, STATE_OF_NEW = 20.0, 0.25
"""What likeness counts behind a new item, and what the encoder's state does. Only their ratio matters to a list; scores
stay as small as those of other lists, or rounding would decide between beams."""


def drawn_to_likes(state: Tensor, content: Tensor, rows: Tensor) -> Tensor:
    """The state that judges.

    Parameters
    ----------
    state : float32 [B, M], the encoder's at the last item
    content : float32 [B, m], what the tokens of that item stand for
    rows : int64 [B], of its ID; 0: it is new

    Returns
    -------
    float32 [B, M + m]; zeros behind the state of an item that is not new, or of whose content nothing is known
    """
    length = content.norm(dim=1, keepdim=True)
    is_new = (rows[:, None] == 0) & (length > 0)
    alike = content / length.clamp(min=torch.finfo(length.dtype).tiny) * ALIKE
    return torch.cat([torch.where(is_new, state * STATE_OF_NEW, state), torch.where(is_new, alike, 0.0)], dim=1)
