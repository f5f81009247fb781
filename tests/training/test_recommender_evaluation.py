"""`evaluate` runs the exported graph of a bundle and counts by hand-checkable rules."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
import torch
import typer
from recommender_planted import LAYOUT, TINY, random_values, ring_domain, write_dataset
from typer.testing import CliRunner

from service.bundle.files import hash_files, write_manifest
from service.bundle.manifest import (
    SCHEMA_VERSION,
    CataloguePart,
    ItemTokenizerPart,
    Layout,
    Manifest,
    RecommenderPart,
    TextEncoderPart,
)
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from service.errors import ConfigError
from service.semantic_ids import TokenLayout
from training.commands.evaluate import evaluate as evaluate_command
from training.data.dataset import DomainData
from training.data.split import Examples, leave_one_out, training_stretches
from training.evaluation.protocol import ranked_lists, score
from training.evaluation.stage import EVALUATION, EvaluationOptions, evaluate
from training.evaluation.subject import Subject, bundle_subject, choose_recommender
from training.evaluation.trained import trained_subject
from training.graphs.recommender import export_recommender
from training.ids.table import DomainIds, read_ids, write_ids
from training.laboratory.planned import PlannedStage
from training.laboratory.recording import Recorder
from training.measures.histories import batched_histories
from training.measures.users import evaluated_users, split_for
from training.networks.known_ids import KnownIds
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import (
    LayoutRecord,
    RecommenderRecord,
    TrainedRecommender,
    build_t5,
    load_recommender,
    save_record,
    save_weights,
)
from training.recommender.corpus import build_corpus
from training.recommender.exhaustive import _places, scored_ranks
from training.recommender.learned_ids import LEARNED_IDS, ids_digest
from training.recommender.validation import Validator, sample_users
from training.stage import Stage, read_figures

RUNTIME = Runtime(threads=1)


@pytest.fixture(scope="module")
def domain() -> DomainData:
    return ring_domain("ring", 24, 40, np.random.default_rng(5))


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return random_values(LAYOUT, 24, np.random.default_rng(6))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray) -> Path:
    """A real recommender and catalogue; `evaluate` never opens the other two networks, so they are empty files."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "catalogue").mkdir()
    torch.manual_seed(0)
    export_recommender(build_t5(LAYOUT, TINY).eval(), LAYOUT, folder / "recommender.onnx")
    order = np.random.default_rng(7).permutation(24)
    catalogue = pl.DataFrame(
        {
            "item_id": [f"ring-{row}" for row in order],
            "domain": ["ring"] * 24,
            "title": [None] * 24,
            "codes": values[order, :2].tolist(),
            "experts": values[order, 2:3].tolist(),
            "suffix": values[order, 3].tolist(),
        }
    )
    catalogue.write_parquet(folder / "catalogue" / "items.parquet")
    for name in ("text_encoder.onnx", "tokenizer.json", "item_tokenizer.onnx"):
        (folder / name).touch()
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="rings",
        generation=1,
        created="2026-01-01T00:00:00Z",
        description="planted",
        layout=Layout(levels=2, codes=8, experts=3, experts_per_item=1, suffixes=4),
        text_encoder=TextEncoderPart(max_tokens=8, recipe="none", source="none"),
        item_tokenizer=ItemTokenizerPart(embedding_width=4, latent_width=4, expert_names=["a", "b", "c"]),
        recommenders=[
            RecommenderPart(name="all", model="recommender.onnx", domains=["ring"], domain_tokens=[], max_history=20)
        ],
        catalogue=CataloguePart(items=24),
        files=hash_files(folder),
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, domain: DomainData) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), domain)


