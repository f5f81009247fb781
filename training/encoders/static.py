"""A static text encoder: one vector per token, distilled from a sentence encoder; a text is the sum of its tokens.

It takes a few MB and is some hundred times faster than its teacher, but ignores word order and context. Knows nothing
of items.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from service.errors import ConfigError
from service.progress import progress
from training.encoders.folder import MODEL, EncoderCard, write_card, write_tokenizer
from training.encoders.sentence_encoder import load_encoder, load_tokenizer, prove, read_spec, write_encoder_graph

WIDTH = 128
"""D of the table: with one byte per component, a vocabulary of 30,522 tokens takes 4 MB."""
COMMON = 1e-4
"""The constant a of smooth inverse frequency: words more frequent than this get less weight."""
NOTHING = 1e-3
"""Length of the start token's vector, as a share of the median: keeps the norm of texts without known words above 0."""
LONGEST = 8192
_BATCH = 1024


class StaticEncoder(nn.Module):
    """Token table in 8 bits with one scale per row; V tokens, D components.

    Parameters
    ----------
    table : float32 [V, D], the contribution of each token to a text, including its weight
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        scales = (table.abs().amax(dim=1) / 127.0).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("codes", torch.round(table / scales[:, None]).to(torch.int8))
        self.register_buffer("scales", scales)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [B, S], int64 [B, S] -> float32 [B, D], unit length."""
        rows = self.codes[input_ids].to(torch.float32)
        weights = self.scales[input_ids] * attention_mask.to(torch.float32)
        return nn.functional.normalize(torch.matmul(weights[:, None, :], rows)[:, 0], dim=-1)


def export_static_encoder(
    source: Path, folder: Path, max_tokens: int, name: str | None = None, width: int = WIDTH
) -> EncoderCard:
    """Distil a local sentence encoder into a token table, export it, and compare the written graph with torch.

    Parameters
    ----------
    source : folder of the teacher, a sentence-transformers model
    folder : for `text_encoder.onnx`, `tokenizer.json` and `encoder.json`; created if missing
    max_tokens : texts are truncated to this number of tokens
    name : `source` in the card
    width : D, at most the teacher's

    Raises
    ------
    ConfigError : the source is not a sentence encoder, or narrower than `width`
    ModelError : the exported graph differs from torch
    """
    spec = read_spec(source)
    tokenizer = load_tokenizer(spec.folder)
    encoder = StaticEncoder(distil(load_encoder(spec), tokenizer, width)).eval()
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, folder)
    write_encoder_graph(encoder, folder / MODEL, LONGEST)
    card = write_card(folder, name or f"token table distilled from {source.name}", max_tokens)
    prove(encoder, folder)
    return card


def distil(teacher: nn.Module, tokenizer: Tokenizer, width: int) -> Tensor:
    """Token table of a teacher: float32 [V, width].

    The teacher encodes each token alone. The vectors are centred, projected onto their first `width` principal axes and
    weighted by smooth inverse frequency, `a / (a + p)`. The frequency p is unknown and estimated by Zipf's law from the
    order of the vocabulary, which tokenizers list from frequent to rare.

    Raises
    ------
    ConfigError : the teacher's vectors are narrower than `width`
    """
    vectors = _encode_tokens(teacher, tokenizer)
    if vectors.shape[1] < width:
        raise ConfigError(f"a static encoder of width {width} needs a teacher at least as wide, not {vectors.shape[1]}")
    special = torch.tensor([_is_special(tokenizer, token) for token in range(len(vectors))])
    words = vectors[~special]
    centred = vectors - words.mean(dim=0)
    axes = torch.linalg.eigh(torch.cov((words - words.mean(dim=0)).T)).eigenvectors.flip(1)[:, :width]
    ranks = torch.cumsum((~special).to(torch.float32), dim=0).clamp(min=1.0)
    frequency = 1.0 / (ranks * (1.0 / ranks[~special]).sum())
    table: Tensor = centred @ axes * (COMMON / (COMMON + frequency))[:, None]
    table[special] = 0.0
    start = tokenizer.encode("").ids[:1]
    table[start, 0] = NOTHING * float(table[~special].norm(dim=1).median())
    return table


def _encode_tokens(teacher: nn.Module, tokenizer: Tokenizer) -> Tensor:
    """Vector of every token of the vocabulary, encoded between start and end tokens: float32 [V, D]."""
    tokenizer.no_padding()
    frame = tokenizer.encode("").ids
    start, end = torch.tensor(frame[:1], dtype=torch.int64), torch.tensor(frame[1:], dtype=torch.int64)
    vocabulary = torch.arange(tokenizer.get_vocab_size())
    parts = []
    with torch.inference_mode(), progress("Distilling tokens", len(vocabulary)) as advance:
        for tokens in torch.split(vocabulary, _BATCH):
            rows = torch.cat([start.expand(len(tokens), -1), tokens[:, None], end.expand(len(tokens), -1)], dim=1)
            parts.append(teacher(rows, torch.ones_like(rows)))
            advance(len(tokens))
    return torch.cat(parts)


def _is_special(tokenizer: Tokenizer, token: int) -> bool:
    """Whether a token represents no text: control tokens and unused entries of the vocabulary."""
    name = tokenizer.id_to_token(token)
    return name is None or (len(name) > 2 and name[0] in "[<" and name[-1] in "]>")
