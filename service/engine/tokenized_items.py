"""What an item tokenizer makes of embeddings, in training and serving alike. Knows nothing of networks.

Symbols: B items, L levels, K experts, N experts chosen, d latent width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TokenizedItems:
    """Codes and experts of B items, and what led to them.

    Attributes
    ----------
    codes : int32 [B, L], of the first expert
    experts : int32 [B, N], by falling gate; N is 0 without a router
    gate : float32 [B, K], how the router weighs all experts
    quantization_error : float32 [B], squared distance between the latent and the sum of the emitted codes
    latent : float32 [B, d]
    """

    codes: NDArray[np.int32]
    experts: NDArray[np.int32]
    gate: NDArray[np.float32]
    quantization_error: NDArray[np.float32]
    latent: NDArray[np.float32]
