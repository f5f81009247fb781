"""Training on planted data: the answer is found, a resumed run is like any other, validation equals generate."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from recommender_planted import LAYOUT, TINY, ring_corpus, tiny_parameters
from safetensors.torch import load_file
from transformers import DynamicCache, EncoderDecoderCache

from service.errors import ConfigError, ModelError
from service.semantic_ids import PAD_TOKEN
from training.checkpoint import CHECKPOINT
from training.learning.schedule import finished_share, rate_factor
from training.networks.known_ids import KnownIds
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import WEIGHTS, build_t5
from training.recommender import tasks as tasks_module
from training.recommender import trainer as trainer_module
from training.recommender.batches import collate
from training.recommender.parameters import RecommenderParameters, read_parameters
from training.recommender.trainer import Trainer, TrainingResult
from training.recommender.validation import ValidationFigures, Validator, sample_users
from training.stage import LOG

CORPUS = ring_corpus()
CONFIGURATIONS = Path(__file__).parents[2] / "training" / "configs"


def train(folder: Path, parameters: RecommenderParameters) -> TrainingResult:
    folder.mkdir(exist_ok=True)
    return Trainer(CORPUS, parameters, folder, Accelerator(cpu=True)).run()


def log_of(folder: Path) -> list[dict[str, object]]:
    """The log without what a clock decides."""
    timed = ("seconds", "examples_per_second")
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs, with dropout, in one go."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(folder, with_dropout(epochs=3))
    return folder


def with_dropout(**changes: object) -> RecommenderParameters:
    network = tiny_parameters().network.model_dump() | {"dropout": 0.1}
    return tiny_parameters(network=network, **changes)


def test_planted_transitions_are_found(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_parameters(epochs=25, patience=25))
    # By chance, a list of 10 of the 24 items would hold the next one for 42 % of the users.
    assert result.best["recall_10"] > 0.95
    assert result.best["ndcg_10"] > 0.85
    assert result.ended_by == "epochs"


class Killed(Exception):
    """Stands for the moment at which the process would have ended."""


def killed(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    parameters: RecommenderParameters,
    before_a_step: Callable[[Trainer], bool],
) -> None:
    """Train until it is killed before the first step of which this is true."""
    step = Trainer._step

    def until(self: Trainer, *arguments: object) -> None:
        if before_a_step(self):
            raise Killed
        step(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", until)
        with pytest.raises(Killed):
            train(folder, parameters)


@pytest.mark.parametrize("at_step", [1, 7, 11])
def test_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: Path, at_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = with_dropout(epochs=3, checkpoint_seconds=0)
    killed(monkeypatch, tmp_path, parameters, lambda trainer: trainer.at.step == at_step)
    assert Trainer(CORPUS, parameters, tmp_path, Accelerator(cpu=True)).at.step == at_step
    train(tmp_path, parameters)

    ours, theirs = (load_file(folder / WEIGHTS) for folder in (tmp_path, uninterrupted))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)
    for mine, expected in zip(log_of(tmp_path), log_of(uninterrupted), strict=True):
        assert mine["step"] == expected["step"]
        assert mine["ndcg_10"] == pytest.approx(expected["ndcg_10"], abs=1e-3)


def test_a_resumed_training_plans_as_an_uninterrupted_one_where_epochs_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = tiny_parameters(epochs=4, checkpoint_seconds=0, patience=9)
    real, factor = Trainer._batches, trainer_module.rate_factor
    done: list[dict[int, float]] = []

    def planned(step: int, share: float, *more: Any) -> float:
        done[-1][step] = share
        if len(done) == 2 and step == 3 * len(trainer._batches(1)):
            raise Killed
        return factor(step, share, *more)

    # As with balanced domains, whose batches of an epoch may be one fewer than those of the first.
    monkeypatch.setattr(Trainer, "_batches", lambda self, epoch: real(self, epoch)[: -1 if epoch else None])
    monkeypatch.setattr(trainer_module, "rate_factor", planned)
    for folder in ("whole", "killed", "killed"):
        done.append({})
        (tmp_path / folder).mkdir(exist_ok=True)
        trainer = Trainer(CORPUS, parameters, tmp_path / folder, Accelerator(cpu=True))
        with suppress(Killed):
            trainer.run()
    assert {**done[1], **done[2]} == done[0]
    assert 0 < min(done[2]) < max(done[2])


def test_the_average_is_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same average, reckoned of the weights after every step; also where the training was interrupted."""
    parameters = with_dropout(epochs=2, average=0.9, checkpoint_seconds=0, validations_per_epoch=1)
    step, expected = Trainer._step, dict[str, torch.Tensor]()

    def noted(self: Trainer, *arguments: object) -> None:
        if self.at.step == 5 and not interrupted:
            interrupted.append(1)
            raise Killed
        step(self, *arguments)  # type: ignore[arg-type]
        after = self.at.step
        keep = min(0.9, (1 + after) / (10 + after))
        for name, weight in self.network.named_parameters():
            now = weight.detach().clone()
            expected[name] = now if after == 1 else keep * expected[name] + (1 - keep) * now

    interrupted: list[int] = []
    monkeypatch.setattr(Trainer, "_step", noted)
    with pytest.raises(Killed):
        train(tmp_path, parameters)
    trainer = Trainer(CORPUS, parameters, tmp_path, Accelerator(cpu=True))
    best = trainer.run().best_step
    assert best == trainer.at.step, "the planted ring is learned better with every step"
    kept = load_file(tmp_path / WEIGHTS)
    for name, weight in expected.items():
        torch.testing.assert_close(kept[name], weight, rtol=1e-5, atol=1e-6)
    moved = [name for name, weight in trainer.network.named_parameters() if (weight - kept[name]).abs().max() > 1e-5]
    assert moved, "the weights themselves were kept"


