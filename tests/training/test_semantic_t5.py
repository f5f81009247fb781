"""Reading and scoring items: against slow twins, against `generate`, and on planted transitions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from beam_twin import score_every_item
from numpy.typing import NDArray
from pydantic import ValidationError
from recommender_planted import LAYOUT, TINY, random_values, ring_corpus, tiny_parameters
from torch.nn import functional as F

from service.errors import ModelError
from service.semantic_ids import TokenLayout
from training.export.reference import AllowedTokens, generate_lists, narrowest_choice
from training.networks.item_encoder import HEAD_SCALE, EncoderOfItems, last_state
from training.networks.known_ids import KnownIds, hash_parts, prefix_rows
from training.networks.lookahead import SPREAD, expected_maximum
from training.networks.semantic_state import known_sizes
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import T5Settings, build_t5
from training.networks.token_tables import (
    code_positions,
    head_rows_of_items,
    rows_of_items,
    rows_of_sequences,
    table_rows,
)
from training.recommender.batches import Batch, collate
from training.recommender.content_start import principal_components, row_vectors, start_from_content
from training.recommender.corpus import Corpus
from training.recommender.tasks import NextItems
from training.recommender.trainer import Trainer
from training.recommender.validation import Validator, sample_users

WITHOUT_EXPERTS = TokenLayout(levels=3, codes=5, experts=1, experts_per_item=0, suffixes=4)
WITH_DOMAINS = TokenLayout(levels=2, codes=8, experts=3, experts_per_item=1, suffixes=4, domains=("ring", "other"))
EXPERT_FIRST = replace(WITH_DOMAINS, expert_first=True, codes=9)
LAYOUTS = pytest.mark.parametrize(
    "layout", [LAYOUT, WITHOUT_EXPERTS, WITH_DOMAINS, EXPERT_FIRST], ids=["experts", "none", "domains", "expert first"]
)
FOUND_BY = ("encoder.item_slots", "encoder.item_moves", "encoder.item_keys")
SCORES = TINY.model_copy(update={"history": "items", "item_head": 0.6})


def tokens_of(corpus: Corpus) -> torch.Tensor:
    return torch.from_numpy(corpus.layout.tokens(corpus.values).astype(np.int64))


def built(corpus: Corpus, seed: int = 0, known: slice = slice(None), likeness: bool = False) -> SemanticT5:
    """A network with vectors for some of a corpus' IDs, none of them zero."""
    torch.manual_seed(seed)
    items = tokens_of(corpus)[known]
    ids = KnownIds.of(corpus.layout, items)
    model = build_t5(corpus.layout, SCORES.model_copy(update={"likeness": likeness}), ids.sizes).eval()
    assert isinstance(model, SemanticT5)
    with torch.no_grad():
        model.encoder.reader_own.weight[1:].normal_(std=0.1)
        model.item_own.weight[1:].normal_(std=0.3)
    model.know(ids)
    model.item_likeness.normal_(generator=torch.Generator().manual_seed(seed))
    model.look_ahead(items, torch.rand(len(items)) + 0.5)
    return model


