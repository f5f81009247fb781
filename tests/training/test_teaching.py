"""Learning from teachers: the loss against a slow twin, what each kind of teacher says, and who may not teach."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from recommender_planted import RINGS, TINY, ring_corpus, tiny_parameters, write_ring_ids, write_rings
from torch.nn import functional as F
from typer.testing import CliRunner

from service.cli.main import build
from service.errors import ConfigError
from training.baselines.corpus import Corpus as BaselineCorpus
from training.baselines.parameters import GRU4RecParameters, SASRecParameters
from training.baselines.sequence import SequenceBaseline
from training.baselines.stage import train_baseline
from training.data.dataset import Dataset
from training.ids.table import read_ids, write_ids
from training.networks.t5 import WEIGHTS, load_recommender
from training.recommender.batches import collate
from training.recommender.beginning import begin
from training.recommender.corpus import Corpus, ExampleSet
from training.recommender.parameters import RecommenderParameters
from training.recommender.stage import load_corpus, train_recommender
from training.recommender.tasks import NextItems
from training.recommender.taught import Places, Taught, ask
from training.recommender.teachers import Lesson, open_teachers
from training.recommender.trainer import Trainer
from training.stage import FIGURES, read_figures, read_log

SCORES = TINY.model_dump() | {"history": "items", "item_head": 1.0}
SASREC = {"width": 8, "epochs": 2, "threads": 1}


def scoring(**changes: object) -> RecommenderParameters:
    return tiny_parameters(**{"network": SCORES, "epochs": 1, "threads": 1, **changes})


@pytest.fixture(scope="module")
def recommender(dataset: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of both domains; the expert comes first in what it reads."""
    folder = tmp_path_factory.mktemp("recommender")
    train_recommender(dataset, tokenizer, folder, scoring(expert_first=True))
    return folder


