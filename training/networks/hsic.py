"""The Hilbert-Schmidt independence criterion and the calibration loss built on it (UniTok paper, Eq. 9 and 10).

Symbols: n items of one domain in a batch, U and V their Gaussian kernel matrices over embeddings and latents.
Bandwidths: a fixed sigma, or the median heuristic (sigma is the median distance between two different items of the
batch), which makes the measure blind to the scale of its inputs. Centring subtracts nearly equal numbers, so all of it
runs in float64; the matrices are small. The estimator of Eq. 9 is biased upwards by about 1 / n, so a domain with few
items in a batch reads higher than one with many; and HSIC with such kernels is of the order of 1e-3, its variance of
1e-6, which is next to nothing beside the squared error (docs/results.md). Knows nothing of networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST_ITEMS = 4
"""A domain with fewer items in a batch is left out of that batch's estimate: its HSIC would be mostly bias."""


def squared_distances(rows: Tensor) -> Tensor:
    """[n, d] -> float64 [n, n], symmetric, with an exact zero diagonal and nothing below zero."""
    centred = rows.double() - rows.double().mean(dim=0, keepdim=True)
    squares = centred.square().sum(dim=1)
    distances = (squares[:, None] + squares[None, :] - 2 * centred @ centred.T).clamp_min(0)
    return distances * (1 - torch.eye(len(rows), dtype=distances.dtype, device=rows.device))


def median_bandwidth(distances: Tensor) -> Tensor:
    """Median heuristic: the median distance of two different items, from squared distances [n, n]; a constant.

    Where more than half the pairs are equal the median is 0 and the root mean square takes its place; where all
    are, 1.
    """
    off_diagonal = ~torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    squares = distances.detach()[off_diagonal]
    for squared in (squares.median(), squares.mean()):
        if squared > 0:
            return squared.sqrt()
    return torch.ones((), dtype=distances.dtype, device=distances.device)


def gaussian_kernel(rows: Tensor, bandwidth: float | None = None) -> Tensor:
    """exp(-||a - b||^2 / (2 sigma^2)) for all pairs of rows [n, d]; `None` chooses sigma by the median heuristic."""
    distances = squared_distances(rows)
    sigma = median_bandwidth(distances) if bandwidth is None else bandwidth
    return torch.exp(-distances / (2 * sigma**2))


def hsic(x: Tensor, z: Tensor, bandwidth_x: float | None = None, bandwidth_z: float | None = None) -> Tensor:
    """Eq. 9: Tr(U H V H) / (n - 1)^2 for embeddings [n, D] and latents [n, d]; a float64 scalar, differentiable."""
    count = len(x)
    kernel_x = gaussian_kernel(x, bandwidth_x)
    # H U H without two matrix products: centring takes the row means, the column means and adds back the mean.
    centred = kernel_x - kernel_x.mean(dim=0, keepdim=True) - kernel_x.mean(dim=1, keepdim=True) + kernel_x.mean()
    return (centred * gaussian_kernel(z, bandwidth_z)).sum() / (count - 1) ** 2


@dataclass(frozen=True)
class Calibration:
    """The calibration loss of a batch.

    Attributes
    ----------
    loss : scalar, Eq. 10; 0 where no domain had enough items
    domains : int64 [m], the domains that took part
    values : [m], their HSIC
    """

    loss: Tensor
    domains: Tensor
    values: Tensor


def no_calibration(z: Tensor) -> Calibration:
    """The result where calibration is off or no domain has enough items; z [B, d] gives device and dtype alone."""
    return Calibration(z.new_zeros((), dtype=torch.float64), z.new_zeros(0, dtype=torch.int64), z.new_zeros(0))


def calibration(
    x: Tensor,
    z: Tensor,
    domains: Tensor,
    *,
    beta: float = 1.0,
    bandwidth_x: float | None = None,
    bandwidth_z: float | None = None,
) -> Calibration:
    """Eq. 10: variance over domains (the population's) minus beta times the mean of HSIC.

    Parameters
    ----------
    x, z : embeddings [B, D] and latents [B, d] of a batch of mixed domains
    domains : int64 [B]
    """
    present, counts = torch.unique(domains, return_counts=True)
    present = present[counts >= FEWEST_ITEMS]
    if len(present) == 0:
        return no_calibration(z)
    values = torch.stack([hsic(x[rows], z[rows], bandwidth_x, bandwidth_z) for rows in _rows_of(domains, present)])
    loss = values.var(correction=0) - beta * values.mean()
    return Calibration(loss, present, values)


def _rows_of(domains: Tensor, present: Tensor) -> list[Tensor]:
    return [torch.nonzero(domains == domain).squeeze(1) for domain in present]