def encoded(model: SemanticT5, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    found = model.encoder(torch.from_numpy(batch.history), torch.from_numpy(batch.mask))
    assert found.mask is not None
    return found.last_hidden_state, found.mask


def scoring_state(model: SemanticT5, batch: Batch) -> torch.Tensor:
    history, mask = torch.from_numpy(batch.history), torch.from_numpy(batch.mask)
    return model.scoring_state(model.encoder(history, mask), history, mask)


def test_its_layers_begin_as_those_of_t5() -> None:
    corpus = ring_corpus()
    torch.manual_seed(0)
    plain = build_t5(LAYOUT, TINY).state_dict()
    found = built(corpus).state_dict()
    for name, tensor in plain.items():
        if ".block." in name:
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_a_network_that_reads_items_is_told_how_many() -> None:
    with pytest.raises(ModelError, match="known IDs"):
        build_t5(LAYOUT, SCORES)
    for settings in ({"history": "items"}, {"item_head": 0.5}, {"read_dropout": 0.1}, {"likeness": True}):
        with pytest.raises(ValidationError, match="item_head"):
            T5Settings(**settings)


@LAYOUTS
def test_a_code_has_a_row_for_each_expert(layout: TokenLayout) -> None:
    values = random_values(layout, 40, np.random.default_rng(0))
    items = torch.from_numpy(layout.tokens(values).astype(np.int64))
    meanings: dict[object, int] = {}
    for value, found in zip(values.tolist(), rows_of_items(layout, items).tolist(), strict=True):
        expert = value[layout.levels] if layout.experts_per_item else None
        order = [*value[layout.levels : -1], *value[: layout.levels], value[-1]] if layout.expert_first else value
        codes = code_positions(layout)
        for position, row in enumerate(found):
            told_apart = expert if codes.start <= position < codes.stop else None
            assert meanings.setdefault((position, order[position], told_apart), row) == row
    assert len(set(meanings.values())) == len(meanings)
    assert max(meanings.values()) < table_rows(layout)


@LAYOUTS
def test_items_of_a_sequence_have_the_rows_that_they_have_alone(layout: TokenLayout) -> None:
    values = random_values(layout, 12, np.random.default_rng(1))
    tokens, expected = [], []
    for item in torch.from_numpy(layout.tokens(values).astype(np.int64)):
        written = layout.depth if item[-1] != layout.tokens(np.zeros((1, layout.depth), np.int32))[0, -1] else -1
        tokens.append(item[:written])
        expected.append(rows_of_items(layout, item[None])[0, :written])
    assert rows_of_sequences(layout, torch.cat(tokens)[None])[0].tolist() == torch.cat(expected).tolist()


@LAYOUTS
def test_an_item_is_read_as_the_sum_of_its_vectors(layout: TokenLayout) -> None:
    corpus = ring_corpus(users=12, layout=layout)
    model, batch = built(corpus), collate(corpus, corpus.validation, 20)
    reader, own = model.encoder.reader.weight, model.encoder.reader_own.weight
    with torch.inference_mode():
        states, mask = encoded(model, batch)
        for row in range(len(corpus.validation)):
            one = corpus.validation.take(np.asarray([row]))
            items = corpus.history_items[one.start[0] : one.stop[0]]
            vectors = []
            for number, item in zip(items, tokens_of(corpus)[items], strict=True):
                has_suffix = corpus.values[number, -1] != 0
                rows = rows_of_items(layout, item[None])[0][: layout.depth if has_suffix else layout.depth - 1]
                vectors.append(reader[rows].sum(dim=0) + own[number + 1])
            if layout.domains:
                lead = torch.tensor([[layout.domain_token("ring")]])
                vectors.insert(0, reader[rows_of_sequences(layout, lead)[0, 0]])
            # One at a time: what comes later is not there to be seen.
            assert mask[row].sum() == len(vectors)
            for end in range(1, len(vectors) + 1):
                causal = torch.full((end, end), torch.finfo(torch.float32).min).triu(1)
                expected = super(EncoderOfItems, model.encoder).forward(
                    inputs_embeds=torch.stack(vectors[:end])[None] / HEAD_SCALE, attention_mask=causal[None, None]
                )
                found = states[row, end - 1]
                torch.testing.assert_close(found, expected.last_hidden_state[0, -1], rtol=1e-3, atol=1e-4)


def test_a_state_does_not_know_what_comes_later() -> None:
    corpus = ring_corpus(users=12)
    model, longest = built(corpus), int(np.argmax(corpus.validation.stop - corpus.validation.start))
    whole = corpus.validation.take(np.asarray([longest]))
    with torch.inference_mode():
        states, _ = encoded(model, collate(corpus, whole, 20))
        for end in range(1, states.shape[1]):
            cut = replace(whole, stop=whole.start + end)
            found, mask = encoded(model, collate(corpus, cut, 20))
            torch.testing.assert_close(last_state(found, mask)[0], states[0, end - 1], rtol=1e-4, atol=1e-5)


def test_a_history_of_nothing_is_one_position() -> None:
    model = built(ring_corpus())
    found = model.encoder(torch.zeros(2, 3, dtype=torch.long), torch.tensor([[1, 0, 0], [1, 0, 0]]))
    assert found.last_hidden_state.shape == (2, 1, TINY.d_model)
    assert torch.isfinite(found.last_hidden_state).all()


def best_of(count: int) -> float:
    """Blom's expected maximum of normal numbers."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def test_the_expected_maximum_is_that_of_drawn_numbers() -> None:
    drawn = torch.randn(20_000, 100, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 10, 100):
        found = float(expected_maximum(torch.tensor([count])))
        assert found == pytest.approx(best_of(count), abs=1e-5)
        assert found == pytest.approx(float(drawn[:, :count].max(dim=1).values.mean()), abs=0.03)
    assert float(expected_maximum(torch.tensor([0]))) == 0


@LAYOUTS
def test_what_begins_an_id_has_mean_and_spread_of_what_follows(layout: TokenLayout) -> None:
    corpus = ring_corpus(items=40, layout=layout)
    model, items = built(corpus), tokens_of(corpus)
    weights, state = torch.rand(40) + 0.5, torch.randn(1, TINY.d_model)
    model.look_ahead(items, weights)
    rows = head_rows_of_items(layout, items)
    with torch.inference_mode():
        vectors = model.item_vectors(items)
        for length in range(1, layout.depth):
            for prefix in {tuple(row[:length].tolist()) for row in items}:
                below = [row for row in range(40) if tuple(items[row, :length].tolist()) == prefix]
                left = vectors[below] - model.item_head(rows[below[0], :length]).sum(dim=0)
                share = weights[below, None] / weights[below].sum()
                mean = (share * left).sum(dim=0)
                variance = state.square() @ (share * (left - mean).square()).sum(dim=0)
                expected = state @ mean + SPREAD * best_of(len(below)) * variance.sqrt()
                hashed = model.hash_parts[torch.tensor(prefix)].sum()[None, None]
                found = model.prospect(state, hashed, length - 1)
                torch.testing.assert_close(found, 0.6 * expected[None], rtol=1e-2, atol=1e-2)


@LAYOUTS
def test_a_prefix_that_came_later_promises_what_the_tokens_of_all_items_add(layout: TokenLayout) -> None:
    corpus = ring_corpus(items=40, layout=layout)
    model, items = built(corpus), tokens_of(corpus)
    weights, state, unknown = torch.rand(40) + 0.5, torch.randn(1, TINY.d_model), torch.tensor([[1]])
    assert not (prefix_rows(model.ahead_slots, unknown) > 0).any()
    model.look_ahead(items, weights)
    share = weights[:, None] / weights.sum()
    with torch.inference_mode():
        for length in range(1, layout.depth):
            left = model.item_head(head_rows_of_items(layout, items)[:, length:]).sum(dim=1)
            mean = (share * left).sum(dim=0)
            variance = state.square() @ (share * (left - mean).square()).sum(dim=0)
            expected = state @ mean + SPREAD * best_of(2) * variance.sqrt()
            found = model.prospect(state, unknown, length - 1)
            torch.testing.assert_close(found, 0.6 * expected[None], rtol=1e-2, atol=1e-2)


def test_an_item_that_came_later_is_its_tokens_alone() -> None:
    corpus = ring_corpus(items=40)
    model, items = built(corpus, known=slice(0, 30)), tokens_of(corpus)
    new, state = items[30:], torch.randn(1, TINY.d_model)
    with torch.inference_mode():
        torch.testing.assert_close(model.item_vectors(new), model.vectors_of_tokens(new))
        assert not torch.equal(model.item_vectors(items[:30]), model.vectors_of_tokens(items[:30]))
        hashed = model.hash_parts[new].sum(dim=1)[None]
        assert not model.prospect(state, hashed, corpus.layout.depth - 1).any()


def test_what_is_taken_for_new_is_read_and_scored_as_an_item_that_came_later() -> None:
    corpus = ring_corpus(items=40)
    model, later, items = built(corpus), built(corpus, known=slice(0, 20)), tokens_of(corpus)
    state = model.state_dict()
    rest = {name: later.state_dict()[name] for name in (*FOUND_BY, "item_ahead", "ahead_slots")}
    rest |= {name: state[name][: 20 + 1] for name in ("encoder.reader_own.weight", "item_own.weight")}
    later.load_state_dict({**state, **rest})
    examples = corpus.validation.take(np.arange(12))
    batch = collate(corpus, examples, 20)
    known, at = np.zeros(batch.history.shape, dtype=bool), examples.stop - examples.start
    for row, (start, length) in enumerate(zip(examples.start, at, strict=True)):
        known[row, :length] = corpus.history_items[start : start + length] < 20
    history, mask = torch.from_numpy(batch.history), torch.from_numpy(batch.mask)
    with torch.inference_mode():
        found = model(
            history,
            mask,
            decoder_input_ids=torch.zeros(12, 1, dtype=torch.long),
            items=items,
            known=torch.arange(40) < 20,
            read_as_known=torch.from_numpy(known[:, : at.max()]),
        )
        expected = later(history, mask, decoder_input_ids=torch.zeros(12, 1, dtype=torch.long), items=items)
    torch.testing.assert_close(found.encoder_last_hidden_state, expected.encoder_last_hidden_state)
    torch.testing.assert_close(found.item_vectors, torch.stack([model.item_vectors(items), later.item_vectors(items)]))


def test_weights_that_find_ids_without_their_keys_are_refused() -> None:
    corpus = ring_corpus()
    state = dict(built(corpus).state_dict())
    assert known_sizes(state, corpus.layout) == KnownIds.of(corpus.layout, tokens_of(corpus)).sizes
    del state["encoder.item_keys"]
    with pytest.raises(ModelError, match="train it anew"):
        known_sizes(state, corpus.layout)


@pytest.mark.parametrize("count", [1, 2, 300, 10_000])
def test_known_ids_have_rows_of_their_own_and_others_none(count: int) -> None:
    rng = np.random.default_rng(5)
    layout = TokenLayout(levels=4, codes=256, experts=10, experts_per_item=1, suffixes=64)
    values = np.stack([rng.integers(0, size, 2 * count) for size in layout.position_sizes], axis=1)
    items = torch.from_numpy(layout.tokens(values.astype(np.int32)).astype(np.int64))
    known, hashes = KnownIds.of(layout, items[:count]), hash_parts(layout)[items].sum(dim=1)
    rows = known.items.rows(hashes)
    torch.testing.assert_close(rows[:count], torch.arange(1, count + 1))
    assert not rows[count:].any()


def test_equal_ids_have_one_row() -> None:
    items = torch.from_numpy(LAYOUT.tokens(np.zeros((3, LAYOUT.depth), np.int32)).astype(np.int64))
    items[1, 0] += 1
    rows = KnownIds.of(LAYOUT, items).items.rows(hash_parts(LAYOUT)[items].sum(dim=1))
    assert rows.tolist() == [3, 2, 3]


@LAYOUTS
@pytest.mark.usefixtures("searched_by")
@pytest.mark.parametrize("likeness", [False, True])
def test_validation_finds_what_generate_finds(layout: TokenLayout, likeness: bool) -> None:
    corpus = ring_corpus(users=30, layout=layout)
    model = built(corpus, seed=1, known=slice(0, 8), likeness=likeness)
    lists = Validator(corpus, users=20, beams=10, max_history=20, seed=0).ranked_lists(model)
    tokens = corpus.layout.tokens(corpus.values)
    examples = corpus.validation.take(sample_users(corpus.validation, 1, 20, seed=0))
    batch = collate(corpus, examples, 20)
    expected = generate_lists(model, batch.history, batch.mask, AllowedTokens(tokens), beams=10)
    np.testing.assert_array_equal(tokens[lists], expected.tokens)


@LAYOUTS
@pytest.mark.parametrize("likeness", [False, True])
def test_a_found_item_has_the_score_of_decoder_and_head(layout: TokenLayout, likeness: bool) -> None:
    corpus = ring_corpus(users=10, layout=layout)
    model = built(corpus, seed=2, known=slice(0, 8), likeness=likeness)
    tokens = corpus.layout.tokens(corpus.values)
    batch, beams = collate(corpus, corpus.validation, 20), len(corpus.values)
    found = generate_lists(model, batch.history, batch.mask, AllowedTokens(tokens), beams)
    with torch.inference_mode():
        scored = 0.6 * scoring_state(model, batch) @ model.item_vectors(tokens_of(corpus)).T
    for row in range(len(batch.history)):
        written = score_every_item(model, batch.history[row], batch.mask[row], tokens)
        expected = 0.4 * written + scored[row].numpy()
        np.testing.assert_array_equal(found.tokens[row], tokens[np.argsort(-expected)])
        np.testing.assert_allclose(found.log_prob[row], np.sort(expected)[::-1], atol=1e-3)
        np.testing.assert_allclose(found.log_prob_by_level[row].sum(axis=1), found.log_prob[row], atol=1e-3)


def test_how_narrow_a_search_chose_counts_what_the_head_adds() -> None:
    corpus = ring_corpus(users=10)
    model, tokens = built(corpus, seed=2), corpus.layout.tokens(corpus.values)
    batch = collate(corpus, corpus.validation, 20)
    one = batch.history[0][batch.mask[0] == 1], batch.mask[0][batch.mask[0] == 1]
    assert narrowest_choice(model, *one, tokens, beams=len(tokens)) == float("inf")
    # Of a search with room for all but one, the narrowest choice is that between the two worst items.
    found = generate_lists(model, batch.history[:1], batch.mask[:1], AllowedTokens(tokens), len(tokens))
    gap = float(found.log_prob[0][-2] - found.log_prob[0][-1])
    assert narrowest_choice(model, *one, tokens, beams=len(tokens) - 1) == pytest.approx(gap, abs=1e-4)


def read(corpus: Corpus, rows: NDArray[np.int64], end: int = 20) -> dict[str, torch.Tensor]:
    """Windows up to an item, and one decoder token for each."""
    windows = corpus.windows.take(rows)
    batch = collate(corpus, replace(windows, stop=np.minimum(windows.start + end, windows.stop)), 20)
    history, mask = torch.from_numpy(batch.history), torch.from_numpy(batch.mask)
    return {"input_ids": history, "attention_mask": mask, "decoder_input_ids": torch.zeros_like(history[:, :1])}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_window_teaches_all_its_items(share: float) -> None:
    corpus = ring_corpus(users=20, domains=("ring", "other"))
    model = built(corpus, seed=4)
    new = {"new_windows": share, "new_items": 0.4} if share else {}
    parameters = tiny_parameters(network=SCORES.model_dump(), item_loss=2.0, **new)
    task = NextItems(corpus, parameters, model)
    rows = np.flatnonzero(corpus.windows.domain == 1)[:6]
    torch.manual_seed(7)
    found = task.loss(model, rows, torch.device("cpu"))

    lengths, first = torch.from_numpy(task.lengths[rows]), int(corpus.item_starts[1])
    items = tokens_of(corpus)[first:]
    torch.manual_seed(7)
    drawn = (torch.rand(1, len(rows)) * lengths).long().clamp(max=lengths - 1)[0].numpy()
    windows, unread, scored = (
        torch.rand(size) < chance
        for size, chance in [((len(rows),), share), ((len(rows), int(lengths.max())), 0.4), ((len(items),), 0.4)]
    )
    losses, tables = [], model(**read(corpus, rows[:1]), items=items, known=~scored).item_vectors
    for row, new, mine in zip(rows, windows, unread, strict=True):
        window = corpus.windows.take(np.asarray([row]))
        for end in range(1, int(task.lengths[row]) + 1):
            cut = replace(window, stop=window.start + end)
            known = ~(new & mine[None, :end])
            state = model(**read(corpus, np.asarray([row]), end), read_as_known=known).encoder_last_hidden_state
            target = torch.from_numpy(corpus.history_items[cut.stop]) - first
            losses.append(F.cross_entropy(state[:, -1] @ tables[int(new)].T, target))
    asked = corpus.windows.take(rows)
    asked = replace(asked, stop=asked.start + drawn + 1)
    batch = collate(corpus, asked, 20)
    targets = torch.from_numpy(batch.targets)
    logits = model(
        torch.from_numpy(batch.history),
        torch.from_numpy(batch.mask),
        decoder_input_ids=F.pad(targets[:, :-1], (1, 0)),
        read_as_known=~(windows[:, None] & unread)[:, : int(drawn.max()) + 1],
    ).logits
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten()) + 2.0 * torch.stack(losses).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_item_but_a_users_first_and_last_two_is_a_target_once() -> None:
    corpus = ring_corpus(users=40, domains=("ring", "other"))
    windows, met = corpus.windows, np.zeros(len(corpus.history_items), dtype=int)
    for start, stop in zip(windows.start, windows.stop, strict=True):
        met[start + 1 : stop + 1] += 1
    expected = np.zeros_like(met)
    expected[corpus.training.stop] = 1
    np.testing.assert_array_equal(met, expected)


@pytest.mark.parametrize("negatives", [1000, 10], ids=["all items", "drawn"])
def test_planted_transitions_are_found(tmp_path: Path, negatives: int) -> None:
    parameters = tiny_parameters(
        network=SCORES.model_dump() | {"read_dropout": 0.05},
        epochs=40,
        patience=40,
        batch_tokens=256,
        item_negatives=negatives,
    )
    result = Trainer(ring_corpus(domains=("ring", "other")), parameters, tmp_path, Accelerator(cpu=True)).run()
    assert result.best["recall_10"] > 0.95
    assert result.best["ndcg_10"] > 0.85


def content_of(corpus: Corpus, width: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(len(corpus.values), width)).astype(np.float32)


@LAYOUTS
def test_rows_hold_the_mean_of_what_is_left(layout: TokenLayout) -> None:
    values = random_values(layout, 60, np.random.default_rng(2))
    tokens = torch.from_numpy(layout.tokens(values).astype(np.int64))
    content = torch.randn(60, 5)
    found = row_vectors(layout, tokens, content)
    left = content.clone().numpy()
    rows = rows_of_items(layout, tokens).numpy()
    for level in range(layout.depth)[code_positions(layout)]:
        for row in set(rows[:, level].tolist()):
            own = rows[:, level] == row
            mean = left[own].sum(axis=0) / (own.sum() + 0.5)
            np.testing.assert_allclose(found[row].numpy(), mean, atol=1e-5)
            left[own] -= mean


@LAYOUTS
def test_what_is_read_and_scored_can_begin_as_the_content(layout: TokenLayout) -> None:
    corpus = ring_corpus(layout=layout)
    tokens = tokens_of(corpus)
    settings = SCORES.model_copy(update={"d_model": 8})
    torch.manual_seed(0)
    ids = KnownIds.of(layout, tokens)
    model = build_t5(layout, settings, ids.sizes)
    assert isinstance(model, SemanticT5)
    model.know(ids)
    head, reader = model.item_head.weight.clone(), model.encoder.reader.weight.clone()
    embeddings = content_of(corpus, 8)
    start_from_content(model, layout, tokens, embeddings, share=1.0)

    rows, scored_rows = rows_of_items(layout, tokens), head_rows_of_items(layout, tokens)
    others = np.delete(np.arange(layout.depth), code_positions(layout))
    own = model.encoder.reader_own(model.encoder.known_rows(model.hash_parts[tokens].sum(dim=1)))
    scored = model.item_vectors(tokens) - head[scored_rows[:, others]].sum(dim=1)
    read = model.encoder.reader(rows).sum(dim=1) + own - reader[rows[:, others]].sum(dim=1)
    centred = embeddings - embeddings.mean(axis=0)
    for vectors in (scored, read):
        found = (vectors @ vectors.T).detach().numpy() / HEAD_SCALE**2 * centred.std() ** 2
        np.testing.assert_allclose(found, centred @ centred.T, rtol=1e-2, atol=1e-2)


def test_content_that_tells_no_items_apart_changes_nothing() -> None:
    """As of a catalogue of one item; a deviation of no rows was not a number, and so was all that was learned."""
    corpus = ring_corpus()
    tokens = tokens_of(corpus)
    model = build_t5(corpus.layout, SCORES, KnownIds.of(corpus.layout, tokens).sizes)
    before = model.shared.weight.clone()
    start_from_content(model, corpus.layout, tokens, np.ones((len(tokens), 4), dtype=np.float32), share=0.8)
    assert torch.equal(model.shared.weight, before)


def test_content_is_what_tells_items_apart_most() -> None:
    """Numbers of deviations 1, 9 and 4 along directions of their own, about a mean that is not 0."""
    random = np.random.default_rng(0)
    directions, _ = np.linalg.qr(random.normal(size=(3, 3)))
    along = random.normal(size=(500, 3)) * [1, 9, 4]
    embeddings = (along @ directions.T + [5, -3, 2]).astype(np.float32)
    found = principal_components(embeddings, 2)
    assert found.std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    for column, direction in enumerate([1, 2]):
        assert abs(np.corrcoef(found[:, column], along[:, direction])[0, 1]) > 0.99
    wide = principal_components(embeddings, 5)
    assert wide.shape == (500, 5)
    assert not wide[:, 3:].any()