def _train_until_killed(folder: Path) -> None:
    """In a process of its own: kill -9 in the middle of writing the third checkpoint."""
    torch.set_num_threads(1)
    save = trainer_module.save_checkpoint
    replace = os.replace
    written = []

    def deadly(source: object, target: object) -> None:
        if str(target).endswith(CHECKPOINT) and len(written) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)  # type: ignore[arg-type]

    def counted(*arguments: object) -> None:
        written.append(1)
        save(*arguments)  # type: ignore[arg-type]

    os.replace = deadly  # type: ignore[assignment]
    trainer_module.save_checkpoint = counted  # type: ignore[assignment]
    train(folder, with_dropout(epochs=3, checkpoint_seconds=0))


def test_a_training_killed_while_saving_goes_on(tmp_path: Path, uninterrupted: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_train_until_killed, args=(tmp_path,))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / f"{CHECKPOINT}.partial").exists()
    resumed = Trainer(CORPUS, with_dropout(epochs=3), tmp_path, Accelerator(cpu=True))
    assert resumed.at.step == 2
    resumed.run()
    assert log_of(tmp_path)[-1]["step"] == log_of(uninterrupted)[-1]["step"]
    assert (tmp_path / CHECKPOINT).exists(), "what is done with the weights may be killed as well"


def test_a_checkpoint_of_other_embeddings_is_another_training(tmp_path: Path) -> None:
    corpus, parameters = ring_corpus(), tiny_parameters(content_start=0.9)
    random = np.random.default_rng(0)
    first, second = random.standard_normal((2, len(corpus.values), 16)).astype(np.float32)
    marks = [
        Trainer(corpus, parameters, tmp_path, Accelerator(cpu=True), embeddings=embeddings).fingerprint
        for embeddings in (first, first.copy(), second, first[:, :5], None)
    ]
    assert marks[0] == marks[1]
    assert len(set(marks)) == 4


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_validate", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(tmp_path, tiny_parameters(checkpoint_seconds=0))
    with pytest.raises(ConfigError, match="a checkpoint of other parameters"):
        train(tmp_path, tiny_parameters(seed=4))


def test_time_used_up_ends_with_the_best_weights(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_parameters(minutes=1e-9))
    assert (result.ended_by, result.steps) == ("minutes", 0)
    assert (tmp_path / WEIGHTS).is_file()
    assert len(log_of(tmp_path)) == 1


