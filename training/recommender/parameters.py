"""Parameters of the recommender's training, checked strictly: an unknown key or a wrong value is an error naming it.

The network's shape is in `training.networks.t5.T5Settings`. Knows nothing of data sets.
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
"""Parameters without effect on a network that reads tokens."""


class RecommenderParameters(Strict):
    """The keys of the configuration file of `unitok train-recommender`.

    Attributes
    ----------
    network : shape of the T5, a table `[network]`
    domains : domains to learn from; None: all of the dataset
    domain_token : whether a history starts with a token of its domain
    expert_first : whether the token of an item's expert, where it has one, precedes those of its codes; see
        `TokenLayout`
    domain_balance : a domain is drawn in proportion to its number of examples to this power: 1 takes every example once
        per epoch, 0 takes every domain equally often
    examples_per_user : greatest number of examples of one user in an epoch, drawn anew each time; None: all
    max_history : greatest number of items of a history; the latest are kept
    epochs : greatest number of epochs
    minutes : time limit of the training, which keeps its best weights so far; the cosine schedule ends by then
    batch_tokens : budget of padded tokens of a batch, encoder's and decoder's together, on one device
    learning_rate, weight_decay, warmup_steps, schedule : AdamW; after the warm-up the rate falls along a cosine to 0
        or with the inverse square root of the step
    label_smoothing : share of the target's probability that is spread over the vocabulary
    item_loss : weight of the cross-entropy over items, where the network reads items
    item_negatives : negatives of the head over items for each step, drawn from the domain; the whole domain if it has
        no more items than this
    new_windows, new_items : where the network reads items: share of the windows that are trained as if items were new,
        and the probability that one of their items, in the input or among the candidates, is treated as new. The tokens
        of an item so learn to do without the vector of its ID, which an item added after training does not have
    decoded_per_window : where the network reads items: items of a window whose tokens the decoder learns to write
    content_start : share of content in the initial token vectors; above 0 it needs the items' embeddings
    word_items : where the network reads items: words of titles, brands and categories that at least this many items of
        a domain share get vectors, which are added to those of known items during training; 0: none
    teaching : weight of the teachers' expectations, where teachers are given, in the target of the head over items; the
        rest is the observed item
    taught_items : most probable items kept of the teachers' expectation at each place, six bytes each in memory
    clip_norm : largest norm of a gradient
    average : decay of a moving average of the weights, which is validated and kept instead of them; 0: none
    validations_per_epoch : how often NDCG@10 is measured at the item level; per domain, the better of the figures with
        and without items of the history in the lists
    validation_users : users of a validation, spread evenly over the domains
    validation_beams : beam width of the search; without effect if the head scores alone, since it then scores all items
    patience : validations without a new best before training ends
    checkpoint_seconds : time between checkpoints, from which a killed run resumes; each new best is checkpointed too
    seed : of all random numbers
    threads : CPU threads; 0 takes every core
    bf16_products : whether a CPU multiplies float32 matrices in bf16 and sums in float32, as a GPU always does; twice
        as fast on a CPU that has the instructions, without effect on others
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
    """Read a TOML file (None: the defaults) and override it with the values of the command line.

    Raises
    ------
    ConfigError : the file is missing, no TOML, or holds an unknown key or a wrong value
    """
    where = "parameters" if path is None else str(path)
    return checked(RecommenderParameters, {**read_toml(path), **overrides}, where)
