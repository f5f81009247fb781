"""A text encoder on disk: `text_encoder.onnx`, `tokenizer.json`, and `encoder.json`, which says how to use them.

`embed` writes this folder beside the vectors, and `export` copies it into a bundle, so that texts of new items are
encoded exactly like those of training items. Knows nothing of how encoders are made.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from service.bundle.files import sha256_of
from service.durable import sync
from service.engine.sessions import Runtime, open_session
from service.engine.text_encoder import INPUTS, OUTPUTS, TextEncoder
from service.errors import ConfigError
from service.items import TEXT_RECIPE
from training.stage import write_atomically

MODEL = "text_encoder.onnx"
TOKENIZER = "tokenizer.json"
CARD = "encoder.json"


@dataclass(frozen=True)
class EncoderCard:
    """Contents of `encoder.json`: what is needed to use an encoder.

    Attributes
    ----------
    source : what it was made from, for human readers
    width : D, width of its vectors
    max_tokens : longer texts are truncated to this number of tokens
    recipe : recipe of its input texts, see `service.items.TEXT_RECIPE`
    sha256 : of graph, tokenizer and `max_tokens` together; equal encoders have equal values
    """

    source: str
    width: int
    max_tokens: int
    recipe: str
    sha256: str


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` without any padding and truncation settings of its source."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / TOKENIZER))


def write_card(folder: Path, source: str, max_tokens: int) -> EncoderCard:
    """Write `encoder.json` into a folder that already holds graph and tokenizer; this completes the folder.

    Raises
    ------
    BundleError : the graph does not have the signature of a text encoder
    """
    width = open_session(folder / MODEL, Runtime(threads=1), INPUTS, OUTPUTS).size("D")
    parts = f"{sha256_of(folder / MODEL)} {sha256_of(folder / TOKENIZER)} {max_tokens}"
    card = EncoderCard(source, width, max_tokens, TEXT_RECIPE, hashlib.sha256(parts.encode()).hexdigest())
    for name in (MODEL, TOKENIZER):
        sync(folder / name)
    write_atomically(folder / CARD, json.dumps(asdict(card), indent=2) + "\n")
    return card


def read_card(folder: Path) -> EncoderCard:
    """Read `encoder.json`.

    Raises
    ------
    ConfigError : the folder holds no encoder, or one for texts of another recipe
    """
    path = folder / CARD
    if not path.is_file():
        raise ConfigError(f"{folder}: no {CARD}, so no encoder; `unitok embed` writes one")
    try:
        card = EncoderCard(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if card.recipe != TEXT_RECIPE:
        raise ConfigError(f"{path}: is for texts of recipe {card.recipe!r}, but this version composes {TEXT_RECIPE!r}")
    return card


def open_encoder(folder: Path, runtime: Runtime | None = None) -> TextEncoder:
    """Open the encoder of a folder.

    Raises
    ------
    ConfigError : see `read_card`
    BundleError : graph or tokenizer is missing or unusable
    """
    return TextEncoder.open(folder / MODEL, folder / TOKENIZER, read_card(folder).max_tokens, runtime)