@pytest.fixture(scope="module")
def sasrec(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sasrec")
    train_baseline(dataset, "other", folder, SASRecParameters.model_validate(SASREC))
    return folder


def lesson_of(dataset: Path, tokenizer: Path, **changes: object) -> Lesson:
    opened = Dataset.open(dataset)
    corpus = load_corpus(opened, tokenizer, scoring(**changes))
    return Lesson(corpus, opened, read_ids(tokenizer), 20, torch.device("cpu"))


@dataclass(frozen=True)
class Planted:
    """Teaches what `says` of the window's item before each target: of a domain of 24 items, the number of one."""

    domains: tuple[str, ...]
    says: Callable[[np.ndarray], np.ndarray]
    corpus: Corpus
    sure: float = 50.0
    name: str = "planted"
    digest: str = "planted"

    def scores(self, domain: int, windows: ExampleSet, asked: Places) -> torch.Tensor:
        before = self.corpus.history_items[asked.at.numpy() - 1] - self.corpus.item_starts[domain]
        return self.sure * F.one_hot(torch.from_numpy(self.says(before)), 24).float()


def test_the_loss_is_that_of_a_mixed_target() -> None:
    random = torch.Generator().manual_seed(0)
    states, vectors = (torch.randn(*size, generator=random, dtype=torch.float64) for size in ((5, 3), (7, 3)))
    states.requires_grad_()
    items = torch.stack([torch.randperm(7, generator=random)[:4] for _ in range(9)]) + 10
    shares = torch.rand(9, 4, generator=random).half()
    at, answers, share = torch.tensor([8, 0, 3, 3, 5]), torch.tensor([0, 6, 2, 2, 1]), 0.3
    taught = Taught(items.int().numpy(), (shares / shares.sum(dim=1, keepdim=True)).numpy(), frozenset({0}), "")

    wanted = (1 - share) * F.one_hot(answers, 7).double()
    for row, place in enumerate(at.tolist()):
        for item, part in zip(taught.items[place].tolist(), taught.shares[place].tolist(), strict=True):
            # In half precision the shares do not sum to one, of which the sum over all items would make something.
            wanted[row, item - 10] += share * part
    slow = -(wanted * (states @ vectors.T)).sum(dim=1) + (states @ vectors.T).logsumexp(dim=1)
    seen = F.cross_entropy((states @ vectors.T), answers)
    found = seen + share * taught.loss(states.float(), vectors.float(), answers, at, 10)
    torch.testing.assert_close(found, slow.mean(), check_dtype=False)
    ours, theirs = (torch.autograd.grad(each, states)[0] for each in (found, slow.mean()))
    torch.testing.assert_close(ours, theirs)


def test_the_mean_of_log_probabilities_is_kept_as_far_as_it_is_likely() -> None:
    corpus = ring_corpus(domains=RINGS)
    first = Planted(("ring",), lambda before: (before + 1) % 24, corpus, sure=3.0)
    second = Planted(("ring", "other"), lambda before: (before + 2) % 24, corpus, sure=2.0)
    taught = ask(corpus, [first, second], 5)
    assert taught.domains == {0, 1}
    places = Places.of(corpus.windows)
    at = places.at.numpy()
    assert len(set(at.tolist())) == len(at) == len(corpus.training)
    untaught = np.setdiff1d(np.arange(len(corpus.history_items)), at)
    assert not taught.shares[untaught].any()

    before, number = corpus.history_items[at - 1], corpus.windows.domain[places.owners.numpy()]
    for row in (0, 7, len(at) - 1):
        start = int(corpus.item_starts[number[row]])
        scores = np.zeros((2, 24))
        scores[0, (before[row] - start + 1) % 24], scores[1, (before[row] - start + 2) % 24] = 3.0, 2.0
        asked = scores if number[row] == 0 else scores[1:]
        mean = torch.from_numpy(asked).log_softmax(dim=1).mean(dim=0).topk(5)
        # All but the two that are taught are as likely as each other, and any of them may be kept.
        known = 2 if number[row] == 0 else 1
        assert taught.items[at[row], :known].tolist() == (mean.indices[:known] + start).tolist()
        np.testing.assert_allclose(taught.shares[at[row]], mean.values.softmax(dim=0).numpy(), atol=1e-3)


def test_what_is_taught_is_learned_in_place_of_what_was_seen(tmp_path: Path) -> None:
    corpus = ring_corpus(domains=RINGS)
    parameters = scoring(epochs=40, patience=40, batch_tokens=256, teaching=1.0)
    taught = ask(corpus, [Planted(("ring",), lambda before: (before + 5) % 24, corpus)], 5)
    trainer = Trainer(corpus, parameters, tmp_path, Accelerator(cpu=True), taught=taught)
    by_domain = trainer.run().best["by_domain"]
    trainer.network.eval()
    lists = trainer.validator.ranked_lists(trainer.network)
    examples = trainer.validator._examples
    last = corpus.history_items[examples.stop - 1]
    told = examples.domain == 0
    assert (lists[told, 0] == (last[told] + 5) % 24).mean() > 0.95
    # Of the other ring, which nobody teaches, the next item is learned as ever.
    assert by_domain["other"]["ndcg_10"] > 0.85


@pytest.mark.parametrize("new_windows", [0.0, 0.5])
def test_a_training_is_another_by_its_teachers_and_by_their_share(tmp_path: Path, new_windows: float) -> None:
    corpus, losses, marks = ring_corpus(domains=RINGS), [], []
    taught = ask(corpus, [Planted(("ring",), lambda before: (before + 5) % 24, corpus)], 5)
    for number, (teaching, given) in enumerate([(0.5, None), (0.5, taught), (0.9, taught), (0.0, taught)]):
        parameters = scoring(teaching=teaching, new_windows=new_windows)
        folder = tmp_path / str(number)
        folder.mkdir()
        trainer = Trainer(corpus, parameters, folder, Accelerator(cpu=True), taught=given)
        trainer.run()
        losses.append(trainer.at.history[-1]["loss"])
        marks.append(trainer.fingerprint)
    assert losses[0] == losses[3] != losses[1] != losses[2]
    assert len(set(marks)) == 4


def test_every_target_is_scored_with_what_is_expected_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = ring_corpus(domains=RINGS)
    taught = ask(corpus, [Planted(RINGS, lambda before: (before + 5) % 24, corpus)], 5)
    beginning = begin(corpus, scoring(new_windows=0.5), None, taught)
    task = beginning.task
    assert isinstance(task, NextItems)
    scored = 0
    plain = task._scored

    def noted(states: torch.Tensor, vectors: torch.Tensor, answers: torch.Tensor, *where: Any) -> torch.Tensor:
        nonlocal scored
        at, domain = where
        assert (corpus.history_items[at.numpy()] - corpus.item_starts[domain]).tolist() == answers.tolist()
        scored += len(at)
        return plain(states, vectors, answers, *where)

    monkeypatch.setattr(task, "_scored", noted)
    rows = np.flatnonzero(corpus.windows.domain == 1)
    torch.manual_seed(0)
    task.loss(beginning.network, rows, torch.device("cpu"))
    assert scored == task.lengths[rows].sum()


def test_fewer_expected_items_are_kept_where_that_is_asked_for(
    dataset: Path, tokenizer: Path, recommender: Path, tmp_path: Path
) -> None:
    losses = []
    for kept in (1, 24, 64):
        parameters, out = scoring(taught_items=kept), tmp_path / str(kept)
        train_recommender(dataset, tokenizer, out, parameters, teachers=[recommender])
        losses.append(read_log(out)[-1]["loss"])
    assert losses[0] != losses[1] == losses[2]


def test_teachers_are_told_apart_in_any_order() -> None:
    corpus = ring_corpus(domains=RINGS)
    first, second = (Planted(RINGS, lambda before: before, corpus, digest=name) for name in ("a", "b"))
    marks = [ask(corpus, given, 5).digest for given in ([first], [second], [first, second], [second, first])]
    assert len(set(marks)) == 3
    assert marks[2] == marks[3]


def test_a_recommender_teaches_the_domains_that_it_learned_from(dataset: Path, tokenizer: Path, tmp_path: Path) -> None:
    train_recommender(dataset, tokenizer, tmp_path, scoring(domains=["other"]))
    lesson = lesson_of(dataset, tokenizer)
    assert ask(lesson.corpus, open_teachers([tmp_path], lesson), 5).domains == {1}


def test_a_recommender_teaches_what_it_would_say_after_each_part_of_a_history(
    dataset: Path, tokenizer: Path, recommender: Path
) -> None:
    lesson = lesson_of(dataset, tokenizer)
    (teacher,) = open_teachers([recommender], lesson)
    trained = load_recommender(recommender)
    own = load_corpus(lesson.dataset, tokenizer, scoring(expert_first=True))
    rows = np.flatnonzero(lesson.corpus.windows.domain == 1)[:3]
    windows = lesson.corpus.windows.take(rows)
    places = Places.of(windows)
    with torch.inference_mode():
        found = teacher.scores(1, windows, places)
        vectors = trained.model.item_vectors(torch.from_numpy(own.layout.tokens(own.values[24:]).astype(np.int64)))
        for row, stop in enumerate(places.at.tolist()):
            start = windows.start[places.owners[row]]
            one = ExampleSet(*(np.asarray([value]) for value in (1, 0, start, stop)))
            batch = collate(own, one, 20)
            read, mask = torch.from_numpy(batch.history), torch.from_numpy(batch.mask)
            state = trained.model.scoring_state(trained.model.encoder(read, mask), read, mask)
            torch.testing.assert_close(found[row], (state @ vectors.T)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [SASRecParameters, GRU4RecParameters])
def test_a_baseline_teaches_what_it_would_say_after_each_part_of_a_history(
    dataset: Path, tokenizer: Path, tmp_path: Path, kind: type[SASRecParameters | GRU4RecParameters]
) -> None:
    parameters = kind.model_validate(SASREC)
    train_baseline(dataset, "other", tmp_path, parameters)
    lesson = lesson_of(dataset, tokenizer)
    (teacher,) = open_teachers([tmp_path], lesson)
    corpus = BaselineCorpus.of(lesson.dataset["other"], 20)
    model = SequenceBaseline(corpus, parameters, torch.device("cpu"))
    model.network.load_state_dict(teacher.network.state_dict())  # type: ignore[attr-defined]
    windows = lesson.corpus.windows.take(np.flatnonzero(lesson.corpus.windows.domain == 1)[:3])
    places, scorer = Places.of(windows), model.scorer()
    with torch.inference_mode():
        found = teacher.scores(1, windows, places)
        for row, stop in enumerate(places.at.tolist()):
            history = lesson.corpus.history_items[windows.start[places.owners[row]] : stop] - 24
            alone = scorer(np.zeros(1, dtype=np.int64), history[None].astype(np.int32))
            torch.testing.assert_close(found[row], alone[0], atol=1e-4, rtol=1e-4)


def test_the_command_takes_several_and_says_which(
    dataset: Path, tokenizer: Path, recommender: Path, sasrec: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    network = {**SCORES, "feed_forward": "relu"}
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in network.items()]
    config.write_text(f"epochs = 1\nvalidation_users = 40\nthreads = 1\n[network]\n{''.join(lines)}")
    arguments = ["train-recommender", dataset, tokenizer, "--config", config, "--out", tmp_path / "out"]
    arguments += ["--teacher", recommender, "--teacher", sasrec]
    run = CliRunner().invoke(build(), [str(each) for each in arguments])
    assert run.exit_code == 0, run.output
    figures = json.loads(run.stdout)
    assert figures["teachers"] == [str(recommender), str(sasrec)]
    assert read_figures(tmp_path / "out") == figures


def altered(folder: Path, out: Path, **figures: Any) -> Path:
    """A copy with other figures."""
    shutil.copytree(folder, out)
    (out / FIGURES).write_text(json.dumps({**read_figures(folder), **figures}))
    return out


def test_what_cannot_teach_is_refused(
    dataset: Path, tokenizer: Path, recommender: Path, sasrec: Path, tmp_path: Path
) -> None:
    lesson = lesson_of(dataset, tokenizer)
    other_ids = write_ring_ids(tmp_path, RINGS, seed=9)
    with pytest.raises(ConfigError, match="learned other IDs than this tokenizer gave"):
        open_teachers([recommender], lesson_of(dataset, other_ids))
    with pytest.raises(ConfigError, match="is popularity; what can teach"):
        open_teachers([altered(sasrec, tmp_path / "popularity", kind="popularity")], lesson)
    shuffled = write_rings(tmp_path / "shuffled", ("other", "ring"))
    with pytest.raises(ConfigError, match="learned from other histories of other than the dataset has"):
        open_teachers([sasrec], lesson_of(shuffled, tokenizer, domains=["other"]))
    for folder in (sasrec, recommender):
        older = altered(folder, tmp_path / f"older-{folder.name}")
        (older / FIGURES).write_text(json.dumps({k: v for k, v in read_figures(folder).items() if k != "learned_from"}))
        with pytest.raises(ConfigError, match=r"does not say which histories of (ring|other) it learned from"):
            open_teachers([older], lesson)
    half = altered(
        recommender, tmp_path / "half", learned_from={"ring": read_figures(recommender)["learned_from"]["ring"]}
    )
    with pytest.raises(ConfigError, match=r"does not say which histories of other it learned from"):
        open_teachers([half], lesson)
    with pytest.raises(ConfigError, match=r"no figures\.json; the stage that writes this folder has not finished"):
        open_teachers([tmp_path / "nowhere"], lesson)
    short = {**read_figures(sasrec)["configuration"], "max_history": 19}
    with pytest.raises(ConfigError, match="reads 19 items of a history, but is asked about 20"):
        open_teachers([altered(sasrec, tmp_path / "short", configuration=short)], lesson)
    with pytest.raises(ConfigError, match="learned the same, and would count twice"):
        open_teachers([sasrec, altered(sasrec, tmp_path / "again")], lesson)
    damaged = altered(sasrec, tmp_path / "damaged")
    (damaged / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="its weights cannot be read"):
        open_teachers([damaged], lesson)
    alone = lesson_of(dataset, tokenizer, domains=["ring"])
    with pytest.raises(ConfigError, match="learned from other, and so has nothing to say of ring"):
        ask(alone.corpus, open_teachers([sasrec], alone), 5)


def test_a_recommender_of_other_histories_or_of_ids_in_another_order_does_not_teach(
    dataset: Path, tokenizer: Path, recommender: Path, tmp_path: Path
) -> None:
    shuffled = write_rings(tmp_path / "shuffled", ("other", "ring"))
    turned = Path(shutil.copytree(tokenizer, tmp_path / "turned"))
    ids = [
        replace(each, codes=each.codes[::-1], experts=each.experts[::-1], suffix=each.suffix[::-1])
        for each in read_ids(tokenizer).values()
    ]
    write_ids(turned, ids)
    for lesson in (lesson_of(shuffled, tokenizer), lesson_of(dataset, turned)):
        with pytest.raises(ConfigError, match=r"learned from other histories or IDs of (ring|other) than are given"):
            open_teachers([recommender], lesson)


def test_who_cannot_learn_is_refused(dataset: Path, tokenizer: Path, sasrec: Path, tmp_path: Path) -> None:
    for parameters, words in (
        (tiny_parameters(), 'needs a network with history = "items"'),
        (scoring(item_negatives=23), "item_negatives is 23, but other has 24 items"),
        (scoring(item_loss=0.0), "item_loss is 0, so the head over items learns nothing from teachers"),
    ):
        with pytest.raises(ConfigError, match=words):
            train_recommender(dataset, tokenizer, tmp_path, parameters, teachers=[sasrec])


def test_a_refused_teacher_leaves_what_was_trained_before(
    dataset: Path, tokenizer: Path, recommender: Path, sasrec: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(recommender, tmp_path / "out")
    before = read_figures(out)
    for teacher, parameters, words in (
        (out, scoring(), "is where the recommender would be written"),
        (tmp_path, scoring(), r"no figures\.json"),
        (sasrec, scoring(domains=["ring"]), "has nothing to say of ring"),
        (sasrec, scoring(item_negatives=23), "item_negatives is 23"),
    ):
        with pytest.raises(ConfigError, match=words):
            train_recommender(dataset, tokenizer, out, parameters, teachers=[teacher])
        assert read_figures(out) == before


def test_a_domain_of_too_short_histories_is_not_asked_about() -> None:
    corpus = ring_corpus(domains=RINGS)
    of_one = replace(corpus, windows=corpus.windows.take(np.flatnonzero(corpus.windows.domain == 0)))
    taught = ask(of_one, [Planted(RINGS, lambda before: before, corpus)], 5)
    assert (taught.shares[Places.of(of_one.windows).at.numpy(), 0] > 0.9).all()


def test_networks_that_score_no_items_or_read_a_domain_token_do_not_teach(
    dataset: Path, tokenizer: Path, tmp_path: Path
) -> None:
    lesson = lesson_of(dataset, tokenizer)
    for name, parameters, words in (
        ("tokens", tiny_parameters(epochs=1, threads=1), "scores no items"),
        ("domains", scoring(domain_token=True), "reads a token of the domain first"),
    ):
        train_recommender(dataset, tokenizer, tmp_path / name, parameters)
        with pytest.raises(ConfigError, match=words):
            open_teachers([tmp_path / name], lesson)
