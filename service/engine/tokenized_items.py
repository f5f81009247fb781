"""The output of an item tokenizer, in training and serving alike. Independent of networks.

Symbols: B items, L levels, K experts, N experts chosen, d latent width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TokenizedItems:
    """Codes and experts of B items, with the gate, quantization error and latent of each.

    Attributes
    ----------
    codes : int32 [B, L], codes of the first expert
    experts : int32 [B, N], in descending order of gate weight; N is 0 without a router
    gate : float32 [B, K], the router's weights of all experts
    quantization_error : float32 [B], squared distance between the latent and the sum of the emitted codes
    latent : float32 [B, d]
    """

    codes: NDArray[np.int32]
    experts: NDArray[np.int32]
    gate: NDArray[np.float32]
    quantization_error: NDArray[np.float32]
    latent: NDArray[np.float32]