def test_every_validation_counts_the_last_included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures rise with every validation, so the last is the best, also where time is up between two of them."""
    rising = (ValidationFigures(number / 100, 0.5, {}) for number in itertools.count(1))
    monkeypatch.setattr(Trainer, "_figures", lambda _: next(rising))
    whole = train(tmp_path / "whole", tiny_parameters(epochs=2, validations_per_epoch=2, batch_tokens=512))
    steps = [entry["step"] for entry in log_of(tmp_path / "whole")]
    an_epoch = whole.steps // 2
    assert an_epoch > 3
    assert steps == [an_epoch // 2, an_epoch, an_epoch + an_epoch // 2, 2 * an_epoch]
    assert (whole.best_step, whole.ended_by) == (whole.steps, "epochs")
    assert whole.best["ndcg_10"] == 0.04

    # As if every step took a second, and time were up a step after the first validation.
    last = an_epoch // 2 + 1
    monkeypatch.setattr(Trainer, "_elapsed", lambda trainer: float(trainer.at.step))
    parameters = tiny_parameters(epochs=2, validations_per_epoch=2, batch_tokens=512, minutes=last / 60)
    ended = train(tmp_path / "ended", parameters)
    assert (ended.ended_by, ended.steps) == ("minutes", last)
    assert [entry["step"] for entry in log_of(tmp_path / "ended")] == [last - 1, last]
    assert (ended.best_step, ended.best["ndcg_10"]) == (last, 0.06)
    assert (tmp_path / "ended" / WEIGHTS).is_file()


def test_what_is_kept_is_what_the_figures_say_where_a_killed_run_was_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second validation is the best, the process is killed a step later, and none of the next start comes near."""
    figures = itertools.chain([0.1, 0.3], itertools.repeat(0.2))
    monkeypatch.setattr(Trainer, "_figures", lambda _: ValidationFigures(next(figures), 0.5, {}))
    parameters = tiny_parameters(epochs=4)
    killed(monkeypatch, tmp_path, parameters, lambda trainer: len(trainer.at.history) == 2)
    kept = (tmp_path / WEIGHTS).read_bytes()
    result = train(tmp_path, parameters)
    assert (tmp_path / WEIGHTS).read_bytes() == kept
    assert result.best["ndcg_10"] == 0.3
    assert [entry["ndcg_10"] for entry in log_of(tmp_path)] == [0.1, 0.3, 0.2, 0.2]


def test_patience_counts_validations_since_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([0.1, 0.3, 0.2, 0.3, 0.4, 0.4, 0.1, 0.39, 0.9])
    monkeypatch.setattr(Trainer, "_figures", lambda _: ValidationFigures(next(figures), 0.5, {}))
    result = train(tmp_path, tiny_parameters(epochs=20, patience=3))
    an_epoch = result.steps // 8
    assert (result.ended_by, result.best_step, result.best["ndcg_10"]) == ("patience", 5 * an_epoch, 0.4)
    assert next(figures) == 0.9


