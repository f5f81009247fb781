"""The references themselves: the gap that decides whether two right searches may differ."""

from __future__ import annotations

import numpy as np
import torch
from beam_twin import LAYOUT, random_histories, random_items, random_model, score_every_item

from training.export.reference import AllowedTokens, generate_lists, narrowest_choice


def test_the_gap_of_the_last_step_is_between_the_last_item_kept_and_the_first_dropped() -> None:
    model, (history, mask) = random_model(3), random_histories(3, (12,))
    # All items share everything but the suffix, so only the last step chooses.
    tokens = np.repeat(random_items(3, (1,)).tokens, 4, axis=0)
    tokens[:, -1] = LAYOUT.position_offsets[-1] + np.arange(4)
    ranked = np.sort(score_every_item(model, history[0], mask[0], tokens))[::-1]
    for beams in (1, 2, 3):
        gap = narrowest_choice(model, history[0], mask[0], tokens, beams)
        np.testing.assert_allclose(gap, ranked[beams - 1] - ranked[beams], atol=1e-5)
    assert narrowest_choice(model, history[0], mask[0], tokens, 4) == np.inf


def test_two_tokens_with_equal_weights_make_a_tie() -> None:
    model, (history, mask) = random_model(4), random_histories(4, (12,))
    tokens = np.repeat(random_items(4, (1,)).tokens, 2, axis=0)
    tokens[:, -1] = LAYOUT.position_offsets[-1] + np.arange(2)
    with torch.no_grad():
        model.shared.weight[tokens[1, -1]] = model.shared.weight[tokens[0, -1]]
    assert narrowest_choice(model, history[0], mask[0], tokens, 1) < 1e-9


def test_lists_of_generate_hold_only_items_and_mark_what_is_missing() -> None:
    model, items = random_model(5), random_items(5, (3,))
    history, mask = random_histories(5, (12, 4))
    found = generate_lists(model, history, mask, AllowedTokens(items.tokens), 5)
    assert np.isfinite(found.log_prob).sum(axis=1).tolist() == [3, 3]
    for row in range(2):
        assert sorted(map(tuple, found.tokens[row, :3].tolist())) == sorted(map(tuple, items.tokens.tolist()))
        assert (found.tokens[row, 3:] == 0).all()
