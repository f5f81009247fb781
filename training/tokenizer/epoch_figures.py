"""Figures of one epoch of an autoencoder with codes: one line of the training log.

Knows nothing of how it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.ids.counts import groups_of, perplexities, sharing
from training.tokenizer.items import TrainingItems
from training.tokenizer.review import Assignment


@dataclass(frozen=True)
class EpochFigures:
    """One line of the training log.

    Attributes
    ----------
    epoch : counted from 1, the warm-up included
    phase : "warm-up" or "codes"
    reconstruction, quantization : mean over items of Eq. 3 and Eq. 8
    hsic : mean over batches and domains of Eq. 9; 0 where its weight in the loss is 0, since it is not computed then
    terms : mean over batches of the kind's own loss terms, by name, unweighted
    perplexity : by domain, by level, of the codes in the expert that serves most of the domain; empty in the warm-up
    own_expert : by domain, the share of its items that this expert serves
    sharing : by domain, the share of items that share codes and expert with another item
    revived : dead codes re-initialised after this epoch
    """

    epoch: int
    phase: str
    reconstruction: float
    quantization: float
    hsic: float
    terms: dict[str, float]
    perplexity: dict[str, list[float]]
    own_expert: dict[str, float]
    sharing: dict[str, float]
    revived: int

    def note(self) -> str:
        """Short form, shown beside the progress bar."""
        if not self.perplexity:
            return f"{self.phase}: reconstruction {self.reconstruction:.3f}"
        lowest = min(self.perplexity, key=lambda name: min(self.perplexity[name]))
        levels = "/".join(f"{value:.0f}" for value in self.perplexity[lowest])
        shared = float(np.mean(list(self.sharing.values())))
        return (
            f"reconstruction {self.reconstruction:.3f}, lowest perplexity {levels} ({lowest}), "
            f"sharing {shared:.1%}, revived {self.revived}"
        )


@dataclass(frozen=True)
class CodeUse:
    """Use of codes by domain; the fields are those of `EpochFigures`."""

    perplexity: dict[str, list[float]]
    own_expert: dict[str, float]
    sharing: dict[str, float]


def code_use(items: TrainingItems, first: Assignment) -> CodeUse:
    """Compute the use of codes by domain.

    Parameters
    ----------
    first : assignment of every item, by its first expert
    """
    use = CodeUse({}, {}, {})
    for number, name in enumerate(items.names):
        rows = items.domains == number
        sets, codes = first.sets[rows].numpy(), first.codes[rows].numpy()
        served = codes[sets == np.bincount(sets).argmax()]
        use.perplexity[name] = [round(value, 1) for value in perplexities(served)]
        use.own_expert[name] = round(len(served) / len(codes), 4)
        use.sharing[name] = round(sharing(groups_of(np.column_stack([sets, codes]))), 4)
    return use