def test_a_training_too_short_for_its_warm_up_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"^\d+ steps in all, but warmup_steps is 1000"):
        train(tmp_path / "short", tiny_parameters(epochs=1, warmup_steps=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(tmp_path / "long", tiny_parameters(epochs=2, warmup_steps=1))


def test_patience_ends_and_keeps_the_best(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_parameters(epochs=50, patience=2, learning_rate=1e-9))
    assert result.ended_by == "patience"
    figures = [entry["ndcg_10"] for entry in log_of(tmp_path)]
    assert result.best["ndcg_10"] == max(figures)
    assert max(figures[-2:]) <= max(figures[:-2])
    assert len(figures) == [entry["step"] for entry in log_of(tmp_path)].index(result.best_step) + 3


@pytest.mark.parametrize("seed", [4096, 2_000_000_000])
def test_any_seed_trains(tmp_path: Path, seed: int) -> None:
    assert train(tmp_path, tiny_parameters(epochs=1, seed=seed)).steps > 0


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module.F, "cross_entropy", lambda logits, *_, **__: logits.sum() * float("nan"))
    with pytest.raises(ModelError, match="the training loss is nan; lower learning_rate"):
        train(tmp_path, tiny_parameters())


@pytest.mark.usefixtures("searched_by")
@pytest.mark.parametrize(("domain_token", "decoder_layers"), [(False, 1), (True, 3)])
def test_validation_finds_what_generate_finds(domain_token: bool, decoder_layers: int) -> None:
    """Against transformers' own constrained beam search, with the same weights."""
    names = ("ring", "other")
    layout = LAYOUT if not domain_token else type(LAYOUT)(**{**vars_of(LAYOUT), "domains": names})
    corpus = ring_corpus(users=30, domains=names, layout=layout)
    torch.manual_seed(1)
    model = build_t5(layout, TINY.model_copy(update={"decoder_layers": decoder_layers})).eval()
    validator = Validator(corpus, users=20, beams=10, max_history=20, seed=0)
    lists = validator.ranked_lists(model)
    assert validator.figures(lists).by_domain.keys() == set(names)

    examples = corpus.validation.take(sample_users(corpus.validation, 2, 20, seed=0))
    tokens = layout.tokens(corpus.values).tolist()
    for row in range(len(examples)):
        first, end = corpus.item_starts[examples.domain[row] :][:2]
        items = {tuple(tokens[item]): item for item in range(first, end)}

        def allowed(_: int, prefix: torch.Tensor, items: dict[tuple[int, ...], int] = items) -> list[int]:
            written = tuple(prefix.tolist()[1:])
            return sorted({path[len(written)] for path in items if path[: len(written)] == written})

        batch = collate(corpus, examples.take(np.asarray([row])), 20)
        generated = model.generate(
            input_ids=torch.from_numpy(batch.history),
            attention_mask=torch.from_numpy(batch.mask),
            num_beams=10,
            num_return_sequences=10,
            max_new_tokens=layout.depth,
            min_new_tokens=layout.depth,
            length_penalty=0.0,
            eos_token_id=None,
            pad_token_id=PAD_TOKEN,
            prefix_allowed_tokens_fn=allowed,
            # The cache that `generate` makes by itself has as many layers as the encoder, whatever the decoder has.
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        )
        expected = [items[tuple(path[1:])] for path in generated.tolist()]
        assert lists[row].tolist() == expected


@pytest.mark.usefixtures("searched_by")
def test_every_item_is_found_once_where_there_are_more_beams() -> None:
    corpus = ring_corpus(users=30, items=12)
    torch.manual_seed(1)
    model = build_t5(LAYOUT, tiny_parameters().network).eval()
    lists = Validator(corpus, users=20, beams=15, max_history=20, seed=0).ranked_lists(model)
    assert (np.sort(lists[:, :12]) == np.arange(12)).all()
    assert (lists[:, 12:] == -1).all()


@pytest.mark.usefixtures("searched_by")
def test_a_head_that_scores_alone_is_asked_for_what_a_search_without_loss_finds() -> None:
    corpus = ring_corpus(users=30, items=12, domains=("ring", "other"))
    torch.manual_seed(1)
    known = KnownIds.of(LAYOUT, torch.from_numpy(LAYOUT.tokens(corpus.values).astype(np.int64)))
    model = build_t5(LAYOUT, TINY.model_copy(update={"history": "items", "item_head": 1.0}), known.sizes).eval()
    assert isinstance(model, SemanticT5)
    model.know(known)
    with torch.no_grad():
        model.item_own.weight[1:].normal_(std=0.1)
    validator = Validator(corpus, users=20, beams=15, max_history=20, seed=0)
    scored = validator.ranked_lists(model)
    model.item_share = 1 - 1e-6  # now the decoder has a say, so small that it changes no list, and beams search
    assert scored[:, :15].tolist() == validator.ranked_lists(model).tolist()
    assert scored.shape == (len(scored), 15 + 20)
    with torch.no_grad():
        model.item_share = 1.0
        model.item_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="the network returned NaN"):
        validator.ranked_lists(model)


def test_validation_keeps_the_history_or_takes_it_out_whichever_finds_more() -> None:
    corpus = ring_corpus(users=30, items=12, domains=("ring", "other"))
    validator = Validator(corpus, users=20, beams=15, max_history=20, seed=0)
    examples = corpus.validation.take(sample_users(corpus.validation, 2, 20, seed=0))
    lists, expected = np.full((len(examples), 35), -1, dtype=np.int64), dict[str, tuple[list[float], list[float]]]()
    random = np.random.default_rng(0)
    for row in range(len(examples)):
        domain = int(examples.domain[row])
        own = np.arange(corpus.item_starts[domain], corpus.item_starts[domain + 1])
        lists[row, : len(own)] = random.permutation(own)
        history = set(corpus.history_items[examples.start[row] : examples.stop[row]].tolist())
        target = int(corpus.history_items[examples.stop[row]])
        for side, items in enumerate((own[:0].tolist(), history)):
            left = [item for item in lists[row].tolist() if item >= 0 and item not in items]
            rank = left.index(target) if target in left else 99
            gained = 1 / np.log2(rank + 2) if rank < 10 else 0.0
            expected.setdefault(corpus.domains[domain], ([], []))[side].append(gained)
    figures = validator.figures(lists).by_domain
    means = {name: [float(np.mean(side)) for side in sides] for name, sides in expected.items()}
    assert {name: each["ndcg_10"] for name, each in figures.items()} == pytest.approx(
        {name: max(sides) for name, sides in means.items()}
    )
    assert all(kept != removed for kept, removed in means.values())


