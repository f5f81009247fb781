"""Every knob of UniTok, checked strictly: an unknown key or a value out of range is an error that names it.

The defaults are the UniTok paper's where it states them. Knows nothing of data sets or networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.configuration import checked, read_toml

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Parameters(BaseModel):
    """Shape, loss and schedule of one tokenizer.

    Attributes
    ----------
    levels, codes, latent_width, experts_per_item : L, T, d, N; K is the number of domains trained on
    hidden : widths of the encoder's hidden layers; None: halving powers of two, see `networks.mlp.hidden_widths`
    alpha, beta, lambda_rq, lambda_mi : weights of Eq. 8, 10 and 11
    bandwidth_x, bandwidth_z : fixed bandwidths of the kernels of Eq. 9; None: the median heuristic, a batch and domain
    learning_rate, final_learning_rate, weight_decay : AdamW; the rate falls along a cosine while codes are learned
    batch_size : items of a batch, domains mixed
    warmup_epochs : epochs as a plain autoencoder, before there are codes
    epochs : epochs with codes
    domain_balance : a domain is drawn in proportion to its size to this power: 1 takes every item once an epoch,
        0 takes every domain equally often
    kmeans_iterations : iterations of the k-means that starts every level
    revive_below : a code used by less than this share of the even use of its codebook starts anew somewhere useful
    revive_until : share of the epochs with codes in which codes are revived; the rest lets them settle
    seed : of everything random
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    levels: Annotated[int, Field(ge=1, le=8)] = 4
    codes: Annotated[int, Field(ge=2, le=65536)] = 256
    latent_width: Count = 32
    experts_per_item: Annotated[int, Field(ge=1, le=4)] = 1
    hidden: tuple[Count, ...] | None = None
    alpha: NotNegative = 0.25
    beta: NotNegative = 1.0
    lambda_rq: NotNegative = 1.0
    lambda_mi: NotNegative = 0.03
    bandwidth_x: Positive | None = None
    bandwidth_z: Positive | None = None
    learning_rate: Positive = 1e-3
    final_learning_rate: NotNegative = 1e-4
    weight_decay: NotNegative = 0.01
    batch_size: Annotated[int, Field(ge=2)] = 1024
    warmup_epochs: Annotated[int, Field(ge=0)] = 5
    epochs: Count = 20
    domain_balance: Share = 1.0
    kmeans_iterations: Count = 25
    revive_below: Share = 0.05
    revive_until: Share = 0.8
    seed: Annotated[int, Field(ge=0)] = 0

    def batches(self, items: int) -> int:
        """Steps of one epoch over so many items."""
        return max(1, round(items / self.batch_size))

    def steps(self, items: int) -> int:
        """Steps of a whole training on so many items."""
        return (self.warmup_epochs + self.epochs) * self.batches(items)


class StageParameters(Parameters):
    """What the configuration file of `unitok train-tokenizer` may hold.

    Attributes
    ----------
    train_domains : domains to learn from, one expert each; None: all of the dataset
    id_domains : domains to give IDs to, learned from or not; None: all of the dataset
    suffixes : how many items of one domain may share their codes and experts
    threads : of the processor; 0 takes every core
    """

    train_domains: tuple[str, ...] | None = None
    id_domains: tuple[str, ...] | None = None
    suffixes: Annotated[int, Field(ge=1, le=65536)] = 1024
    threads: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _domains_differ(self) -> Self:
        for key in ("train_domains", "id_domains"):
            names = getattr(self, key)
            if names is not None and len(set(names)) != len(names):
                raise ValueError(f"{key} names a domain twice")
            if names == ():
                raise ValueError(f"{key} is empty; leave it out for every domain")
        return self

    def tokenizer(self) -> Parameters:
        """The part that the tokenizer itself takes."""
        return Parameters(**{name: getattr(self, name) for name in Parameters.model_fields})


def read_stage_parameters(path: Path | None, overrides: Mapping[str, Any]) -> StageParameters:
    """Read a TOML file; without one, the defaults. Overrides come from the command line and win.

    Raises
    ------
    ConfigError : the file is missing, no TOML, or holds an unknown key or a wrong value
    """
    where = "command line" if path is None else str(path)
    return checked(StageParameters, {**read_toml(path), **overrides}, where)
