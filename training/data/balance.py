"""How many samples of each domain an epoch takes, if it does not take every item or example once.

Knows nothing of what is sampled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def domain_quotas(sizes: NDArray[np.int64], balance: float, total: int) -> NDArray[np.int64]:
    """Samples per domain in an epoch of about `total`: int64 [domains], in proportion to sizes^balance.

    With a balance of 1 they are proportional to the sizes, with 0 equal for all domains; empty domains get none.
    """
    weights = np.where(sizes > 0, sizes.astype(np.float64) ** balance, 0.0)
    quotas: NDArray[np.int64] = np.rint(total * weights / weights.sum()).astype(np.int64)
    return quotas