def vars_of(layout: object) -> dict[str, object]:
    """Fields of a layout, without what it caches."""
    fields = layout.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: getattr(layout, name) for name in fields}


def test_validation_users_are_spread_over_the_domains() -> None:
    corpus = ring_corpus(users=30, domains=("a", "b", "c"))
    rows = sample_users(corpus.validation, 3, 20, seed=0)
    assert sorted(np.bincount(corpus.validation.domain[rows]).tolist()) == [6, 7, 7]
    assert len(np.unique(rows)) == 20
    assert len(sample_users(corpus.validation, 3, 1000, seed=0)) == 90


def test_validation_users_come_longest_history_first_and_by_the_seed() -> None:
    corpus = ring_corpus(users=60, domains=("a", "b"))
    rows = sample_users(corpus.validation, 2, 30, seed=0)
    lengths = (corpus.validation.stop - corpus.validation.start)[rows].tolist()
    assert lengths == sorted(lengths, reverse=True), "so that a batch holds little padding"
    assert lengths[0] > lengths[-1]
    assert rows.tolist() == sample_users(corpus.validation, 2, 30, seed=0).tolist()
    assert set(rows.tolist()) != set(sample_users(corpus.validation, 2, 30, seed=1).tolist())


def test_the_rate_rises_then_falls() -> None:
    assert rate_factor(0, 0.0, 10, "cosine") == pytest.approx(0.1)
    assert rate_factor(9, 0.0, 10, "cosine") == pytest.approx(1.0)
    assert rate_factor(500, 0.5, 10, "cosine") == pytest.approx(0.5)
    assert rate_factor(999, 1.0, 10, "cosine") == pytest.approx(0.0)
    assert rate_factor(4, 0.9, 10, "inverse_sqrt") == pytest.approx(0.5)
    assert rate_factor(39, 0.9, 10, "inverse_sqrt") == pytest.approx(0.5)
    assert finished_share(10, 100, 30.0, 60.0) == 0.5
    assert finished_share(70, 100, 30.0, 60.0) == 0.7
    assert finished_share(70, 100, 90.0, 60.0) == 1.0
    assert finished_share(70, 100, 90.0, None) == 0.7


def test_parameters_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "recommender.toml"
    path.write_text('minutes = 5\ndomains = ["a"]\n[network]\nd_model = 64\n')
    found = read_parameters(path, {"minutes": 7.0})
    assert (found.minutes, found.domains, found.network.d_model) == (7.0, ("a",), 64)
    path.write_text("leanring_rate = 1\n")
    with pytest.raises(ConfigError, match=r"recommender\.toml: leanring_rate.*known keys: network"):
        read_parameters(path, {})
    path.write_text("[network]\nd_modle = 3\n")
    with pytest.raises(ConfigError, match=r"network\.d_modle.*; of network: d_model, "):
        read_parameters(path, {})
    path.write_text('domains = ["a", "a"]\n')
    with pytest.raises(ConfigError, match="names a domain twice"):
        read_parameters(path, {})
    path.write_text("new_windows = 0.5\n")
    with pytest.raises(ConfigError, match=r'new_windows: .* history = "items"'):
        read_parameters(path, {})
    path.write_text("item_loss = 2.0\ndecoded_per_window = 4\n")
    with pytest.raises(ConfigError, match=r'item_loss, decoded_per_window: .* history = "items"'):
        read_parameters(path, {})
    items = '[network]\nhistory = "items"\nitem_head = 0.5\n'
    path.write_text(f"new_items = 0.4\n{items}")
    with pytest.raises(ConfigError, match="new_items: says nothing while new_windows is 0; set new_windows"):
        read_parameters(path, {})
    path.write_text(f"new_items = 0.4\nnew_windows = 0.1\n{items}")
    assert read_parameters(path, {}).new_items == 0.4
    path.write_text("item_loss = 1.0\n")
    assert read_parameters(path, {}).item_loss == 1.0
    path.write_text("= 3")
    with pytest.raises(ConfigError, match="not TOML"):
        read_parameters(path, {})
    with pytest.raises(ConfigError, match="no such file"):
        read_parameters(tmp_path / "absent.toml", {})


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("recommender*.toml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    assert read_parameters(path, {}).network.d_model > 0