@pytest.mark.usefixtures("searched_by")
def test_the_served_graph_is_what_is_measured(
    bundle: Path, dataset: Path, domain: DomainData, values: np.ndarray, tmp_path: Path
) -> None:
    figures = evaluate(bundle_subject(bundle, RUNTIME), dataset, tmp_path, EvaluationOptions(part="validation"))
    written = json.loads((tmp_path / EVALUATION).read_text())
    assert written["domains"] == figures["domains"]
    assert (written["part"], written["beams"], written["history_items_removed"]) == ("validation", 20, False)

    # The same weights, as training searches for them.
    torch.manual_seed(0)
    model = build_t5(LAYOUT, TINY).eval()
    corpus = build_corpus([domain], {"ring": values}, LAYOUT, 20)
    validator = Validator(corpus, users=1000, beams=20, max_history=20, seed=0)
    expected = validator.figures(validator.ranked_lists(model))
    found = written["domains"]["ring"]
    without = EvaluationOptions(part="validation", remove_history=True)
    removed = evaluate(bundle_subject(bundle, RUNTIME), dataset, tmp_path, without)["domains"]["ring"]
    better = max((each["item_level"] for each in (found, removed)), key=lambda each: each["ndcg_10"])
    assert better["ndcg_10"] == pytest.approx(expected.ndcg_10, abs=1e-5)
    assert better["recall_10"] == pytest.approx(expected.recall_10, abs=1e-5)
    assert (found["users"], found["items"], found["recommender"], found["learned_from"]) == (40, 24, "all", True)
    assert len(sample_users(corpus.validation, 1, 1000, 0)) == 40


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray) -> tuple[Path, Path]:
    """The tokenizer's IDs and the recommender of the bundle as training leaves them."""
    tokenizer, recommender = tmp_path_factory.mktemp("tokenizer"), tmp_path_factory.mktemp("recommender")
    ids = DomainIds("ring", [f"ring-{row}" for row in range(24)], values[:, :2], values[:, 2:3], values[:, 3])
    write_ids(tokenizer, [ids])
    stage = Stage("train-recommender", recommender)
    torch.manual_seed(0)
    save_weights(recommender, build_t5(LAYOUT, TINY).state_dict())
    layout = LayoutRecord.of(LAYOUT)
    save_record(recommender, RecommenderRecord(t5=TINY, layout=layout, max_history=20, trained_on=("ring",)))
    stage.finish({LEARNED_IDS: {"ring": ids_digest(ids)}})
    return tokenizer, recommender


def test_a_trained_recommender_is_measured_like_its_bundle(
    bundle: Path, trained: tuple[Path, Path], dataset: Path, tmp_path: Path
) -> None:
    options = EvaluationOptions(part="validation")
    of_bundle = evaluate(bundle_subject(bundle, RUNTIME), dataset, tmp_path / "bundle", options)
    torch.set_num_threads(2)
    subject = trained_subject(*trained, dataset, tmp_path / "trained", RUNTIME)
    assert torch.get_num_threads() == RUNTIME.threads == 1, "the network that proves and scores takes more"
    of_folders = evaluate(subject, dataset, tmp_path / "trained", options)
    assert of_folders["recommender"] == trained[1].name
    assert of_folders["proof"]["histories"] == 20
    assert of_folders["proof"]["greatest_difference"] < 1e-4
    scored = of_folders["domains"]["ring"]
    assert scored.pop("recommender") == trained[1].name
    of_bundle["domains"]["ring"].pop("recommender")
    assert scored == of_bundle["domains"]["ring"]


def test_items_of_the_history_can_be_removed(
    bundle: Path, dataset: Path, domain: DomainData, values: np.ndarray, tmp_path: Path
) -> None:
    subject = bundle_subject(bundle, RUNTIME)
    recommender = subject.open(subject.parts[0])
    test = leave_one_out(domain.history_items, domain.history_starts).test
    lists = ranked_lists(recommender, domain, values, test, beams=24, advance=lambda *_: None, remove_history=True)
    for row in range(len(test)):
        history = set(domain.history_items[test.starts[row] : test.stops[row]].tolist())
        assert set(lists[row][lists[row] >= 0].tolist()) == set(range(24)) - history
    figures = evaluate(subject, dataset, tmp_path, EvaluationOptions(remove_history=True))
    assert figures["history_items_removed"] is True


