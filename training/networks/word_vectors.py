"""Item vectors trained as the sum of a vector of their own and the vectors of their words, which items share.

An item's own vector learns from that item's histories alone; the vector of a brand learns from all its items. Only the
sums are saved, exported and served, as one table: words exist during training alone. An item that comes after training
has no own vector, and so none from words.

Symbols: R rows of a table of own vectors, W words, N words of all rows together, M model width. Knows nothing of texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class WordsOfRows:
    """Which words the rows of a table have.

    Attributes
    ----------
    words : int64 [N], row after row
    starts : int64 [R], where each row's words begin
    shares : float32 [N], of a word's vector that the row takes
    count : W
    """

    words: Tensor
    starts: Tensor
    shares: Tensor
    count: int


class WordVectors(nn.Module):
    """Adds the word vectors of each row to a table of own vectors.

    Parameters
    ----------
    of_rows : the words of its rows
    width : M
    """

    words: Tensor
    starts: Tensor
    shares: Tensor

    def __init__(self, of_rows: WordsOfRows, width: int) -> None:
        super().__init__()
        for name in ("words", "starts", "shares"):
            self.register_buffer(name, getattr(of_rows, name), persistent=False)
        # Word vectors start at zero, so training starts where it would without words.
        self.vectors = nn.Parameter(torch.zeros(of_rows.count, width))

    def forward(self, own: Tensor) -> Tensor:
        """[R, M] -> [R, M]."""
        return own + F.embedding_bag(self.words, self.vectors, self.starts, mode="sum", per_sample_weights=self.shares)


def share_words(table: nn.Embedding, of_rows: WordsOfRows) -> None:
    """Make the rows of a table [R, M] sums of their own part and of their words' vectors from now on."""
    parametrize.register_parametrization(table, "weight", WordVectors(of_rows, table.embedding_dim))


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict that the network would have if it had learned every table by itself."""
    state = dict(network.state_dict())
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            learned = f"{name}.parametrizations.weight."
            state = {key: value for key, value in state.items() if not key.startswith(learned)}
            state[f"{name}.weight"] = module.weight.detach()
    return state
