"""Knowledge distillation (Hinton, Vinyals and Dean, 2015): what teachers expect at every target of training, and the
loss that a head over items has by it.

Many items could follow a history; training has seen one of them. Networks that learned from the same histories before,
each in another way, together say which others could have followed, and a network that also learns from this ranks as
their ensemble does. Teachers are asked once, before training; the items that they expect most are kept.

Knows nothing of what kinds of teachers there are.

Symbols: T interactions of all domains, K items kept of what is expected, w windows, n targets, C items of a domain, d
width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from service.progress import progress
from training.recommender.corpus import Corpus, ExampleSet, IntVector

WINDOWS = {"cpu": 64, "cuda": 256}
"""Asked about together, all scores at each of their places lying in memory at once; on a GPU enough to fill it."""


@dataclass(frozen=True)
class Places:
    """The targets of some windows, window after window: all their items but the first of each.

    Attributes
    ----------
    owners, places : int64 [n], number of the window, and of the item before the target within it
    at : int64 [n], where the target lies in `Corpus.history_items`
    """

    owners: Tensor
    places: Tensor
    at: Tensor

    @classmethod
    def of(cls, windows: ExampleSet) -> Places:
        """All of the windows, int64 [w] each."""
        lengths = torch.from_numpy(windows.stop - windows.start)
        owners = torch.arange(len(lengths)).repeat_interleave(lengths)
        places = torch.arange(len(owners)) - (lengths.cumsum(0) - lengths)[owners]
        return cls(owners, places, torch.from_numpy(windows.start)[owners] + places + 1)


class Teacher(Protocol):
    """Something that scores all items of a domain at every place of a window."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Those that it knows."""

    @property
    def digest(self) -> str:
        """SHA-256 of what it learned."""

    def scores(self, domain: int, windows: ExampleSet, asked: Places) -> Tensor:
        """Of the items of a domain, in units of log-probabilities but for a number a row: float32 [n, C]."""


@dataclass(frozen=True)
class Taught:
    """What is expected.

    Attributes
    ----------
    items : int32 [T, K], numbers over all domains, the likeliest first
    shares : float16 [T, K], of the expectation, one together; 0 where nothing is a target, and in domains that no
        teacher knows
    domains : numbers of those that one knows
    digest : SHA-256 of what the teachers learned, which tells two teachings apart where two devices round otherwise
    """

    items: NDArray[np.int32]
    shares: NDArray[np.float16]
    domains: frozenset[int]
    digest: str

    def loss(self, states: Tensor, vectors: Tensor, answers: Tensor, at: Tensor, first: int) -> Tensor:
        """What makes of the cross-entropy with the answers that with the expectations, when it is added: a scalar.

        The two differ in what is wanted alone. With p the shares, y the answer, s a state and v the vectors, the
        cross-entropy with p is `log sum exp(s v) - s sum p v`, so the difference is `s (v_y - sum p v)`.

        Parameters
        ----------
        states : float32 [n, d], what is asked
        vectors : float32 [C, d], of the items of the domain
        answers : int64 [n], the targets among them
        at : int64 [n], as of `Places`
        first : number of the domain's first item
        """
        items = torch.from_numpy(self.items[at.numpy()]).long().to(states.device) - first
        shares = torch.from_numpy(self.shares[at.numpy()]).float().to(states.device)
        expected = F.embedding_bag(items, vectors, per_sample_weights=shares, mode="sum")
        return (states * (vectors[answers] - expected)).sum(dim=1).mean()


@torch.inference_mode()
def ask(corpus: Corpus, teachers: Sequence[Teacher], kept: int, together: int = WINDOWS["cpu"]) -> Taught:
    """Ask the teachers about every target of the training part: the mean of their log-probabilities counts.

    A domain is asked of those that know it.

    Parameters
    ----------
    kept : K
    together : windows asked about at once
    """
    items = np.zeros((len(corpus.history_items), kept), dtype=np.int32)
    digest = hashlib.sha256("".join(sorted(each.digest for each in teachers)).encode()).hexdigest()
    taught = Taught(items, np.zeros(items.shape, dtype=np.float16), known_domains(corpus, teachers), digest)
    rows = np.flatnonzero(np.isin(corpus.windows.domain, sorted(taught.domains)))
    with progress("asking the teachers", len(rows)) as advance:
        for number in sorted(taught.domains):
            knowing = [each for each in teachers if corpus.domains[number] in each.domains]
            own = rows[corpus.windows.domain[rows] == number]
            # Windows of about the same length together, so that there is little padding.
            own = own[np.argsort(corpus.windows.stop[own] - corpus.windows.start[own], kind="stable")]
            # None at all where all histories of a domain are too short to learn from.
            for start in range(0, len(own), together):
                some = own[start : start + together]
                _ask_about(corpus, number, some, knowing, taught)
                advance(len(some))
    return taught


def known_domains(corpus: Corpus, teachers: Sequence[Teacher]) -> frozenset[int]:
    """Numbers of the domains that one of the teachers knows."""
    names = {name for each in teachers for name in each.domains}
    return frozenset(number for number, name in enumerate(corpus.domains) if name in names)


def _ask_about(corpus: Corpus, number: int, rows: IntVector, knowing: Sequence[Teacher], taught: Taught) -> None:
    """Fill in what is expected of the windows `rows`, int64 [w], of one domain."""
    first, end = (int(each) for each in corpus.item_starts[number : number + 2])
    windows = corpus.windows.take(rows)
    asked = Places.of(windows)
    # Log-probabilities but for a number a row, which makes no difference to what follows.
    total = sum(each.scores(number, windows, asked) for each in knowing)
    kept = min(taught.items.shape[1], end - first)
    best = (torch.as_tensor(total) / len(knowing)).topk(kept, dim=1)
    # Where more would be kept than there are, the rest is an item of the domain too, of no share.
    taught.items[asked.at.numpy()] = first
    taught.items[asked.at.numpy(), :kept] = (best.indices + first).cpu().numpy()
    taught.shares[asked.at.numpy(), :kept] = best.values.softmax(dim=1).cpu().numpy()
