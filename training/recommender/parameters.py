"""Every knob of the recommender's training, checked strictly: an unknown key or a wrong value is an error naming it.

Knows nothing of data sets; the network's shape is `training.networks.t5.T5Settings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from training.configuration import (
    BelowOne,
    Count,
    Natural,
    NotNegative,
    Positive,
    Seed,
    Share,
    Strict,
    checked,
    read_toml,
)
from training.networks.t5 import T5Settings

OF_ITEMS = ("item_loss", "item_negatives", "new_windows", "new_items", "decoded_per_window", "word_items")
"""Parameters that say nothing to a network which reads tokens."""


class RecommenderParameters(Strict):
    """What the configuration file of `unitok train-recommender` may hold.

    Attributes
    ----------
    network : shape of the T5, a table `[network]`
    domains : domains to learn from; None: all of the dataset
    domain_token : whether a history starts with a token of its domain
    expert_first : whether the token of an item's expert, where it has one, comes before those of its codes; see
        `TokenLayout`
    domain_balance : a domain is drawn in proportion to its examples to this power: 1 takes every example once an
        epoch, 0 takes every domain equally often
    examples_per_user : examples of one user in an epoch, drawn anew each time; None: all
    max_history : items of a history, the latest
    epochs : at most so many
    minutes : time after which training ends with what it has; the learning rate reaches its end by then
    batch_tokens : padded tokens of a batch, encoder's and decoder's together, on one device
    learning_rate, weight_decay, warmup_steps, schedule : AdamW; after the warm-up the rate falls along a cosine to 0
        or with the inverse square root of the step
    label_smoothing : share of the target's probability that is spread over the vocabulary
    item_loss : weight of the cross-entropy over items, where the network reads items
    item_negatives : items of its domain that the head tells a target from, drawn anew each step; all where there are
        fewer
    new_windows, new_items : where the network reads items: share of the windows that it learns from as if items were
        new, and the chance that one of their items is, be it read or judged; an item's tokens thus learn to stand
        alone, as those of an item that comes after training must
    decoded_per_window : where the network reads items: items of a window whose tokens the decoder learns to write
    content_start : share of content in the token vectors that training begins with; above 0 it needs the items'
        embeddings
    word_items : where the network reads items: words of titles, brands and categories that so many items of a domain
        share have vectors too, of which those of known items are in part made while they are learned; 0: none
    teaching : share of what teachers expect, where some were given, in what the head over items learns to say; the
        rest is the item that was seen
    taught_items : likeliest items that are kept of what they expect in a place, six bytes each in memory
    clip_norm : largest norm of a gradient
    average : decay of a moving average of the weights, which is then validated and kept in place of them; 0: none
    validations_per_epoch : how often NDCG@10 is measured, at the item level, items of the history kept in the lists of
        a domain or taken out, whichever is better
    validation_users : users measured, spread evenly over the domains
    validation_beams : beams of that search, where there is one: a head that judges alone is asked about all items
    patience : validations without a new best before training ends
    checkpoint_seconds : time between checkpoints, from which a killed run goes on; one follows every new best as well
    seed : of everything random
    threads : of the processor; 0 takes every core
    bf16_products : whether a processor multiplies float32 matrices in bf16 and sums in float32, as a GPU does in any
        case; where it has the instructions that is twice as fast, elsewhere it changes nothing
    """

    network: T5Settings = T5Settings()
    domains: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    expert_first: bool = False
    domain_token: bool = False
    domain_balance: Share = 1.0
    examples_per_user: Count | None = None
    max_history: Count = 20
    epochs: Count = 100
    minutes: Positive | None = None
    batch_tokens: Annotated[int, Field(ge=64)] = 8192
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.01
    warmup_steps: Count = 200
    schedule: Literal["cosine", "inverse_sqrt"] = "cosine"
    label_smoothing: BelowOne = 0.0
    item_loss: NotNegative = 1.0
    item_negatives: Count = 32768
    new_windows: Share = 0.0
    new_items: Share = 0.5
    decoded_per_window: Count = 1
    content_start: Share = 0.0
    word_items: Natural = 0
    teaching: Share = 0.5
    taught_items: Count = 64
    clip_norm: Positive = 1.0
    average: BelowOne = 0.0
    validations_per_epoch: Count = 1
    validation_users: Count = 2000
    validation_beams: Annotated[int, Field(ge=10)] = 20
    patience: Count = 5
    checkpoint_seconds: NotNegative = 120.0
    seed: Seed = 0
    threads: Natural = 0
    bf16_products: bool = False

    @model_validator(mode="after")
    def _domains_differ(self) -> Self:
        if self.domains is not None and len(set(self.domains)) != len(self.domains):
            raise ValueError("domains names a domain twice")
        return self

    @model_validator(mode="after")
    def _reads_items(self) -> Self:
        ignored = [name for name in OF_ITEMS if getattr(self, name) != type(self).model_fields[name].default]
        if ignored and self.network.history != "items":
            raise ValueError(f'{", ".join(ignored)}: of use only to a network with history = "items"; leave it out')
        if self.new_windows == 0 and self.new_items != type(self).model_fields["new_items"].default:
            raise ValueError("new_items: says nothing while new_windows is 0; set new_windows, or leave new_items out")
        return self


def read_parameters(path: Path | None, overrides: dict[str, Any]) -> RecommenderParameters:
    """Read a TOML file (without one: the defaults) and put the command line's values over it.

    Raises
    ------
    ConfigError : the file is missing, no TOML, or holds an unknown key or a wrong value
    """
    where = "parameters" if path is None else str(path)
    return checked(RecommenderParameters, {**read_toml(path), **overrides}, where)
