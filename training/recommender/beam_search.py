"""Constrained beam search in torch, over transformers' T5 and its cache, for validation during training.

Runs on the network's device. Serving uses the exported graph instead, which ranks the same. Knows nothing of items or
of how the index is built.

Symbols: B batch, S sequence, V vocabulary, W beams, C children looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, EncoderDecoderCache, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from service.index.trie import TrieArrays
from service.semantic_ids import PAD_TOKEN, IntArray
from training.networks.item_encoder import read_mask
from training.networks.semantic_t5 import SemanticT5
from training.networks.token_tables import head_rows_of_written, shift_after

NOTHING = float("-inf")


@dataclass(frozen=True)
class TrieTensors:
    """`TrieArrays` on a device: int64 [nodes] and [edges]."""

    node_start: Tensor
    node_count: Tensor
    edge_token: Tensor
    edge_child: Tensor
    fanout: tuple[int, ...]

    @classmethod
    def of(cls, arrays: TrieArrays, device: torch.device) -> TrieTensors:
        """Copy a trie to a device."""

        def copied(column: IntArray) -> Tensor:
            return torch.from_numpy(column.astype(np.int64)).to(device)

        return cls(
            copied(arrays.node_start),
            copied(arrays.node_count),
            copied(arrays.edge_token),
            copied(arrays.edge_child),
            arrays.fanout,
        )


@torch.inference_mode()
def beam_search(
    model: T5ForConditionalGeneration, history: Tensor, mask: Tensor, trie: TrieTensors, roots: Tensor, *, beams: int
) -> Tensor:
    """Leaves of the most probable paths, best first: int64 [B, W], -1 where there is none.

    Scores are summed log-probabilities over the whole vocabulary, masked after the log-softmax. If the network has a
    head over items, they are mixed with its score of each prefix of an ID, and finally of the whole ID.

    Parameters
    ----------
    history, mask : int64 [B, S]
    roots : int64 [B], start node of each request
    beams : W
    """
    batch, device = len(history), history.device
    whole = model.encoder(input_ids=history, attention_mask=mask)
    scorer = model if isinstance(model, SemanticT5) else None
    state = torch.zeros(0) if scorer is None else scorer.scoring_state(whole, history, mask)
    encoded, mask = whole.last_hidden_state, read_mask(whole, mask)
    # The decoder has its own configuration, since its number of layers may differ from the encoder's.
    cache = EncoderDecoderCache(DynamicCache(config=model.decoder.config), DynamicCache(config=model.decoder.config))
    node, score = roots[:, None], torch.zeros(batch, 1, device=device)
    tokens = torch.full((batch, 1), PAD_TOKEN, device=device)
    bias = torch.zeros(0) if scorer is None else scorer.guide(state)
    hashes, shift, prospect = torch.zeros_like(node), torch.zeros_like(node), torch.zeros_like(score)
    writes = scorer is None or scorer.item_share < 1
    for level, children in enumerate(trie.fanout):
        # A beam that does not exist is at node -1: it reads node 0, and its children are masked out.
        here = node.clamp(min=0)
        slots = torch.arange(children, device=device)
        exists = (slots < trie.node_count[here][..., None]) & (node >= 0)[..., None]
        edge = torch.where(exists, trie.node_start[here][..., None] + slots, 0)
        written = trie.edge_token[edge]
        gained = torch.zeros(edge.shape, device=device)
        if writes:
            out = model(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
                attention_mask=mask,
                decoder_input_ids=tokens,
                past_key_values=cache,
                use_cache=True,
            )
            # One row per request at the first level, where its roots share a state; one per beam later.
            log_prob = torch.log_softmax(out.logits[:, -1].float(), dim=-1).reshape(batch, -1, model.config.vocab_size)
            gained = log_prob.gather(2, written)
        if scorer is not None:
            reached = hashes[..., None] + scorer.hash_parts[written]
            rows = head_rows_of_written(scorer.layout, level, written, shift[..., None]).flatten(1)
            expected = scorer.prospect(state, reached.flatten(1), level).reshape(edge.shape)
            scored = bias.gather(1, rows).reshape(edge.shape) + expected - prospect[..., None]
            gained = (1 - scorer.item_share) * gained + scored
        total = torch.where(exists, score[..., None] + gained, NOTHING).flatten(1)
        missing = max(0, beams - total.shape[1])
        score, place = F.pad(total, (0, missing), value=NOTHING).topk(beams, dim=1)
        edge = F.pad(edge.flatten(1), (0, missing)).gather(1, place)
        node = torch.where(score > NOTHING, trie.edge_child[edge], -1)
        if scorer is not None:
            hashes = F.pad(reached.flatten(1), (0, missing)).gather(1, place)
            prospect = F.pad(expected.flatten(1), (0, missing)).gather(1, place)
            shift = shift.gather(1, (place // children).clamp(max=shift.shape[1] - 1))
            # The token of a beam that does not exist is arbitrary.
            shift = torch.where(node >= 0, shift_after(scorer.layout, level, trie.edge_token[edge], shift), 0)

        if not writes:
            continue
        if level == 0:  # from one decoder state per request to one per beam
            cache.batch_repeat_interleave(beams)
            encoded, mask = encoded.repeat_interleave(beams, 0), mask.repeat_interleave(beams, 0)
        else:
            parent = (place // children).clamp(max=beams - 1)
            rows = torch.arange(batch, device=device)[:, None] * beams + parent
            cache.self_attention_cache.reorder_cache(rows.flatten())
        tokens = trie.edge_token[edge].reshape(-1, 1)
    return node
