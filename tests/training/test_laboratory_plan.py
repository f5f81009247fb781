"""An experiment's file: strict, and laid out as the stages that it asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import ConfigError
from training.baselines.parameters import KINDS as BASELINES
from training.configuration import checked
from training.laboratory.entries import parse_variant
from training.laboratory.experiment import read_experiment
from training.laboratory.plan import plan
from training.laboratory.running import Workplace, command_line
from training.recommender.parameters import RecommenderParameters
from training.tokenizer.configuration import stage_parameters

EXPERIMENTS = Path(__file__).parents[2] / "training" / "experiments"
SMALL = """
protocol = "p"
domains = ["a", "b"]
unseen = ["c"]
[[tokenizers]]
name = "u"
config = "u.toml"
seeds = [0, 1]
set = { epochs = 3 }
[[tokenizers]]
name = "own"
per_domain = true
recommenders = []
[[recommenders]]
name = "t5"
[[baselines]]
name = "sasrec"
set = { kind = "sasrec" }
"""
ITEMS = "network = { history = 'items', item_head = 1.0 }"
T6 = '[[recommenders]]\nname = "t6"'
SWEPT = 'name = "t5"\nsweep = { epochs = [1, 2] }'


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    (folder / "u.toml").write_text("epochs = 9\ncodes = 16\n", encoding="utf-8")
    return path


def test_baselines_are_measured_as_recommenders_are(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL + "[evaluation]\nmax_users = 7\n")
    baselines = [stage for stage in plan(read_experiment(path)) if stage.command == "train-baseline"]
    assert [stage.options for stage in baselines] == [("--domain", domain, "--max-users", "7") for domain in ("a", "b")]


def test_a_baseline_is_trained_for_the_domains_it_names(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL.replace("[[baselines]]\n", '[[baselines]]\ndomains = ["b"]\n', 1))
    assert [stage.reads for stage in plan(read_experiment(path)) if stage.command == "train-baseline"] == [("b",)]
    path = written(tmp_path, SMALL.replace("[[baselines]]\n", '[[baselines]]\ndomains = ["z"]\n', 1))
    with pytest.raises(ConfigError, match="domains of 'sasrec': 'z' is no domain of the experiment"):
        read_experiment(path)


def test_a_domain_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    own = 'config = "u.toml"\nconfigs = { b = "b.toml" }\n'
    text = SMALL.replace('name = "sasrec"\n', f'name = "sasrec"\n{own}')
    text = text.replace('name = "t5"\n', f'name = "t5"\nper_domain = true\n{own}')
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=r"t5: .*b\.toml: no such file"):
        read_experiment(path)
    (tmp_path / "b.toml").write_text("width = 32\n")
    stages = plan(read_experiment(path), ["sasrec", "t5"])
    trained = {stage.name: stage.configuration for stage in stages if stage.command != "evaluate"}
    assert trained["baselines/sasrec/seed-0/a"] == {"epochs": 9, "codes": 16, "kind": "sasrec", "seed": 0}
    assert trained["baselines/sasrec/seed-0/b"] == {"width": 32, "kind": "sasrec", "seed": 0}
    assert trained["recommenders/u/t5/seed-0/a"] == {"epochs": 9, "codes": 16, "domains": ["a"], "seed": 0}
    assert trained["recommenders/u/t5/seed-0/b"] == {"width": 32, "domains": ["b"], "seed": 0}


def test_what_is_set_of_a_table_leaves_the_rest_of_it(tmp_path: Path) -> None:
    own = 'config = "t.toml"\nset = { epochs = 2, network = { heads = 2 } }\n'
    path = written(tmp_path, SMALL.replace('name = "t5"\n', f'name = "t5"\n{own}'))
    (tmp_path / "t.toml").write_text("epochs = 9\n[network]\nheads = 4\nd_model = 16\n", encoding="utf-8")
    trained = next(stage for stage in plan(read_experiment(path)) if stage.command == "train-recommender")
    assert trained.configuration["network"] == {"heads": 2, "d_model": 16}
    assert trained.configuration["epochs"] == 2


def test_stages_come_seed_by_seed(tmp_path: Path) -> None:
    stages = plan(read_experiment(written(tmp_path, SMALL)))
    assert [stage.name for stage in stages] == [
        "tokenizers/u/seed-0",
        "recommenders/u/t5/seed-0",
        "evaluations/u/t5/seed-0/validation",
        "evaluations/u/t5/seed-0/test",
        "tokenizers/own/seed-0/a",
        "tokenizers/own/seed-0/b",
        "baselines/sasrec/seed-0/a",
        "baselines/sasrec/seed-0/b",
        "tokenizers/u/seed-1",
        "recommenders/u/t5/seed-1",
        "evaluations/u/t5/seed-1/validation",
        "evaluations/u/t5/seed-1/test",
    ]
    by_name = {stage.name: stage for stage in stages}
    assert by_name["tokenizers/u/seed-1"].configuration == {
        "epochs": 3,
        "codes": 16,
        "train_domains": ["a", "b"],
        "id_domains": ["a", "b", "c"],
        "seed": 1,
    }
    own = by_name["tokenizers/own/seed-0/b"].configuration
    assert (own["train_domains"], own["id_domains"]) == (["b"], ["b"])
    assert by_name["recommenders/u/t5/seed-1"].configuration == {"domains": ["a", "b"], "seed": 1}
    place = Workplace(Path("d"), Path("e"), Path("w"), 1)
    assert " ".join(command_line(by_name["evaluations/u/t5/seed-0/test"], place)) == (
        "evaluate w/recommenders/u/t5/seed-0 d --tokenizer w/tokenizers/u/seed-0 --threads 1 --domains a,b,c "
        "--beams 20 --split test --out w/evaluations/u/t5/seed-0/test"
    )
    assert " ".join(command_line(by_name["baselines/sasrec/seed-0/a"], place)) == (
        "train-baseline d --domain a --config w/baselines/sasrec/seed-0/a/configuration.toml "
        "--out w/baselines/sasrec/seed-0/a"
    )


def test_a_sweep_is_one_training_a_value(tmp_path: Path) -> None:
    text = SMALL.replace("set = { epochs = 3 }", "sweep = { codes = [16, 32], epochs = [2] }")
    names = [stage.tokenizer for stage in plan(read_experiment(written(tmp_path, text)), ["u*"])]
    assert set(names) == {"u@codes=16", "u@codes=32", "u@epochs=2"}
    assert parse_variant("u@codes=16") == ("u", "codes", "16")
    assert parse_variant("u") is parse_variant("u-without-suffix") is None
    assert parse_variant("t5@epochs=2-without-suffix") == ("t5-without-suffix", "epochs", "2")


def test_only_takes_what_it_needs_with_it(tmp_path: Path) -> None:
    experiment = read_experiment(written(tmp_path, SMALL))
    assert {stage.command for stage in plan(experiment, ["t5"])} == {"train-tokenizer", "train-recommender", "evaluate"}
    assert {stage.tokenizer for stage in plan(experiment, ["t5"])} == {"u"}
    assert [stage.recommender for stage in plan(experiment, ["sas*"])] == ["sasrec", "sasrec"]
    with pytest.raises(ConfigError, match="--only bert: fits nothing; there are own, sasrec, t5, u"):
        plan(experiment, ["bert"])


def test_recommenders_of_their_own_domain_take_its_tokenizer(tmp_path: Path) -> None:
    text = SMALL.replace("recommenders = []\n", "").replace('name = "t5"', 'name = "t5"\nper_domain = true')
    stages = {stage.name: stage for stage in plan(read_experiment(written(tmp_path, text)))}
    assert stages["recommenders/own/t5/seed-0/b"].after == ("tokenizers/own/seed-0/b",)
    assert stages["recommenders/u/t5/seed-1/b"].after == ("tokenizers/u/seed-1",)
    assert stages["evaluations/own/t5/seed-0/b/test"].reads == ("b",)


def test_seeds_of_a_recommender_share_one_tokenizer(tmp_path: Path) -> None:
    text = SMALL.replace("seeds = [0, 1]", "seeds = [4]").replace('name = "t5"', 'name = "t5"\nseeds = [0, 1]')
    stages = plan(read_experiment(written(tmp_path, text)), ["t5"])
    assert [stage.name for stage in stages] == [
        "tokenizers/u/seed-4",
        "recommenders/u/t5/seed-0",
        "evaluations/u/t5/seed-0/validation",
        "evaluations/u/t5/seed-0/test",
        "recommenders/u/t5/seed-1",
        "evaluations/u/t5/seed-1/validation",
        "evaluations/u/t5/seed-1/test",
    ]
    trained = [stage for stage in stages if stage.command == "train-recommender"]
    assert [(stage.seed, stage.configuration["seed"], stage.after) for stage in trained] == [
        (0, 0, ("tokenizers/u/seed-4",)),
        (1, 1, ("tokenizers/u/seed-4",)),
    ]


def test_teachers_of_every_seed_come_before_the_taught(tmp_path: Path) -> None:
    own = f"per_domain = true\nseeds = [0, 1]\nset = {{ {ITEMS} }}\n"
    taught = f'name = "t5"\n{own}[[recommenders]]\nname = "taught"\n{own}teachers = ["t5", "sasrec"]\n'
    text = SMALL.replace("seeds = [0, 1]", "seeds = [0]").replace('name = "t5"\n', taught)
    text = text.replace('name = "sasrec"\n', 'name = "sasrec"\nseeds = [0, 1]\n')
    stages = plan(read_experiment(written(tmp_path, text)), ["taught"])
    assert [stage.name for stage in stages if stage.command != "evaluate"] == [
        "tokenizers/u/seed-0",
        "recommenders/u/t5/seed-0/a",
        "recommenders/u/t5/seed-0/b",
        "baselines/sasrec/seed-0/a",
        "recommenders/u/t5/seed-1/a",
        "baselines/sasrec/seed-1/a",
        "recommenders/u/taught/seed-0/a",
        "baselines/sasrec/seed-0/b",
        "recommenders/u/t5/seed-1/b",
        "baselines/sasrec/seed-1/b",
        "recommenders/u/taught/seed-0/b",
        "recommenders/u/taught/seed-1/a",
        "recommenders/u/taught/seed-1/b",
    ]
    by_name = {stage.name: stage for stage in stages}
    evaluation = by_name["evaluations/u/taught/seed-1/b/test"]
    assert evaluation.after == ("recommenders/u/taught/seed-1/b", "tokenizers/u/seed-0")
    place = Workplace(Path("d"), Path("e"), Path("w"), 1)
    assert " ".join(command_line(by_name["recommenders/u/taught/seed-1/b"], place)) == (
        "train-recommender d w/tokenizers/u/seed-0 --embeddings e --teacher w/recommenders/u/t5/seed-0/b "
        "--teacher w/baselines/sasrec/seed-0/b --teacher w/recommenders/u/t5/seed-1/b "
        "--teacher w/baselines/sasrec/seed-1/b --config w/recommenders/u/taught/seed-1/b/configuration.toml "
        "--out w/recommenders/u/taught/seed-1/b"
    )


def test_teachers_know_the_same_ids(tmp_path: Path) -> None:
    """Of two tokenizers, or of two seeds of one, each has recommenders of its own, and one for all learns from many."""
    items = f"set = {{ {ITEMS} }}\n"
    own = f'name = "t5"\nper_domain = true\n{items}[[recommenders]]\nname = "taught"\n{items}'
    text = SMALL.replace('name = "t5"\n', own + 'teachers = ["t5"]\n')
    text = text.replace("recommenders = []", 'recommenders = ["t5"]')
    after = {stage.name: stage.after for stage in plan(read_experiment(written(tmp_path, text)))}
    for seed in (0, 1):
        assert after[f"recommenders/u/taught/seed-{seed}"] == (
            f"tokenizers/u/seed-{seed}",
            f"recommenders/u/t5/seed-{seed}/a",
            f"recommenders/u/t5/seed-{seed}/b",
        )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = [0, 1]", "seed = [0, 1]", r"experiment\.toml: tokenizers\.0\.seed: .*known keys: protocol"),
        ('domains = ["a", "b"]', "domains = []", r"domains: Tuple should have at least 1"),
        ('name = "own"', 'name = "u"', "two entries are called 'u'"),
        ('name = "own"', 'name = "own one"', r"tokenizers\.1\.name"),
        ("recommenders = []", "", "tokenizer 'own' is another one for each; set per_domain on the recommender"),
        ("recommenders = []", 'recommenders = ["t6"]', "tokenizer 'own': no recommender is called 't6'"),
        ('"u.toml"', '"v.toml"', r"u: .*v\.toml: no such file"),
        ('name = "t5"', 'name = "t5"\nconfigs = { a = "u.toml" }', "configs of 't5': it is not trained by domain"),
        ('name = "sasrec"', 'name = "sasrec"\nconfigs = { d = "u.toml" }', "configs of 'sasrec': 'd' is no domain"),
        ('unseen = ["c"]', 'unseen = ["all"]', "a domain is called 'all', as rows call"),
        ('name = "own"', 'name = "none"', "an entry is called 'none', which means something else in rows"),
        ('name = "t5"', 'name = "popularity"', "an entry is called 'popularity', which means something else in rows"),
        ('name = "t5"', 'name = "t5-without-suffix"', "'t5-without-suffix' ends in '-without-suffix', as rows of"),
        ("{ epochs = 3 }", "{ seed = 3 }", r"tokenizers\.0: .*set of 'u': seed is said by `seeds` of the tokenizer"),
        ("set = { epochs = 3 }", "sweep = { threads = [1, 2] }", "sweep of 'u': threads is said by the command line's"),
        ('name = "t5"', 'name = "t5"\nset = { domains = ["a"] }', "set of 't5': domains is said by the experiment's"),
        ('name = "t5"', 'name = "t5"\nseeds = [2]', "'t5' has seeds of its own, but tokenizer 'u' has several too"),
        (
            'name = "t5"',
            'name = "t5"\nteachers = ["t6"]',
            "teachers of 't5': no recommender or baseline is called 't6'",
        ),
        ('name = "t5"', 'name = "t5"\nteachers = ["t5"]', "teachers of 't5': it cannot teach itself"),
        ('name = "t5"', f'name = "t5"\nteachers = ["t6"]\n{T6}', "teachers of 't5': 't6' stands later in the file"),
        ('name = "t5"', f'{SWEPT}\n{T6}\nteachers = ["t5"]', "teachers of 't6': 't5' is a sweep; write its values"),
        ('name = "t5"', f'{SWEPT}\nteachers = ["sasrec"]', "teachers of 't5': 't5' is a sweep; write its values out"),
        (
            'recommenders = []\n[[recommenders]]\nname = "t5"',
            f'recommenders = ["t6"]\n[[recommenders]]\nname = "t5"\n{T6}\nper_domain = true\nteachers = ["t5"]',
            "recommender 't6' on IDs of 'own': its teacher 't5' is not trained on these",
        ),
        ('protocol = "p"', "protocol = p", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError, match=said):
        read_experiment(written(tmp_path, SMALL.replace(old, new)))


@pytest.mark.parametrize(
    ("teacher", "taught", "baseline", "said"),
    [
        (
            "",
            ITEMS,
            'kind = "sasrec"',
            "'t5' scores no items; of recommenders those with history = \"items\"",
        ),
        (f"{ITEMS}, domain_token = true", ITEMS, 'kind = "sasrec"', "'t5' reads a token of the domain first"),
        (f"{ITEMS}, max_history = 19", ITEMS, 'kind = "sasrec"', "'t5' reads 19 items .* asked about 20; raise its"),
        (ITEMS, "", 'kind = "sasrec"', 'it reads tokens, and only a network with history = "items" can learn'),
        (ITEMS, f"{ITEMS}, item_loss = 0.0", 'kind = "sasrec"', "its item_loss is 0, so .*; raise it"),
        (ITEMS, ITEMS, 'kind = "bert4rec"', "'sasrec' is of kind bert4rec; of baselines those of sasrec or gru4rec"),
        (ITEMS, ITEMS, "width = 8", "'sasrec' is of kind None; of baselines those of sasrec or gru4rec can teach"),
        (
            ITEMS,
            ITEMS,
            'kind = "gru4rec", max_history = 9',
            "'sasrec' reads 9 items .* is asked about 20; raise",
        ),
        (ITEMS, ITEMS, 'kind = "sasrec", layers = 2', "'other' and 'sasrec' learn the same with seed 0, and would"),
    ],
)
def test_who_cannot_teach_or_learn_is_refused_before_anything_is_trained(
    tmp_path: Path, teacher: str, taught: str, baseline: str, said: str
) -> None:
    learns = f'name = "taught"\nset = {{ {taught} }}\nteachers = ["t5", "sasrec", "other"]'
    text = SMALL.replace('name = "t5"\n', f'name = "t5"\nset = {{ {teacher} }}\n[[recommenders]]\n{learns}\n')
    other = '[[baselines]]\nname = "other"\nset = { kind = "sasrec" }\n[[baselines]]\nname = "sasrec"\n'
    text = text.replace('[[baselines]]\nname = "sasrec"\n', other)
    text = text.replace('"sasrec"\nset = { kind = "sasrec" }', f'"sasrec"\nset = {{ {baseline} }}')
    experiment = read_experiment(written(tmp_path, text))
    with pytest.raises(ConfigError, match=f"^teachers of 'taught': {said}"):
        plan(experiment)


def test_nothing_to_train_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        read_experiment(written(tmp_path, 'protocol = "p"\ndomains = ["a"]\n'))


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_experiment_of_the_checkout_can_be_planned(path: Path) -> None:
    stages = plan(read_experiment(path))
    assert len({stage.name for stage in stages}) == len(stages)
    for number, stage in enumerate(stages):
        assert set(stage.after) <= {earlier.name for earlier in stages[:number]}
        if stage.command == "train-recommender":
            assert RecommenderParameters.model_validate(stage.configuration).seed == stage.seed
        if stage.command == "train-baseline":
            parameters = checked(BASELINES[stage.configuration["kind"]], stage.configuration, stage.name)
            assert parameters.seed == stage.seed
        if stage.command == "train-tokenizer":
            assert stage_parameters(stage.configuration, stage.name).tokenizer.seed == stage.seed
