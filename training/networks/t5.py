"""The recommender's network: transformers' T5 over semantic-ID tokens, and the two files that hold a trained one.

`model.safetensors` is the plain state dict with the tied embedding stored once; `recommender.json` says everything
needed to build the network around it. Knows nothing of data sets or of training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from service.bundle.repeats import LearnedRepeats
from service.errors import ConfigError, ModelError
from service.semantic_ids import EOS_TOKEN, PAD_TOKEN, TokenLayout
from training.configuration import BelowOne, Count, Share, Strict, problems
from training.networks.item_encoder import Semantics
from training.networks.known_ids import KnownSizes
from training.networks.semantic_state import known_sizes
from training.networks.semantic_t5 import SemanticT5
from training.stage import replacing, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHTS = "model.safetensors"
RECORD = "recommender.json"
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
"""Names under which the state dict repeats `shared.weight`; files hold only the latter."""


class T5Settings(Strict):
    """Shape of the network; the defaults are those of TIGER.

    Attributes
    ----------
    d_model, d_ff, d_kv : width of the residual stream, of the feed-forward layers, of one attention head
    heads, encoder_layers, decoder_layers : how many of each
    dropout : share of activations dropped while training
    feed_forward : "relu", or "gated-gelu" as in T5 1.1
    relative_buckets, relative_max_distance : how relative positions are binned: half the buckets hold one distance
        each, so the greatest that is told apart must lie beyond them
    history : what a position of the encoder is: a token, or an item (see `training.networks.semantic_t5`)
    item_head : share of the head over items in the scores of a search, which comes with reading items; the rest is the
        decoder's. With 1 the decoder still learns, since its gradients train the encoder, but the search runs without
        it
    read_dropout : share dropped while training in an encoder of items; `dropout` is then the decoder's alone
    likeness : whether a network that reads items scores by likeness to the last item where no item is known
    """

    d_model: Count = 128
    d_ff: Count = 1024
    d_kv: Count = 64
    heads: Count = 6
    encoder_layers: Count = 4
    decoder_layers: Count = 4
    dropout: BelowOne = 0.1
    feed_forward: Literal["relu", "gated-gelu"] = "relu"
    relative_buckets: Annotated[int, Field(ge=4)] = 32
    relative_max_distance: Annotated[int, Field(ge=4)] = 128
    history: Literal["tokens", "items"] = "tokens"
    item_head: Share = 0.0
    read_dropout: BelowOne = 0.0
    likeness: bool = False

    @model_validator(mode="after")
    def _reads_and_scores(self) -> Self:
        reads = self.history == "items"
        if (self.item_head > 0) != reads or ((self.read_dropout or self.likeness) and not reads):
            raise ValueError(
                'history = "items" needs an item_head above 0; history = "tokens" has neither item_head nor '
                "read_dropout nor likeness"
            )
        return self

    @model_validator(mode="after")
    def _distances_reach_beyond_single_buckets(self) -> Self:
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise ValueError(
                f"relative_max_distance is {self.relative_max_distance}, but must be more than half of "
                f"relative_buckets, which is {self.relative_buckets}"
            )
        return self

    def config(self, layout: TokenLayout) -> T5Config:
        """The same shape as transformers writes it, for the vocabulary of `layout`."""
        return T5Config(
            vocab_size=layout.vocabulary,
            d_model=self.d_model,
            d_ff=self.d_ff,
            d_kv=self.d_kv,
            num_heads=self.heads,
            num_layers=self.encoder_layers,
            num_decoder_layers=self.decoder_layers,
            dropout_rate=self.dropout,
            feed_forward_proj=self.feed_forward,
            relative_attention_num_buckets=self.relative_buckets,
            relative_attention_max_distance=self.relative_max_distance,
            pad_token_id=PAD_TOKEN,
            decoder_start_token_id=PAD_TOKEN,
            eos_token_id=EOS_TOKEN,
        )


class LayoutRecord(Strict):
    """`TokenLayout` in `recommender.json`."""

    levels: int
    codes: int
    experts: int
    experts_per_item: int
    suffixes: int
    domains: tuple[str, ...]
    expert_first: bool = False

    @classmethod
    def of(cls, layout: TokenLayout) -> LayoutRecord:
        """Record of a layout."""
        return cls(**{name: getattr(layout, name) for name in cls.model_fields})

    def layout(self) -> TokenLayout:
        """The layout itself, checked."""
        return TokenLayout(**self.model_dump())


class RecommenderRecord(Strict):
    """`recommender.json`.

    Attributes
    ----------
    t5, layout : shape of the network and of its vocabulary
    max_history : items of a history that the network reads, the latest
    trained_on : domains of its training examples
    repeats : by domain, the bonus of items of the history (see `training.recommender.repeats`)
    """

    t5: T5Settings
    layout: LayoutRecord
    max_history: Count
    trained_on: tuple[str, ...]
    repeats: dict[str, LearnedRepeats] = Field(default_factory=dict)


@dataclass(frozen=True)
class TrainedRecommender:
    """A recommender as its folder holds it; `model` is in evaluation mode, on the CPU."""

    model: T5ForConditionalGeneration
    layout: TokenLayout
    settings: T5Settings
    max_history: int
    trained_on: tuple[str, ...]
    repeats: Mapping[str, LearnedRepeats] = field(default_factory=dict)


def build_t5(layout: TokenLayout, settings: T5Settings, known: KnownSizes | None = None) -> T5ForConditionalGeneration:
    """A freshly initialised network; one that reads items needs `known`, the sizes of its tables of IDs.

    Input and output embeddings are one tensor [V, d_model]; the decoder's output is therefore scaled by
    d_model^-0.5 before it meets them, which an export has to repeat. Attention is the plain ("eager") one: with a
    learned position bias the fused kernels fall back to slower code on a CPU.

    Raises
    ------
    ModelError : `known` is missing, or this version of transformers does not tie the embeddings
    """
    config = settings.config(layout)
    config._attn_implementation = "eager"
    if settings.history == "items":
        if known is None:
            raise ModelError("a network that reads items is built for a number of known IDs, and none was given")
        semantics = Semantics(settings.item_head, known, settings.read_dropout, settings.likeness)
        model = SemanticT5(config, layout, semantics)
    else:
        model = T5ForConditionalGeneration(config)
    if not config.scale_decoder_outputs or model.lm_head.weight is not model.shared.weight:
        raise ModelError("this version of transformers does not tie T5's embeddings as the export expects")
    return model


def untied_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict without the repeated names of the tied embedding, as files hold it."""
    return {name: tensor.detach().contiguous() for name, tensor in state.items() if name not in TIED}


