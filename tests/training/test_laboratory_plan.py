"""An experiment's file: strict, and laid out as the stages that it asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import ConfigError
from training.baselines.parameters import KINDS as BASELINES
from training.configuration import checked
from training.laboratory.experiment import parse_variant, read_experiment
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


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    (folder / "u.toml").write_text("epochs = 9\ncodes = 16\n", encoding="utf-8")
    return path


def test_baselines_are_measured_as_recommenders_are(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL + "[evaluation]\nmax_users = 7\n")
    baselines = [stage for stage in plan(read_experiment(path)) if stage.command == "train-baseline"]
    assert [stage.options for stage in baselines] == [("--domain", domain, "--max-users", "7") for domain in ("a", "b")]


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
        ('protocol = "p"', "protocol = p", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError, match=said):
        read_experiment(written(tmp_path, SMALL.replace(old, new)))


def test_nothing_to_train_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        read_experiment(written(tmp_path, 'protocol = "p"\ndomains = ["a"]\n'))


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_experiment_of_the_checkout_can_be_planned(path: Path) -> None:
    stages = plan(read_experiment(path))
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        if stage.command == "train-recommender":
            assert RecommenderParameters.model_validate(stage.configuration).seed == stage.seed
        if stage.command == "train-baseline":
            parameters = checked(BASELINES[stage.configuration["kind"]], stage.configuration, stage.name)
            assert parameters.seed == stage.seed
        if stage.command == "train-tokenizer":
            assert stage_parameters(stage.configuration, stage.name).tokenizer.seed == stage.seed
