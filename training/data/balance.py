"""How much of each domain an epoch takes, where it does not take every item or example once.

Knows nothing of what is taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def domain_quotas(sizes: NDArray[np.int64], balance: float, total: int) -> NDArray[np.int64]:
    """How many an epoch of about `total` takes of each domain: int64 [domains], in proportion to sizes^balance.

    A balance of 1 takes of each as many as it has, 0 of each the same; nothing of a domain that has nothing.
    """
    weights = np.where(sizes > 0, sizes.astype(np.float64) ** balance, 0.0)
    quotas: NDArray[np.int64] = np.rint(total * weights / weights.sum()).astype(np.int64)
    return quotas