def load_weights(model: T5ForConditionalGeneration, state: Mapping[str, Tensor], source: str) -> None:
    """Put weights as files hold them into a network.

    Raises
    ------
    ModelError : a tensor is missing, unknown or of another shape; `source` is named in the message
    """
    try:
        model.load_state_dict({**state, **dict.fromkeys(TIED, state["shared.weight"])})
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{source}: not the weights that {RECORD} describes: {error}") from None


def save_weights(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write `model.safetensors` in one step."""
    with replacing(folder / WEIGHTS) as partial:
        save_file({name: tensor.cpu() for name, tensor in untied_state(state).items()}, partial)


def save_record(folder: Path, record: RecommenderRecord) -> None:
    """Write `recommender.json`."""
    write_atomically(folder / RECORD, record.model_dump_json(indent=2) + "\n")


def load_recommender(folder: Path) -> TrainedRecommender:
    """Read what `train-recommender` wrote.

    Raises
    ------
    ConfigError : a file is missing, or `recommender.json` has a wrong or unknown key
    ModelError : the weights are damaged, or not those of the network that `recommender.json` describes
    """
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name}: no such file; `unitok train-recommender` writes it")
    try:
        record = RecommenderRecord.model_validate_json((folder / RECORD).read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{folder / RECORD}: {problems(error, 'recommender')}") from None
    layout = record.layout.layout()
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ModelError(f"{folder / WEIGHTS}: is damaged: {error}; train it again") from None
    try:
        known = known_sizes(weights, layout)
    except ModelError as error:
        raise ModelError(f"{folder / WEIGHTS}: {error}") from None
    if known is None and record.t5.history == "items":
        raise ModelError(f"{folder / WEIGHTS}: not the weights that {RECORD} describes: no tables of items")
    model = build_t5(layout, record.t5, known)
    load_weights(model, weights, str(folder / WEIGHTS))
    return TrainedRecommender(model.eval(), layout, record.t5, record.max_history, record.trained_on, record.repeats)
