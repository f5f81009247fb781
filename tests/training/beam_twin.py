"""Slow, obvious twins of the constrained beam search: transformers' own `generate`, and scoring every item.

Also the random items and networks that they are compared on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration

from service.engine.history_tokens import history_tokens
from service.index.trie import CodeTrie
from service.semantic_ids import PAD_TOKEN, TokenLayout
from training.networks.known_ids import KnownIds
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import T5Settings, build_t5

LAYOUT = TokenLayout(levels=3, codes=8, experts=3, experts_per_item=1, suffixes=4)
SMALL = T5Settings(d_model=24, d_ff=40, d_kv=8, heads=3, encoder_layers=2, decoder_layers=2, relative_buckets=8)


@dataclass(frozen=True)
class Items:
    """Items of several domains.

    Attributes
    ----------
    tokens : int32 [n, depth]
    roots : int32 [n], the domain of each
    trie : over all of them; leaf i is item i
    """

    tokens: NDArray[np.int32]
    roots: NDArray[np.int32]
    trie: CodeTrie


def random_model(
    seed: int, settings: T5Settings = SMALL, layout: TokenLayout = LAYOUT, known: NDArray[np.int32] | None = None
) -> T5ForConditionalGeneration:
    """A network whose log-probabilities differ enough between tokens that ties do not occur.

    One that reads items knows the items `known`, int32 [n, depth] tokens.
    """
    torch.manual_seed(seed)
    items = None if known is None else torch.from_numpy(known.astype(np.int64))
    ids = None if items is None else KnownIds.of(layout, items)
    model = build_t5(layout, settings, None if ids is None else ids.sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=1.5 / parameter.shape[1] ** 0.5)
        model.shared.weight.normal_(std=1.5)
    if isinstance(model, SemanticT5) and items is not None and ids is not None:
        model.know(ids)
        model.item_likeness.normal_()
        model.look_ahead(items, torch.rand(len(items)) + 0.5)
    return model


def random_items(seed: int, sizes: tuple[int, ...], layout: TokenLayout = LAYOUT) -> Items:
    """`sizes[r]` items in domain r, clustered so that they share prefixes."""
    random = np.random.default_rng(seed)
    tokens, roots = [], []
    for root, size in enumerate(sizes):
        rows: set[tuple[int, ...]] = set()
        while len(rows) < size:
            # Squared, so that low codes are frequent and prefixes are shared.
            rows.add(tuple(int(random.random() ** 2 * width) for width in layout.position_sizes))
        tokens += sorted(rows)
        roots += [root] * size
    values = np.asarray(tokens, dtype=np.int32).reshape(-1, layout.depth)
    of = np.asarray(roots, dtype=np.int32)
    laid = layout.tokens(values)
    trie = CodeTrie.from_tokens(laid, of, np.arange(len(of), dtype=np.int32), root_count=len(sizes))
    return Items(laid, of, trie)


def random_histories(seed: int, lengths: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Right-padded random tokens and their mask, int64 [B, S]."""
    random = np.random.default_rng(seed)
    tokens = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    for row, length in enumerate(lengths):
        tokens[row, :length] = random.integers(3, LAYOUT.vocabulary, length)
    return tokens, (tokens != 0).astype(np.int64)


def whole_histories(
    seed: int, lengths: tuple[int, ...], layout: TokenLayout = LAYOUT
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens of random items, as many as `lengths` says and some with suffixes, and their mask, int64 [B, S].

    Where the layout has domains, the token of one leads each history.
    """
    random = np.random.default_rng(seed)
    values = random.integers(0, layout.position_sizes, (sum(lengths), layout.depth))
    values[::3, -1] = 0
    splits, first = np.concatenate([[0], np.cumsum(lengths)]), layout.vocabulary - len(layout.domains)
    leads = random.integers(first, layout.vocabulary, len(lengths)) if layout.domains else None
    found = history_tokens(layout, values.astype(np.int32), splits, max(lengths), leads)
    return found.tokens, found.mask


def score_every_item(
    model: T5ForConditionalGeneration, history: NDArray[np.int64], mask: NDArray[np.int64], tokens: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Summed log-probability of every item for one history [S]: float64 [n]."""
    scores: NDArray[np.float64] = score_every_level(model, history, mask, tokens).sum(axis=1)
    return scores


def score_every_level(
    model: T5ForConditionalGeneration, history: NDArray[np.int64], mask: NDArray[np.int64], tokens: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Log-probability of each token of every item for one history [S]: float64 [n, depth]."""
    rows, targets = len(tokens), torch.from_numpy(tokens.astype(np.int64))
    with torch.inference_mode():
        logits = model(
            input_ids=torch.from_numpy(history).expand(rows, -1),
            attention_mask=torch.from_numpy(mask).expand(rows, -1),
            decoder_input_ids=torch.nn.functional.pad(targets[:, :-1], (1, 0), value=PAD_TOKEN),
            use_cache=False,
        ).logits
        gained = torch.log_softmax(logits.double(), dim=-1).gather(-1, targets[..., None])[..., 0]
    levels: NDArray[np.float64] = gained.numpy()
    return levels
