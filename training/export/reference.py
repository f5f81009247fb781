"""References for the exported search: transformers' own constrained `generate`, and a slow search in float64.

Knows nothing of ONNX.

Symbols: B histories, S sequence, W beams, depth = L + N + 1, n items of one domain.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    LogitsProcessor,
    LogitsProcessorList,
    T5ForConditionalGeneration,
)

from service.semantic_ids import PAD_TOKEN, IntArray
from training.networks.semantic_t5 import SemanticT5
from training.networks.token_tables import head_rows_of_written, shift_after

DEAD = -1e8
"""`generate` starts all beams but one at -1e9; a result that still has such a score does not exist."""


@dataclass(frozen=True)
class GeneratedLists:
    """Ranked lists by `generate`.

    Attributes
    ----------
    tokens : int32 [B, W, depth], best first; 0 where there is no result
    log_prob : float32 [B, W], -inf where there is no result
    log_prob_by_level : float32 [B, W, depth], contribution of each token; -inf where there is no result
    """

    tokens: IntArray
    log_prob: NDArray[np.float32]
    log_prob_by_level: NDArray[np.float32]


class AllowedTokens:
    """`prefix_allowed_tokens_fn`: the tokens that may follow a prefix, so that every result is one of n items.

    Parameters
    ----------
    tokens : int32 [n, depth]

    Attributes
    ----------
    depth : tokens per item
    """

    def __init__(self, tokens: IntArray) -> None:
        following: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for row in tokens.tolist():
            for length, token in enumerate(row):
                following[tuple(row[:length])].add(token)
        self.depth = tokens.shape[1]
        self._following = {prefix: sorted(after) for prefix, after in following.items()}

    def __call__(self, _: int, prefix: torch.Tensor) -> Sequence[int]:
        """Allowed tokens after `prefix`, which begins with the decoder's start token; padding for a dead beam."""
        return self._following.get(tuple(prefix.tolist()[1:]), [PAD_TOKEN])


