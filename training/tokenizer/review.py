"""Review of all items after an epoch: use of codes, re-initialisation of dead codes, handicap of crowded codes.

Symbols: n items, m quantised rows (n or n * N), N experts per item, E sets of codebooks, L levels, T codes, d latent
width. Knows nothing of losses or schedules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.networks.residual_quantizer import ResidualQuantizer
from training.networks.unitok import UniTokNetwork

CHUNK = 4096


@dataclass(frozen=True)
class Assignment:
    """Result of quantising all items with one bank of codebooks.

    Attributes
    ----------
    sets : int64 [m], the set of the bank that served the row
    codes : int64 [m, L]
    residuals : float32 [m, L, d], input of each level
    error : float32 [m, L], squared norm of the residual after each level
    """

    sets: Tensor
    codes: Tensor
    residuals: Tensor
    error: Tensor

    def usage(self, sets: int, codes: int) -> NDArray[np.int64]:
        """Number of uses of each code: int64 [E, L, T]."""
        levels = self.codes.shape[1]
        flat = (self.sets[:, None] * levels + torch.arange(levels)) * codes + self.codes
        counts = torch.bincount(flat.reshape(-1), minlength=sets * levels * codes)
        return counts.reshape(sets, levels, codes).numpy()


@dataclass(frozen=True)
class Review:
    """All items, quantised by each of their experts and by the shared expert.

    Attributes
    ----------
    experts : n * N rows, the N experts of an item in adjacent rows, by descending gate: all that take part in Eq. 5
    experts_per_item : N; 1 without a router
    shared : n rows; None if the network has no shared expert
    """

    experts: Assignment
    experts_per_item: int
    shared: Assignment | None

    @property
    def first(self) -> Assignment:
        """Assignment by the first expert, whose codes are the item's (Eq. 7): n rows."""
        every, step = self.experts, self.experts_per_item
        return Assignment(every.sets[::step], every.codes[::step], every.residuals[::step], every.error[::step])


def review(network: UniTokNetwork, embeddings: Tensor) -> Review:
    """Quantise all embeddings float32 [n, D] as in inference."""
    moe, training = network.moe, network.training
    network.eval()
    parts: list[list[Assignment]] = [[], []]
    with torch.no_grad():
        for x in torch.split(embeddings, CHUNK):
            z = network.encoder(x)
            experts = moe.route(z).experts
            repeated = z.repeat_interleave(experts.shape[1], dim=0)
            parts[0].append(_assign(moe.experts, repeated, experts.reshape(-1)))
            if moe.shared is not None:
                parts[1].append(_assign(moe.shared, z, torch.zeros_like(experts[:, 0])))
    network.train(training)
    return Review(_joined(parts[0]), max(1, moe.experts_per_item), _joined(parts[1]) if parts[1] else None)


def _assign(quantizer: ResidualQuantizer, z: Tensor, sets: Tensor) -> Assignment:
    quantized = quantizer(z, sets)
    error = (quantized.residuals - quantized.vectors).square().sum(dim=2)
    return Assignment(sets, quantized.codes, quantized.residuals, error)


def _joined(parts: list[Assignment]) -> Assignment:
    return Assignment(
        torch.cat([part.sets for part in parts]),
        torch.cat([part.codes for part in parts]),
        torch.cat([part.residuals for part in parts]),
        torch.cat([part.error for part in parts]),
    )


def revive(
    quantizer: ResidualQuantizer,
    assignment: Assignment,
    below: float,
    optimizer: torch.optim.Optimizer,
    random: np.random.Generator,
) -> int:
    """Re-initialise dead codes, in place, and return their number.

    A code is dead if it serves less than `below` times the uniform share of its set's rows. It restarts at the residual
    of one of these rows, drawn in proportion to the error after its level, and so where codes are missing. Its moments
    in the optimiser are reset, or they would move the new code in the old one's direction. A set that served no item is
    left unchanged.
    """
    sets, levels, codes, _ = quantizer.codebooks.shape
    usage = assignment.usage(sets, codes)
    state = optimizer.state.get(quantizer.codebooks, {})
    moments = [state[name] for name in ("exp_avg", "exp_avg_sq") if name in state]
    revived = 0
    for owner in range(sets):
        rows = torch.nonzero(assignment.sets == owner).squeeze(1)
        if len(rows) == 0:
            continue
        for level in range(levels):
            error = assignment.error[rows, level].double().numpy()
            dead = np.flatnonzero(usage[owner, level] < below * len(rows) / codes)
            dead = dead[: np.count_nonzero(error)]
            if len(dead) == 0:
                continue
            picks = rows[random.choice(len(rows), size=len(dead), replace=False, p=error / error.sum())]
            where = (owner, level, torch.from_numpy(dead))
            with torch.no_grad():
                quantizer.codebooks[where] = assignment.residuals[picks, level]
            for moment in moments:
                moment[where] = 0
            revived += len(dead)
    return revived


HANDICAP_KEPT = 0.6
"""Share of a handicap kept in the next epoch: without decay, codes that have already moved would be pushed further."""
LEAST_USE, MOST_USE = 1 / math.e, math.e
"""Bounds to which a code's use, relative to uniform use, is clipped; beyond them a handicap grows no faster."""


def rebalance(quantizer: ResidualQuantizer, assignment: Assignment, strength: float) -> None:
    """Update the handicaps for the next epoch, in place: crowded codes are handicapped, rarely used ones favoured.

    The handicap of a code grows by strength * (mean squared error after its level) * log(its use relative to uniform
    use): frequency-sensitive competitive learning (DeSieno 1988, Ahalt et al. 1990), once per epoch. Since it is in
    units of the level's own error, one strength fits every level and expert.

    Parameters
    ----------
    assignment : of all items, by distance alone, without handicaps
    strength : 0 for none
    """
    sets, _, codes, _ = quantizer.codebooks.shape
    usage = assignment.usage(sets, codes)
    served = usage.sum(axis=2)
    even = np.maximum(served, 1)[..., None] / codes
    error = np.zeros(served.shape)
    np.add.at(error, assignment.sets.numpy(), assignment.error.double().numpy())
    error /= np.maximum(served, 1)
    grown = strength * error[..., None] * np.log(np.clip(usage / even, LEAST_USE, MOST_USE))
    grown[served == 0] = 0.0
    with torch.no_grad():
        quantizer.handicap.mul_(HANDICAP_KEPT).add_(torch.from_numpy(grown).to(quantizer.handicap))
