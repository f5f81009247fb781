"""Parameters common to all tokenizers, to those that learn an autoencoder, and of UniTok, checked strictly.

An unknown key or a value out of range is an error that names it. The defaults of N, L, T, d, beta, the weights of the
loss, AdamW and its initial learning rate are those of the UniTok paper; schedule, initialisation, revival, balance and
the rest are ours. docs/tokenizers.md lists the differences and their reasons. Knows nothing of data sets.
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
    """Experts of an autoencoder: K, N (0 without a router), and whether there is a shared expert."""

    experts: int
    experts_per_item: int
    shared: bool


class TokenizerParameters(Strict):
    """Parameters of every kind of tokenizer.

    Attributes
    ----------
    kind : name of the kind; see `training.tokenizer.kinds`
    seed : of all random numbers
    MOVABLE : whether an item may have any code of the last level, so that a repair can move it
    NEEDS : inputs that the kind needs besides embeddings, fields of `training.tokenizer.items.Extras`
    """

    MOVABLE: ClassVar[bool] = True
    NEEDS: ClassVar[frozenset[str]] = frozenset()

    kind: str
    seed: Seed = 0

    def steps(self, items: int) -> int:
        """Steps that a training on this many items reports as progress."""
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
    domain_balance : a domain is drawn in proportion to its size to this power: 1 takes every item once per epoch, 0
        takes every domain equally often
    kmeans_iterations : iterations of the k-means that initialises every level
    revive_below : a code used less than this share of uniform use of its codebook is dead, and re-initialised
    revive_until : share of the epochs with codes in which codes are revived; in the rest they settle
    balance : initial strength of the handicap on crowded codes; see `review.rebalance`; 0: none
    balance_kept : share of this strength left at the end; it falls linearly over the epochs with codes
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
        """Weights of the parts of the loss."""
        return Weights(alpha=self.alpha, lambda_rq=self.lambda_rq, lambda_mi=0.0)

    def batches(self, items: int) -> int:
        """Steps of one epoch over this many items."""
        return max(1, round(items / self.batch_size))

    def steps(self, items: int) -> int:
        """Steps of a whole training on this many items."""
        return (self.warmup_epochs + self.epochs) * self.batches(items)


class Parameters(AutoencoderParameters):
    """UniTok. The paper's ablations are settings of these: 3 has `lambda_mi` 0, 2 also no shared expert, 1 no experts.

    Attributes
    ----------
    experts_per_item : N
    domain_experts : one expert per training domain, and a router; otherwise one for all, and no expert in the ID
    shared_expert : whether there is a shared expert, which is always active
    beta, lambda_mi : weights of Eq. 10 and 11
    bandwidth_x, bandwidth_z : fixed bandwidths of the kernels of Eq. 9; None: the median heuristic per batch and domain
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
        """One expert per domain, unless switched off."""
        if not self.domain_experts:
            return Routing(1, 0, self.shared_expert)
        return Routing(domains, self.experts_per_item, self.shared_expert)

    def weights(self) -> Weights:
        """Weights of the parts of the loss."""
        return Weights(
            alpha=self.alpha,
            beta=self.beta,
            lambda_rq=self.lambda_rq,
            lambda_mi=self.lambda_mi,
            bandwidth_x=self.bandwidth_x,
            bandwidth_z=self.bandwidth_z,
        )