class Guide(LogitsProcessor):  # type: ignore[misc]
    """Adds the scores of a head over items to those of `generate`.

    Parameters
    ----------
    model : with a head
    state : float32 [B, M or 2 M], the vector that scores items

    Attributes
    ----------
    written_share : weight of the decoder's log-probabilities in the scores
    """

    def __init__(self, model: SemanticT5, state: torch.Tensor) -> None:
        self._model, self._state = model, state
        self._bias = model.guide(state)
        self.written_share = 1 - model.item_share

    @classmethod
    def of(cls, model: T5ForConditionalGeneration, history: NDArray[np.int64], mask: NDArray[np.int64]) -> Guide | None:
        """The guide for B histories [B, S]; None if the network has no head."""
        if not isinstance(model, SemanticT5):
            return None
        read, there = torch.from_numpy(history), torch.from_numpy(mask)
        return cls(model, model.scoring_state(model.encoder(read, there), read, there))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores float32 [B * beams, V] of the next token; `input_ids` begin with the start token."""
        batch, vocabulary = len(self._bias), scores.shape[1]
        written = input_ids[:, 1:].reshape(batch, len(input_ids) // batch, input_ids.shape[1] - 1)
        # Tokens that are not allowed keep -inf, also if the decoder's share is 0 (0 times -inf is NaN).
        own = torch.where(scores.isinf(), scores, self.written_share * scores)
        return own + self._added(written, torch.arange(vocabulary)).reshape(scores.shape)

    def by_level(self, items: torch.Tensor) -> torch.Tensor:
        """What each token of items, or of prefixes, adds to the score: int64 [B, W, l] -> float32 [B, W, l]."""
        levels = [
            self._added(items[..., :level], items[..., level : level + 1])[..., 0] for level in range(items.shape[-1])
        ]
        return torch.stack(levels, dim=-1)

    def _added(self, written: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """What tokens int64 [..., C] add after the prefixes `written`, int64 [B, W, l]: float32 [B, W, C]."""
        model, length = self._model, written.shape[-1]
        tokens = tokens.expand(*written.shape[:2], tokens.shape[-1])
        shift = torch.zeros_like(tokens[..., :1])
        if length > 0:
            shift = shift_after(model.layout, 0, written[..., :1], shift)
        rows = head_rows_of_written(model.layout, length, tokens, shift)
        # Only tokens that an item may have at this position matter; the others may have no row.
        rows = rows.clamp(0, self._bias.shape[1] - 1)
        before = model.hash_parts[written].sum(dim=-1)
        after = before[..., None] + model.hash_parts[tokens]
        prospects = torch.stack([model.prospect(self._state, each, length) for each in after.unbind(1)], dim=1)
        if length > 0:
            prospects = prospects - model.prospect(self._state, before, length - 1)[..., None]
        return self._bias.gather(1, rows.flatten(1)).reshape(tokens.shape) + prospects


def generate_lists(
    model: T5ForConditionalGeneration,
    history: NDArray[np.int64],
    mask: NDArray[np.int64],
    allowed: AllowedTokens,
    beams: int,
) -> GeneratedLists:
    """Ranked lists of B histories [B, S] by transformers. Scores are summed, without a length penalty, and mixed with
    those of a head over items."""
    with torch.inference_mode():
        guide = Guide.of(model, history, mask)
        found = model.generate(
            **({} if guide is None else {"logits_processor": LogitsProcessorList([guide])}),
            input_ids=torch.from_numpy(history),
            attention_mask=torch.from_numpy(mask),
            prefix_allowed_tokens_fn=allowed,
            num_beams=beams,
            num_return_sequences=beams,
            min_new_tokens=allowed.depth,
            max_new_tokens=allowed.depth,
            do_sample=False,
            output_logits=True,
            output_scores=True,
            return_dict_in_generate=True,
            # The default cache of `generate` has the encoder's number of layers, which may differ from the decoder's.
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
            # With one beam `generate` is greedy, warns about a length penalty, and sums no scores.
            **({"length_penalty": 0.0} if beams > 1 else {}),
        )
        written = found.sequences[:, 1:]
        # transformers' own compute_transition_scores sums less exactly, with errors up to 1e-4.
        log_prob, levels = torch.log_softmax(torch.stack(found.logits), dim=-1), torch.arange(allowed.depth)[:, None]
        states = found.beam_indices[:, : allowed.depth].T.clamp(min=0) if beams > 1 else torch.arange(len(written))
        gained = log_prob[levels, states, written.T].T
        shape = (len(history), beams, allowed.depth)
        written, gained = written.reshape(shape), gained.reshape(shape)
        gained = gained if guide is None else guide.written_share * gained + guide.by_level(written)
        summed = found.sequences_scores.reshape(shape[:2]) if beams > 1 else gained.sum(dim=2)
    scores = summed.numpy()
    alive = scores > DEAD
    return GeneratedLists(
        np.where(alive[..., None], written.numpy(), PAD_TOKEN).astype(np.int32),
        np.where(alive, scores, -np.inf).astype(np.float32),
        np.where(alive[..., None], gained.numpy(), -np.inf).astype(np.float32),
    )


@torch.inference_mode()
def narrowest_choice(
    model: T5ForConditionalGeneration,
    history: NDArray[np.int64],
    mask: NDArray[np.int64],
    tokens: IntArray,
    beams: int,
) -> float:
    """Least gap, over all steps of the search, between the last beam kept and the first one dropped, in float64;
    infinity if nothing is dropped.

    If it is below rounding, two correct searches may diverge and end with different lists.

    Parameters
    ----------
    history, mask : int64 [S], one history
    tokens : int32 [n, depth]
    """
    exact = copy.deepcopy(model).double()
    guide = Guide.of(exact, history[None], mask[None])
    prefixes, scores, narrowest = np.zeros((1, 0), dtype=np.int32), np.zeros(1), float("inf")
    for length in range(1, tokens.shape[1] + 1):
        children, parent = _children(prefixes, np.unique(tokens[:, :length], axis=0))
        start = np.full((len(prefixes), 1), PAD_TOKEN, dtype=np.int64)
        logits = exact(
            input_ids=torch.from_numpy(history).expand(len(prefixes), -1),
            attention_mask=torch.from_numpy(mask).expand(len(prefixes), -1),
            decoder_input_ids=torch.from_numpy(np.concatenate([start, prefixes], axis=1)),
            use_cache=False,
        ).logits[:, -1]
        gained = torch.log_softmax(logits, dim=-1).numpy()[parent, children[:, -1]]
        if guide is not None:
            extended = torch.from_numpy(children.astype(np.int64))
            gained = guide.written_share * gained + guide.by_level(extended[None])[0, :, -1].numpy()
        total = scores[parent] + gained
        order = np.argsort(-total, kind="stable")
        if len(order) > beams:
            narrowest = min(narrowest, float(total[order[beams - 1]] - total[order[beams]]))
        prefixes, scores = children[order[:beams]], total[order[:beams]]
    return narrowest


def _children(prefixes: IntArray, longer: IntArray) -> tuple[IntArray, NDArray[np.intp]]:
    """The rows of `longer` that continue one of `prefixes`, and for each the index of its prefix."""
    number = {tuple(prefix): row for row, prefix in enumerate(prefixes.tolist())}
    parent = np.asarray([number.get(tuple(row[:-1]), -1) for row in longer.tolist()], dtype=np.intp)
    return longer[parent >= 0], parent[parent >= 0]
