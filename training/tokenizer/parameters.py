"""Knobs that all tokenizers have, those of the ones that learn an autoencoder, and UniTok's, checked strictly.

An unknown key or a value out of range is an error that names it. The defaults of N, L, T, d, beta and the weights of
the loss are the UniTok paper's, and so are AdamW and its first rate; schedule, start, revival, balance and the rest
are ours. docs/tokenizers.md lists what differs, and why. Knows nothing of data sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from training.configuration import Count, Natural, NotNegative, Positive, Seed, Share, Strict
from training.networks.unitok import Weights

Levels = Annotated[int, Field(ge=1, le=8)]
Codes = Annotated[int, Field(ge=2, le=65536)]


@dataclass(frozen=True)
class Routing:
    """How an autoencoder's codes are organised: K, N (0 without a router), and whether there is a shared expert."""

    experts: int
    experts_per_item: int
    shared: bool


class TokenizerParameters(Strict):
    """What every kind of tokenizer has.

    Attributes
    ----------
    kind : names the kind; see `training.tokenizer.kinds`
    seed : of everything random
    MOVABLE : whether an item may have any code of the last level, so that a repair can move it
    NEEDS : what the kind must know of items besides their embeddings, fields of `training.tokenizer.items.Extras`
    """

    MOVABLE: ClassVar[bool] = True
    NEEDS: ClassVar[frozenset[str]] = frozenset()

    kind: str
    seed: Seed = 0

    def steps(self, items: int) -> int:
        """How often a training on so many items reports that it advanced."""
        return 1


class AutoencoderParameters(TokenizerParameters):
    """Shape, loss and schedule of a tokenizer that learns an autoencoder with its codes.

    Attributes
    ----------
    levels, codes, latent_width : L, T, d
    hidden : widths of the encoder's hidden layers; None: halving powers of two, see `networks.mlp.hidden_widths`
    alpha, lambda_rq : weights of the commitment term in Eq. 8, and of Eq. 8
    learning_rate, final_learning_rate, weight_decay : AdamW; the rate falls along a cosine while codes are learned
    batch_size : items of a batch, domains mixed
    warmup_epochs : epochs as a plain autoencoder, before there are codes
    epochs : epochs with codes
    domain_balance : a domain is drawn in proportion to its size to this power: 1 takes every item once an epoch,
        0 takes every domain equally often
    kmeans_iterations : iterations of the k-means that starts every level
    revive_below : a code used by less than this share of the even use of its codebook starts anew somewhere useful
    revive_until : share of the epochs with codes in which codes are revived; the rest lets them settle
    balance : how hard crowded codes are handicapped at first; see `review.rebalance`; 0: not at all
    balance_kept : share of it that is left at the end, to which it falls evenly over the epochs with codes
    """

    levels: Levels = 4
    codes: Codes = 256
    latent_width: Count = 32
    hidden: tuple[Count, ...] | None = None
    alpha: NotNegative = 0.25
    lambda_rq: NotNegative = 1.0
    learning_rate: Positive = 1e-3
    final_learning_rate: NotNegative = 1e-4
    weight_decay: NotNegative = 0.01
    batch_size: Annotated[int, Field(ge=2)] = 1024
    warmup_epochs: Natural = 5
    epochs: Count = 20
    domain_balance: Share = 1.0
    kmeans_iterations: Count = 25
    revive_below: Share = 0.05
    revive_until: Share = 0.8
    balance: NotNegative = 0.0
    balance_kept: Share = 0.0

    def routing(self, domains: int) -> Routing:
        """One expert for all, whatever the number of domains."""
        return Routing(1, 0, shared=False)

    def weights(self) -> Weights:
        """Of the parts of the loss."""
        return Weights(alpha=self.alpha, lambda_rq=self.lambda_rq, lambda_mi=0.0)

    def batches(self, items: int) -> int:
        """Steps of one epoch over so many items."""
        return max(1, round(items / self.batch_size))

    def steps(self, items: int) -> int:
        """Steps of a whole training on so many items."""
        return (self.warmup_epochs + self.epochs) * self.batches(items)


class Parameters(AutoencoderParameters):
    """UniTok. Its ablations are values of these: 3 has `lambda_mi` 0, 2 no shared expert either, 1 no experts at all.

    Attributes
    ----------
    experts_per_item : N
    domain_experts : one expert for every domain trained on, and a router; without, one for all and no expert in the ID
    shared_expert : whether there is one that is always active
    beta, lambda_mi : weights of Eq. 10 and 11
    bandwidth_x, bandwidth_z : fixed bandwidths of the kernels of Eq. 9; None: the median heuristic, a batch and domain
    """

    kind: Literal["unitok"] = "unitok"
    experts_per_item: Annotated[int, Field(ge=1, le=4)] = 1
    domain_experts: bool = True
    shared_expert: bool = True
    balance: NotNegative = 0.2
    beta: NotNegative = 1.0
    lambda_mi: NotNegative = 0.03
    bandwidth_x: Positive | None = None
    bandwidth_z: Positive | None = None

    @model_validator(mode="after")
    def _one_expert_serves_alone(self) -> Self:
        if not self.domain_experts and self.experts_per_item != 1:
            raise ValueError("experts_per_item must be 1 where domain_experts is false: there is one expert")
        return self

    def routing(self, domains: int) -> Routing:
        """One expert a domain, unless switched off."""
        if not self.domain_experts:
            return Routing(1, 0, self.shared_expert)
        return Routing(domains, self.experts_per_item, self.shared_expert)

    def weights(self) -> Weights:
        """Of the parts of the loss."""
        return Weights(
            alpha=self.alpha,
            beta=self.beta,
            lambda_rq=self.lambda_rq,
            lambda_mi=self.lambda_mi,
            bandwidth_x=self.bandwidth_x,
            bandwidth_z=self.bandwidth_z,
        )
