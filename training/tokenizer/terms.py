"""Further loss terms of some kinds: LETTER's alignment (with collaborative vectors) and diversity, CoST's contrast.

Symbols: B batch, D embedding width, d latent width, L levels, T codes. Knows nothing of the rest of the loss.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.networks.residual_quantizer import ResidualQuantizer
from training.networks.unitok import Passed, UniTokNetwork
from training.tokenizer.start import kmeans

NEVER = float("-inf")


class Term(Protocol):
    """A loss term that a kind adds in the epochs with codes.

    Attributes
    ----------
    name : name in the log
    weight : weight in the loss
    """

    name: str
    weight: float

    def start_epoch(self, network: UniTokNetwork, epoch: int) -> None:
        """Called before every epoch with codes; the result may depend on network, epoch and seed alone."""

    def __call__(self, passed: Passed, rows: Tensor) -> Tensor:
        """The term of one batch, a scalar; `rows` int64 [B] are its items."""


class Contrast:
    """CoST: InfoNCE over cosines, instead of the squared error.

    What is decoded from an item's codes must be closer to its own embedding than to the others of the batch.
    """

    name = "contrast"

    def __init__(self, weight: float, temperature: float) -> None:
        self.weight = weight
        self.temperature = temperature

    def start_epoch(self, network: UniTokNetwork, epoch: int) -> None:
        """Nothing to prepare."""

    def __call__(self, passed: Passed, rows: Tensor) -> Tensor:
        """See `Term`."""
        decoded, x = functional.normalize(passed.decoded, dim=1), functional.normalize(passed.x, dim=1)
        return functional.cross_entropy(decoded @ x.T / self.temperature, torch.arange(len(x), device=x.device))


class Alignment:
    """LETTER: an item's quantised latent must be closer to its own collaborative vector than to those of other items.

    Cross-entropy of plain inner products over the batch, without normalisation or temperature. Vectors of different
    domains come from different histories and are not comparable, so the negatives are items of the same domain. Items
    without history are left out.

    Parameters
    ----------
    collaborative : float32 [n, d], unit length; rows of zeros for items without history
    domains : int64 [n]
    """

    name = "alignment"

    def __init__(self, weight: float, collaborative: Tensor, domains: Tensor) -> None:
        self.weight = weight
        self.collaborative = collaborative
        self.domains = domains

    def start_epoch(self, network: UniTokNetwork, epoch: int) -> None:
        """Nothing to prepare."""

    def __call__(self, passed: Passed, rows: Tensor) -> Tensor:
        """See `Term`."""
        known = self.collaborative[rows].any(dim=1)
        if not known.any():
            return passed.z.new_zeros(())
        rows, quantised = rows[known], passed.mixed.z_hat[known]
        similar = quantised @ self.collaborative[rows].T
        domains = self.domains[rows]
        foreign = domains.unsqueeze(1) != domains.unsqueeze(0)
        return functional.cross_entropy(
            similar.masked_fill(foreign, NEVER), torch.arange(len(rows), device=similar.device)
        )


class Diversity:
    """LETTER: each code is attracted to another code of its cluster and repelled from the rest of its level.

    Cross-entropy of plain inner products, averaged over the items of the batch, so a code counts as often as it is
    used. It is meant to keep the codes evenly spread and so evenly used. LETTER's clusters have equal size; ours come
    from k-means before every epoch. LETTER draws the other code, the partner, for every item; we draw it every epoch.

    Parameters
    ----------
    clusters : of every level
    seed : of k-means, and of the choice of the partners
    """

    name = "diversity"

    def __init__(self, weight: float, clusters: int, seed: int) -> None:
        self.weight = weight
        self.clusters = clusters
        self.seed = seed
        self._quantizer: ResidualQuantizer | None = None
        self._partner = torch.zeros(0, 0, dtype=torch.int64)

    def start_epoch(self, network: UniTokNetwork, epoch: int) -> None:
        """Cluster the codes and draw each code's partner for this epoch; a code alone in its cluster has none."""
        self._quantizer = network.moe.experts
        random = np.random.default_rng([self.seed, epoch])
        partners = []
        for level, codebook in enumerate(self._quantizer.codebooks[0].detach().numpy()):
            centres = kmeans(codebook, min(self.clusters, len(codebook)), 10, self.seed + level)
            cluster = np.square(codebook[:, None] - centres[None]).sum(axis=2).argmin(axis=1)
            partner = np.arange(len(codebook))
            for members in (np.flatnonzero(cluster == number) for number in range(len(centres))):
                # A random cycle through the cluster: each code is the partner of exactly one other.
                cycle = random.permutation(members)
                partner[cycle] = np.roll(cycle, 1)
            partners.append(partner)
        self._partner = torch.from_numpy(np.stack(partners))

    def __call__(self, passed: Passed, rows: Tensor) -> Tensor:
        """See `Term`."""
        if self._quantizer is None:
            return passed.z.new_zeros(())
        codes = passed.mixed.codes()
        total = passed.z.new_zeros(())
        for level, codebook in enumerate(self._quantizer.codebooks[0]):
            used, uses = torch.unique(codes[:, level], return_counts=True)
            partner = self._partner[level][used]
            similar = codebook[used] @ codebook.T
            itself = functional.one_hot(used, len(codebook)).bool() & (partner != used).unsqueeze(1)
            apart = functional.cross_entropy(similar.masked_fill(itself, NEVER), partner, reduction="none")
            total = total + (apart * uses).sum() / len(codes)
        return total / self._partner.shape[0]
