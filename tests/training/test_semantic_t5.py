"""Reading and judging items: against slow twins, against `generate`, and on planted transitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from recommender_planted import LAYOUT, TINY, random_values, ring_corpus, tiny_parameters
from torch.nn import functional as F

from service.semantic_ids import TokenLayout
from training.export.reference import AllowedTokens, generate_lists
from training.networks.semantic_t5 import HEAD_SCALE, EncoderOfItems, SemanticT5
from training.networks.t5 import T5Settings, build_t5
from training.networks.token_tables import buckets_of_items, rows_of_items, rows_of_sequences, table_rows
from training.recommender.batches import collate
from training.recommender.content_start import row_vectors, start_from_content
from training.recommender.corpus import Corpus
from training.recommender.trainer import Trainer, item_cross_entropy
from training.recommender.validation import Validator, sample_users

WITHOUT_EXPERTS = TokenLayout(levels=3, codes=5, experts=1, experts_per_item=0, suffixes=4)
WITH_DOMAINS = TokenLayout(levels=2, codes=8, experts=3, experts_per_item=1, suffixes=4, domains=("ring", "other"))
LAYOUTS = pytest.mark.parametrize("layout", [LAYOUT, WITHOUT_EXPERTS, WITH_DOMAINS], ids=["experts", "none", "domains"])
READS = TINY.model_copy(update={"history": "items"})
JUDGES = TINY.model_copy(update={"history": "items", "item_head": 1.5, "item_buckets": 400})


def built(settings: T5Settings, layout: TokenLayout = LAYOUT, seed: int = 0) -> SemanticT5:
    torch.manual_seed(seed)
    model = build_t5(layout, settings).eval()
    assert isinstance(model, SemanticT5)
    if model.item_own is not None:
        torch.nn.init.normal_(model.item_own.weight, std=0.3)
    return model


def test_its_layers_begin_as_those_of_t5() -> None:
    torch.manual_seed(0)
    plain, found = build_t5(LAYOUT, TINY).state_dict(), built(JUDGES).state_dict()
    for name, tensor in plain.items():
        if ".block." in name:
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@LAYOUTS
def test_a_code_has_a_row_for_each_expert(layout: TokenLayout) -> None:
    values = random_values(layout, 40, np.random.default_rng(0))
    items = torch.from_numpy(layout.tokens(values).astype(np.int64))
    meanings: dict[object, int] = {}
    for value, found in zip(values.tolist(), rows_of_items(layout, items).tolist(), strict=True):
        expert = value[layout.levels] if layout.experts_per_item else None
        for position, row in enumerate(found):
            told_apart = expert if position < layout.levels else None
            assert meanings.setdefault((position, value[position], told_apart), row) == row
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
def test_the_encoder_reads_sums_of_items(layout: TokenLayout) -> None:
    corpus = ring_corpus(users=8, layout=layout)
    model = built(READS, layout)
    assert isinstance(model.encoder, EncoderOfItems)
    batch = collate(corpus, corpus.validation, 20)
    with torch.inference_mode():
        found = model.encoder(torch.from_numpy(batch.history), torch.from_numpy(batch.mask))
        for row in range(len(corpus.validation)):
            one = corpus.validation.take(np.asarray([row]))
            items = corpus.history_items[one.start[0] : one.stop[0]]
            vectors = []
            for item in torch.from_numpy(layout.tokens(corpus.values[items]).astype(np.int64)):
                has_suffix = corpus.values[items][len(vectors), -1] != 0
                rows = rows_of_items(layout, item[None])[0][: layout.depth if has_suffix else layout.depth - 1]
                vectors.append(model.encoder.reader.weight[rows].sum(dim=0))
            if layout.domains:
                lead = torch.tensor([[layout.domain_token("ring")]])
                vectors.insert(0, model.encoder.reader.weight[rows_of_sequences(layout, lead)[0, 0]])
            expected = super(EncoderOfItems, model.encoder).forward(
                inputs_embeds=torch.stack(vectors)[None], attention_mask=torch.ones(1, len(vectors), dtype=torch.long)
            )
            assert found.mask is not None
            assert found.mask[row].sum() == len(vectors)
            torch.testing.assert_close(
                found.last_hidden_state[row, : len(vectors)], expected.last_hidden_state[0], rtol=1e-4, atol=1e-5
            )


def test_a_history_of_nothing_is_one_position() -> None:
    model = built(READS)
    encoded = model.encoder(torch.zeros(2, 3, dtype=torch.long), torch.tensor([[1, 0, 0], [1, 0, 0]]))
    assert encoded.last_hidden_state.shape == (2, 1, TINY.d_model)
    assert torch.isfinite(encoded.last_hidden_state).all()


@pytest.mark.parametrize("settings", [READS, JUDGES], ids=["reads", "judges"])
def test_validation_finds_what_generate_finds(settings: T5Settings) -> None:
    corpus = ring_corpus(users=30)
    model = built(settings, seed=1)
    lists = Validator(corpus, users=20, beams=10, max_history=20, seed=0).ranked_lists(model)
    tokens = corpus.layout.tokens(corpus.values)
    examples = corpus.validation.take(sample_users(corpus.validation, 1, 20, seed=0))
    batch = collate(corpus, examples, 20)
    expected = generate_lists(model, batch.history, batch.mask, AllowedTokens(tokens), beams=10)
    np.testing.assert_array_equal(tokens[lists], expected.tokens)


def test_a_head_scores_an_item_as_its_search_does() -> None:
    corpus = ring_corpus(users=10)
    model, tokens = built(JUDGES, seed=2), torch.from_numpy(corpus.layout.tokens(corpus.values).astype(np.int64))
    batch = collate(corpus, corpus.validation, 20)
    with torch.inference_mode():
        out = model(
            torch.from_numpy(batch.history),
            torch.from_numpy(batch.mask),
            decoder_input_ids=torch.zeros(len(batch.history), 1, dtype=torch.long),
            items=tokens,
        )
        state = out.state[:, 0]
        guided = model.guide(state)[:, tokens].sum(dim=2)
        added = guided + model.judge(state, tokens.expand(len(state), -1, -1))
    torch.testing.assert_close(added, JUDGES.item_head * out.item_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("negatives", [1000, 10], ids=["all items", "drawn"])
def test_planted_transitions_are_found(tmp_path: Path, negatives: int) -> None:
    parameters = tiny_parameters(
        network=JUDGES.model_dump() | {"read_dropout": 0.05, "state_dropout": 0.05},
        epochs=30,
        patience=30,
        batch_tokens=256,  # of items here, so that there are as many steps
        item_negatives=negatives,
    )
    result = Trainer(ring_corpus(), parameters, tmp_path, Accelerator(cpu=True)).run()
    assert result.best["recall_10"] > 0.95
    assert result.best["ndcg_10"] > 0.85


def test_the_loss_over_items_is_that_of_a_softmax() -> None:
    torch.manual_seed(0)
    candidates, items = torch.tensor([2, 5, 7, 11]), torch.tensor([7, 2, 7])
    scores = torch.randn(3, 4)
    by_hand = [
        -torch.log(torch.exp(scores[row, candidates.tolist().index(item)]) / torch.exp(scores[row]).sum())
        for row, item in enumerate(items.tolist())
    ]
    torch.testing.assert_close(item_cross_entropy(scores, items, candidates), torch.stack(by_hand).mean())


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
    for level in range(layout.levels):
        for row in set(rows[:, level].tolist()):
            own = rows[:, level] == row
            mean = left[own].sum(axis=0) / (own.sum() + 0.5)
            np.testing.assert_allclose(found[row].numpy(), mean, atol=1e-5)
            left[own] -= mean


def test_a_head_can_begin_as_the_content_itself() -> None:
    corpus = ring_corpus()
    tokens = torch.from_numpy(corpus.layout.tokens(corpus.values).astype(np.int64))
    settings = JUDGES.model_copy(update={"item_buckets": 40961, "d_model": 8})
    assert len(torch.unique(buckets_of_items(tokens, 40961))) == len(tokens)
    torch.manual_seed(0)
    model = build_t5(corpus.layout, settings)
    assert isinstance(model, SemanticT5)
    before = model.item_head.weight.clone()
    embeddings = content_of(corpus, 8)
    start_from_content(model, corpus.layout, tokens, embeddings, share=1.0)

    codes = model.item_head(tokens[:, : corpus.layout.levels]).sum(dim=1)
    vectors = model.item_vectors(tokens) - before[tokens[:, corpus.layout.levels :]].sum(dim=1)
    centred = embeddings - embeddings.mean(axis=0)
    expected = centred @ centred.T
    found = (vectors @ vectors.T).detach().numpy() / HEAD_SCALE**2 * centred.std() ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)
    assert float(F.cosine_similarity(codes, vectors).mean().detach()) > 0.5
