"""By what items are judged behind a history that nobody has met: see `semantic_t5`, which it is a part of.

Knows nothing of networks.

Symbols: B batch, n items of the longest history, M model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ALIKE = 20.0
"""Length of what judges by likeness, so that the decoder's share of a score counts as little as elsewhere."""
MET = 0.25
"""Where more of a history's items are known, likeness does not judge. Not 0: one new ID of some fifty falls by chance
into the slot of a known one."""


def state_or_likeness(state: Tensor, content: Tensor, rows: Any, mask: Any) -> Tensor:
    """What judges.

    Parameters
    ----------
    state : float32 [B, M], the encoder's at the last item
    content : float32 [B, M], what the tokens of that item stand for
    rows, mask : int64 [B, n], as `EncodedItems` has them

    Returns
    -------
    float32 [B, 2 M]: the state and zeros; or, where the last item and nearly all of the history are new and content is
    there to judge by, zeros and its direction
    """
    length = content.norm(dim=1, keepdim=True)
    counts = mask.sum(dim=1, keepdim=True)
    last_is_new = rows.gather(1, counts - 1) == 0
    judges = last_is_new & ((rows > 0).sum(dim=1, keepdim=True) <= MET * counts) & (length > 0)
    alike = content / length.clamp(min=torch.finfo(length.dtype).tiny) * ALIKE
    return torch.cat([torch.where(judges, 0.0, state), torch.where(judges, alike, 0.0)], dim=1)
