"""What a kind may add to the loss, and what some do: LETTER's alignment with histories and diversity, CoST's contrast.

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
    """What a kind adds to the loss while codes are learned.

    Attributes
    ----------
    name, weight : for the log, and in the loss
    """

    name: str
    weight: float

    def start_epoch(self, network: UniTokNetwork, epoch: int) -> None:
        """Called before every epoch with codes; what happens must depend on nothing but network, epoch and seed."""

    def __call__(self, passed: Passed, rows: Tensor) -> Tensor:
        """The term of one batch, a scalar; `rows` int64 [B] are its items."""


class Contrast:
    """CoST: what is decoded from an item's codes must be nearer to its own embedding than to the others of the batch.

    InfoNCE over cosines, in place of the squared error.
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
    """LETTER: an item's quantised latent must be nearer to its own collaborative vector than to those of others.

    Cross-entropy of inner products as they are, over the batch: no lengths are made equal, no temperature. Vectors of
    different domains come from different histories and cannot be compared, so the others are those of the item's
    domain; items that no history holds take no part.

    Parameters
    ----------
    collaborative : float32 [n, d], unit length; rows of zeros where there is no history
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
    """LETTER: the codes of a level fall into clusters; a code is drawn to another of its cluster, away from the rest.

    Cross-entropy of inner products as they are, averaged over the items of the batch, so a code counts as often as it
    is used. Meant to keep the codes evenly spread and so evenly used. LETTER's clusters are of equal size, ours those
    of k-means, found anew before every epoch; LETTER draws the other code anew for every item, we for every epoch.

    Parameters
    ----------
    clusters : of every level
    seed : of k-means, and of the choice of the other code
    """

    name = "diversity"

    def __init__(self, weight: float, clusters: int, seed: int) -> None:
        self.weight = weight
        self.clusters = clusters
        self.seed = seed
        self._quantizer: ResidualQuantizer | None = None
        self._partner = torch.zeros(0, 0, dtype=torch.int64)

    def start_epoch(self, network: UniTokNetwork, epoch: int) -> None:
        """Cluster the codes and draw for each its partner of this epoch; a code alone in its cluster has none."""
        self._quantizer = network.moe.experts
        random = np.random.default_rng([self.seed, epoch])
        partners = []
        for level, codebook in enumerate(self._quantizer.codebooks[0].detach().numpy()):
            centres = kmeans(codebook, min(self.clusters, len(codebook)), 10, self.seed + level)
            cluster = np.square(codebook[:, None] - centres[None]).sum(axis=2).argmin(axis=1)
            partner = np.arange(len(codebook))
            for members in (np.flatnonzero(cluster == number) for number in range(len(centres))):
                # A random cycle through the cluster: everyone is the partner of one other.
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
