"""Knowledge distillation (Hinton, Vinyals and Dean, 2015): the teachers' distribution over items at every training
target, and the resulting loss of a head over items.

Many items could follow a history, but training sees only one of them. Networks trained on the same histories in
different ways together tell which others could have followed, and a student that also learns from them ranks like their
ensemble. Teachers are asked once, before training; their most probable items are kept.

Knows nothing of the kinds of teachers.

Symbols: T interactions of all domains, K items kept of each distribution, w windows, n targets, C items of a domain, d
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
"""Windows scored together, by device: the scores of all items at all their places are in memory at once; on a GPU
enough to fill it."""


@dataclass(frozen=True)
class Places:
    """The targets of some windows, window after window: all items but the first of each.

    Attributes
    ----------
    owners, places : int64 [n], number of the window, and position within it of the item before the target
    at : int64 [n], index of the target in `Corpus.history_items`
    """

    owners: Tensor
    places: Tensor
    at: Tensor

    @classmethod
    def of(cls, windows: ExampleSet) -> Places:
        """All targets of w windows."""
        lengths = torch.from_numpy(windows.stop - windows.start)
        owners = torch.arange(len(lengths)).repeat_interleave(lengths)
        places = torch.arange(len(owners)) - (lengths.cumsum(0) - lengths)[owners]
        return cls(owners, places, torch.from_numpy(windows.start)[owners] + places + 1)


class Teacher(Protocol):
    """A model that scores all items of a domain at every place of a window."""

    @property
    def name(self) -> str:
        """Name, for messages."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that it was trained on."""

    @property
    def digest(self) -> str:
        """SHA-256 of its weights."""

    def scores(self, domain: int, windows: ExampleSet, asked: Places) -> Tensor:
        """Logits of all items of a domain, i.e. log-probabilities up to a constant per row: float32 [n, C]."""


@dataclass(frozen=True)
class Taught:
    """The teachers' expectations: their top K items at every target.

    Attributes
    ----------
    items : int32 [T, K], item numbers over all domains, the most probable first
    shares : float16 [T, K], their probabilities, with sum 1; 0 where there is no target, and in domains that no teacher
        knows
    domains : numbers of the domains that a teacher knows
    digest : SHA-256 of the teachers' digests, which unlike the arrays does not depend on a device's rounding
    """

    items: NDArray[np.int32]
    shares: NDArray[np.float16]
    domains: frozenset[int]
    digest: str

    def loss(self, states: Tensor, vectors: Tensor, answers: Tensor, at: Tensor, first: int) -> Tensor:
        """Cross-entropy with the expectations minus cross-entropy with the answers: a scalar.

        The two share the log-normaliser. With p the shares, y the answer, s a state and v the vectors, the
        cross-entropy with p is `log sum exp(s v) - s sum p v`, so the difference is `s (v_y - sum p v)`.

        Parameters
        ----------
        states : float32 [n, d], the student's states
        vectors : float32 [C, d], of the items of the domain
        answers : int64 [n], the targets, as rows of `vectors`
        at : int64 [n], see `Places`
        first : number of the domain's first item
        """
        items = torch.from_numpy(self.items[at.numpy()]).long().to(states.device) - first
        shares = torch.from_numpy(self.shares[at.numpy()]).float().to(states.device)
        expected = F.embedding_bag(items, vectors, per_sample_weights=shares, mode="sum")
        return (states * (vectors[answers] - expected)).sum(dim=1).mean()


@torch.inference_mode()
def ask(corpus: Corpus, teachers: Sequence[Teacher], kept: int, together: int = WINDOWS["cpu"]) -> Taught:
    """Compute the teachers' expectations at every target of the training part, by the mean of their log-probabilities.

    Only teachers that know a domain are asked about it.

    Parameters
    ----------
    kept : K
    together : windows scored together
    """
    items = np.zeros((len(corpus.history_items), kept), dtype=np.int32)
    digest = hashlib.sha256("".join(sorted(each.digest for each in teachers)).encode()).hexdigest()
    taught = Taught(items, np.zeros(items.shape, dtype=np.float16), known_domains(corpus, teachers), digest)
    rows = np.flatnonzero(np.isin(corpus.windows.domain, sorted(taught.domains)))
    with progress("asking the teachers", len(rows)) as advance:
        for number in sorted(taught.domains):
            knowing = [each for each in teachers if corpus.domains[number] in each.domains]
            own = rows[corpus.windows.domain[rows] == number]
            # Sorted by length, so that there is little padding.
            own = own[np.argsort(corpus.windows.stop[own] - corpus.windows.start[own], kind="stable")]
            # No windows if all histories of a domain are too short to learn from.
            for start in range(0, len(own), together):
                some = own[start : start + together]
                _ask_about(corpus, number, some, knowing, taught)
                advance(len(some))
    return taught


def known_domains(corpus: Corpus, teachers: Sequence[Teacher]) -> frozenset[int]:
    """Numbers of the domains that at least one teacher knows."""
    names = {name for each in teachers for name in each.domains}
    return frozenset(number for number, name in enumerate(corpus.domains) if name in names)


def _ask_about(corpus: Corpus, number: int, rows: IntVector, knowing: Sequence[Teacher], taught: Taught) -> None:
    """Fill in the expectations for the windows `rows`, int64 [w], of one domain."""
    first, end = (int(each) for each in corpus.item_starts[number : number + 2])
    windows = corpus.windows.take(rows)
    asked = Places.of(windows)
    # Log-probabilities up to a constant per row, which changes neither top-k nor softmax.
    total = sum(each.scores(number, windows, asked) for each in knowing)
    kept = min(taught.items.shape[1], end - first)
    best = (torch.as_tensor(total) / len(knowing)).topk(kept, dim=1)
    # If the domain has fewer than K items, the list is padded with one of its items, with share 0.
    taught.items[asked.at.numpy()] = first
    taught.items[asked.at.numpy(), :kept] = (best.indices + first).cpu().numpy()
    taught.shares[asked.at.numpy(), :kept] = best.values.softmax(dim=1).cpu().numpy()