@pytest.mark.parametrize("likeness", [False, True])
def test_a_head_is_also_measured_without_a_search(
    trained: tuple[Path, Path], dataset: Path, values: np.ndarray, tmp_path: Path, likeness: bool
) -> None:
    """With beams for everything and hardly a word from the decoder, both find the same."""
    settings = TINY.model_copy(update={"history": "items", "item_head": 1 - 1e-6, "likeness": likeness})
    tokens = torch.from_numpy(LAYOUT.tokens(values).astype(np.int64))
    torch.manual_seed(1)
    # With most of the items new, most of the histories are.
    ids = KnownIds.of(LAYOUT, tokens[: len(tokens) // 4] if likeness else tokens)
    model = build_t5(LAYOUT, settings, ids.sizes)
    assert isinstance(model, SemanticT5)
    model.know(ids)
    model.item_likeness.normal_()
    with torch.no_grad():
        model.item_own.weight[1:].normal_(std=0.1)
    save_weights(tmp_path, model.state_dict())
    layout = LayoutRecord.of(LAYOUT)
    save_record(tmp_path, RecommenderRecord(t5=settings, layout=layout, max_history=20, trained_on=("ring",)))
    export_recommender(model.eval(), LAYOUT, tmp_path / "recommender.onnx")
    opened, scored = load_recommender(tmp_path), partial(scored_ranks, load_recommender(tmp_path))
    part = RecommenderPart(name="a", model="recommender.onnx", domains=["ring"], domain_tokens=[], max_history=20)
    recommender = Recommender.open(tmp_path / "recommender.onnx", part, opened.layout, RUNTIME)
    subject = Subject({}, read_ids(trained[0]), (part,), lambda _: recommender, scored=scored)
    found = evaluate(subject, dataset, tmp_path / "out", EvaluationOptions(beams=24))["domains"]["ring"]
    assert found["head_over_all_items"] == found["item_level"]
    with torch.no_grad():
        model.item_own.weight.zero_()
    save_weights(tmp_path, model.state_dict())
    scored = partial(scored_ranks, load_recommender(tmp_path))
    without = evaluate(replace(subject, scored=scored), dataset, tmp_path / "without", EvaluationOptions(beams=24))
    figures = without["domains"]["ring"]
    assert figures["head_over_all_items_target_as_new"] == figures["head_over_all_items"]
    assert found["head_over_all_items_target_as_new"] != found["head_over_all_items"]


@pytest.mark.parametrize("layout", [LAYOUT, replace(LAYOUT, domains=("other", "ring"))], ids=["plain", "domain token"])
def test_histories_come_in_batches_of_like_length_the_longest_first(
    domain: DomainData, values: np.ndarray, layout: TokenLayout
) -> None:
    test, read = split_for(domain, 20).test, []
    lengths = test.stops - test.starts
    assert len(set(lengths.tolist())) > 3
    for places, histories in batched_histories(layout, domain, values, test, max_history=20, size=7):
        assert len(places) == len(histories.tokens) <= 7
        read += places.tolist()
        for place, tokens, mask in zip(places, histories.tokens, histories.mask, strict=True):
            items = values[domain.history_items[test.starts[place] : test.stops[place]]]
            # A suffix of 0 is not written.
            written = [token for row in layout.tokens(items) for token in row if token != layout.position_offsets[-1]]
            lead = [layout.domain_token("ring")] if layout.domains else []
            assert tokens[mask == 1].tolist() == [*lead, *written]
    assert sorted(read) == list(range(len(test)))
    assert lengths[read].tolist() == sorted(lengths.tolist(), reverse=True)


def untrained_scorer(values: np.ndarray) -> tuple[TrainedRecommender, SemanticT5]:
    """A network that knows all items and has nothing to say of any: whatever it is asked, all scores are 0."""
    settings = TINY.model_copy(update={"history": "items", "item_head": 1.0})
    tokens = torch.from_numpy(LAYOUT.tokens(values).astype(np.int64))
    ids = KnownIds.of(LAYOUT, tokens)
    model = build_t5(LAYOUT, settings, ids.sizes).eval()
    assert isinstance(model, SemanticT5)
    model.know(ids)
    with torch.no_grad():
        model.item_head.weight.zero_()
    return TrainedRecommender(model, LAYOUT, settings, 20, ("ring",)), model


def test_a_target_stands_in_the_middle_of_those_with_its_score(domain: DomainData, values: np.ndarray) -> None:
    test = split_for(domain, 20).test
    trained, model = untrained_scorer(values)
    ranks = scored_ranks(trained, domain, values, test)
    assert ranks is not None
    # Of 24 items 23 are others, all with the target's score: 11 of them come first, as often as not 12.
    assert set(ranks.known.tolist()) == set(ranks.new.tolist()) == {11}

    # Now one item is scored better or worse than the others, by a vector of its own, which a new item would not have.
    target = int(test.targets[0])
    with torch.no_grad():
        model.item_own.weight[1 + target].normal_()
    found = scored_ranks(trained, domain, values, test)
    assert found is not None
    of_target = test.targets == target
    assert set(found.known[of_target].tolist()) <= {0, 23}
    assert set(found.new[of_target].tolist()) == {11}
    # The others are 22 that are alike, and one that is better or worse.
    assert set(found.known[~of_target].tolist()) <= {11, 12}
    assert (found.known == found.new)[~of_target].all()


@pytest.mark.parametrize(
    ("scores", "wanted", "place"),
    [
        ([5, 4, 3, 2], 6, 0),
        ([5, 4, 3, 2], 3.5, 2),
        ([5, 4, 3, 2], 1, 4),
        ([5, 3, 3, 2], 3, 2),
        ([5, 3, 3, 3, 2], 3, 2),
        ([3, 5, 3, 5, 3, 3], 3, 4),
    ],
)
def test_places_by_hand(scores: list[float], wanted: float, place: int) -> None:
    assert _places(torch.tensor([scores]).float(), torch.tensor([[wanted]])).tolist() == [place]


def test_ids_of_another_tokenizer_are_refused(trained: tuple[Path, Path], dataset: Path, tmp_path: Path) -> None:
    nothing = np.zeros((1, 2), dtype=np.int32)
    write_ids(tmp_path, [DomainIds("songs", ["song"], nothing, nothing[:, :1], nothing[:, 0])])
    with pytest.raises(ConfigError, match=r"learned from ring, but .* has no IDs of it"):
        trained_subject(tmp_path, trained[1], dataset, tmp_path / "out", RUNTIME)


def test_without_suffixes_equal_tuples_are_shuffled(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    """The tuples' figures and the items' differ by the order within a tuple alone, and that by the seed."""
    subject = bundle_subject(bundle, RUNTIME)
    runs = [
        evaluate(subject, dataset, tmp_path, EvaluationOptions(without_suffix=seed, beams=24)) for seed in (1, 2, 1)
    ]
    first, second, again = (run["domains"]["ring"] for run in runs)
    assert [run["without_suffix"] for run in runs] == [1, 2, 1]
    assert first == again
    assert first["tuple_level"] == second["tuple_level"]
    assert first["items_sharing_a_tuple"] > 0
    assert first["item_level"] != second["item_level"]


def test_items_of_the_history_stay_out_without_suffixes() -> None:
    """All items have one tuple, and every target was in its history: in whatever order, none is found."""
    items, users = 8, 6
    table = pl.DataFrame({"item_id": [str(item) for item in range(items)]})
    names, histories = [str(user) for user in range(users)], np.tile([0, 1, 2, 0], users).astype(np.int32)
    domain = DomainData("planted", table, names, histories, np.arange(0, 4 * users + 1, 4))
    values = np.zeros((items, LAYOUT.depth), dtype=np.int32)
    values[:, -1] = np.arange(items)
    test = leave_one_out(domain.history_items, domain.history_starts).test
    lists = np.full((users, 10), -1)
    lists[:, 0] = 3
    kept, removed = (
        score(domain, values, test, lists, np.random.default_rng(0), remove_history=remove) for remove in (False, True)
    )
    assert kept.item_level.recall_10 == 1.0
    assert removed.item_level.recall_10 == 0.0
    assert kept.tuple_level == removed.tuple_level


def test_a_domain_without_users_is_in_no_mean_and_no_row(
    bundle: Path, domain: DomainData, values: np.ndarray, tmp_path: Path
) -> None:
    nobody = replace(
        domain, name="shop", user_ids=[], history_items=np.zeros(0, np.int32), history_starts=np.zeros(1, int)
    )
    write_dataset(tmp_path, domain, nobody)
    subject = bundle_subject(bundle, RUNTIME)
    subject = replace(subject, ids={"ring": subject.ids["ring"], "shop": replace(subject.ids["ring"], domain="shop")})
    figures = evaluate(subject, tmp_path, tmp_path / "out", EvaluationOptions())
    assert [figures["domains"][name]["users"] for name in ("ring", "shop")] == [40, 0]
    assert figures["mean_item_ndcg_10"] == figures["domains"]["ring"]["item_level"]["ndcg_10"] > 0
    stage = PlannedStage("evaluations/u/t5/seed-0/test", "evaluate", "u", "t5", 0, ("ring", "shop"))
    assert {row.domain for row in Recorder("p", stage, "c", 1.0).rows(figures)} == {"ring"}
    alone = evaluate(subject, tmp_path, tmp_path / "alone", EvaluationOptions(domains=("shop",)))
    assert alone["mean_item_ndcg_10"] is None


@pytest.mark.parametrize("part", ["validation", "test"])
def test_max_users_draws_so_many_by_the_seed(
    bundle: Path, dataset: Path, domain: DomainData, tmp_path: Path, part: Literal["validation", "test"]
) -> None:
    measured: list[Examples] = []
    subject = replace(bundle_subject(bundle, RUNTIME), scored=lambda _, __, examples: measured.append(examples))
    options = EvaluationOptions(part=part, max_users=7, seed=5)
    figures = evaluate(subject, dataset, tmp_path, options)
    assert figures["domains"]["ring"]["users"] == 7
    expected = evaluated_users(getattr(split_for(domain, 20), part), 7, 5)
    assert [each.users.tolist() for each in measured] == [expected.users.tolist()]
    assert measured[0].targets.tolist() == expected.targets.tolist()


def test_the_command_prints_one_line_of_figures(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(evaluate_command)
    options = [
        "--domains",
        "ring",
        "--split",
        "validation",
        "--max-users",
        "5",
        "--recommender",
        "all",
        "--threads",
        "1",
    ]
    run = CliRunner().invoke(app, [str(bundle), str(dataset), "--out", str(tmp_path), *options])
    assert run.exit_code == 0, run.output
    figures = json.loads(run.stdout)
    assert figures == read_figures(tmp_path)
    assert (figures["stage"], figures["part"], figures["domains"]["ring"]["users"]) == ("evaluate", "validation", 5)


def test_the_command_takes_a_recommender_without_a_bundle(
    trained: tuple[Path, Path], dataset: Path, tmp_path: Path
) -> None:
    app = typer.Typer()
    app.command()(evaluate_command)
    options = ["--tokenizer", str(trained[0]), "--out", str(tmp_path), "--threads", "1"]
    run = CliRunner().invoke(app, [str(trained[1]), str(dataset), *options, "--without-suffix", "4"])
    assert run.exit_code == 0, run.output
    figures = json.loads(run.stdout)
    assert (figures["without_suffix"], figures["domains"]["ring"]["users"]) == (4, 40)


def test_what_cannot_be_evaluated_is_said(bundle: Path, dataset: Path, tmp_path: Path) -> None:
    subject = bundle_subject(bundle, RUNTIME)
    with pytest.raises(ConfigError, match="no items of films have semantic IDs; there are IDs for ring"):
        evaluate(subject, dataset, tmp_path, EvaluationOptions(domains=("films",)))
    with pytest.raises(ConfigError, match="no recommender 'small'; there are all"):
        evaluate(subject, dataset, tmp_path, EvaluationOptions(recommender="small"))
    with pytest.raises(ConfigError, match="beams is 5"):
        evaluate(subject, dataset, tmp_path, EvaluationOptions(beams=5))
    (tmp_path / "recommender.json").touch()
    with pytest.raises(ConfigError, match="not a bundle: give the --tokenizer"):
        evaluate_command(tmp_path, dataset, out=tmp_path / "out")


def test_the_recommender_that_learned_from_a_domain_is_chosen() -> None:
    parts = [
        RecommenderPart(name=name, model="m", domains=domains, domain_tokens=[], max_history=20)
        for name, domains in (("all", ["a", "b"]), ("b-only", ["c"]))
    ]
    assert choose_recommender(parts, "c", None).name == "b-only"
    assert choose_recommender(parts, "unseen", None).name == "all"
    assert choose_recommender(parts, "a", "b-only").name == "b-only"


def test_a_recommender_of_long_histories_is_measured_with_them() -> None:
    items = pl.DataFrame({"item_id": [str(item) for item in range(30)]})
    domain = DomainData("long", items, ["user"], np.arange(30, dtype=np.int32), np.array([0, 30]))
    for reads, lies_before in ((5, 20), (20, 20), (25, 25)):
        test = split_for(domain, reads).test
        assert (test.stops - test.starts).tolist() == [lies_before]


def test_popularity_gets_what_arithmetic_says() -> None:
    """Twelve items; item 0 comes twice in every training part and is the target of three users in four."""
    histories = [[0, 0, 1 + user, 5, 0 if user % 4 else 11] for user in range(8)]
    domain = DomainData(
        "planted",
        pl.DataFrame({"item_id": [str(item) for item in range(12)]}),
        [str(user) for user in range(8)],
        np.concatenate(histories).astype(np.int32),
        np.arange(0, 45, 5),
    )
    seen = training_stretches(domain.history_starts).interactions(domain.history_items)
    assert sorted(seen.items.tolist()) == sorted([0] * 16 + list(range(1, 9)))
    values = np.zeros((12, LAYOUT.depth), dtype=np.int32)
    values[:, 0] = np.arange(12) % 8  # items 0 and 8, 1 and 9, 2 and 10, 3 and 11 share a tuple
    values[:, -1] = np.arange(12) // 8
    test = leave_one_out(domain.history_items, domain.history_starts).test
    lists = np.tile(np.arange(10), (8, 1))
    scored = score(domain, values, test, lists)
    assert scored.popularity.recall_10 == scored.item_level.recall_10 == 6 / 8
    assert scored.popularity.ndcg_5 == 6 / 8
    assert scored.items_sharing_a_tuple == pytest.approx(8 / 12)
    # Item 11 shares its tuple with item 3: a hit by tuple, not by item.
    assert scored.tuple_level.recall_10 == scored.popularity_tuple_level.recall_10 == 1.0
    assert scored.tuple_level.recall_5 == 1.0
    # By tuples: 0 and 8 together come first, then 1, 2 and 3 once each (by number); so 3 stands fourth.
    assert scored.tuple_level.ndcg_5 == pytest.approx((6 + 2 / np.log2(5)) / 8)
