"""The configuration of `prepare`, from TOML and from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from service.errors import ConfigError
from training.commands.prepare import prepare as command
from training.data.config import Format
from training.data.configuring import parquet_config, parse_config, parse_map, read_config
from training.data.dataset import Dataset


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "items.csv").write_text("sku,title\na,Alpha\nb,Beta\n")
    (tmp_path / "log.csv").write_text("user_id,sku,timestamp\nu,a,1\nu,b,2\nu,a,3\n")
    return tmp_path


TOML = """
[[domains]]
name = "shop"
format = "csv"
items = "items.csv"
interactions = ["log.csv"]
category_separator = ">"

[domains.map]
items = {item_id = "sku"}
interactions = {item_id = "sku"}
"""


def test_paths_start_from_the_folder_of_the_file(shop: Path) -> None:
    (shop / "domains.toml").write_text(TOML)
    (domain,) = read_config(shop / "domains.toml").domains
    assert domain.items == (shop / "items.csv",)
    assert domain.interactions == (shop / "log.csv",)
    assert domain.format is Format.CSV
    assert domain.map.items.item_id == "sku"
    assert domain.category_separator == ">"
    assert (domain.core, domain.cleans_text, domain.needs_text) == (0, True, True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "shop"', 'name = "shop"\nk_cores = 5', r"domains\.0\.k_cores: unknown key"),
        ("{item_id", "{items_id", r"domains\.0\.map\.items\.items_id: unknown key"),
        ('name = "shop"', 'name = "a/b"', r"domains\.0\.name: .*'a/b' must be 1 to 64 letters, digits"),
        ('name = "shop"', 'name = "dataset.json"', r"domains\.0\.name: .*a file of that name"),
        ('name = "shop"', 'name = "report.json"', r"domains\.0\.name: .*a file of that name"),
        ('name = "shop"', 'name = "figures.json"', r"domains\.0\.name: .*a file of that name"),
        ('format = "csv"', 'format = "xml"', r"domains\.0\.format: .*amazon-2014"),
        ('format = "csv"', 'format = "amazon-2018"', "category_separator, map: fixed by the format amazon-2018"),
        ('name = "shop"', 'name = "shop"\nk_core = "5"', r"domains\.0\.k_core"),
        ('name = "shop"', 'name = "shop"\nk_core = -1', r"domains\.0\.k_core"),
        ('items = "items.csv"', "items = 3", r"domains\.0\.items"),
        ('items = "items.csv"', 'items = "other.csv"', r"domain 'shop': .*other\.csv: no such file"),
        ("[domains.map]", '[[domains]]\nname = "shop"\nformat = "csv"\nitems = "items.csv"\n[domains.map]', "twice"),
        ("[[domains]]", "[[domain]]", "domains: Field required; domain: unknown key"),
        ("[[domains]]", "[[domains", "not TOML"),
    ],
)
def test_wrong_configurations_name_the_key(shop: Path, old: str, new: str, message: str) -> None:
    text = TOML.replace(old, new, 1)
    if old == "[[domains]]":
        text = text.replace("[domains.map]", "[domain.map]")
    (shop / "domains.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(shop / "domains.toml")
    assert str(shop / "domains.toml") in str(caught.value)


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"domains": []}, "at least 1"),
        ({"domains": "shop"}, "domains"),
        ({"domains": [{"name": "a", "format": "csv"}]}, "neither items nor interactions"),
        ({"domains": [{"name": "a", "format": "csv", "items": "x", "k_core": 5}]}, "k_core needs interactions"),
    ],
)
def test_incoherent_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(values, "test")


def test_the_raw_formats_are_filtered_to_their_five_core(shop: Path) -> None:
    domain = {"name": "a", "format": "amazon-2014", "interactions": str(shop / "log.csv")}
    assert parse_config({"domains": [domain]}, "test").domains[0].core == 5
    assert parse_config({"domains": [domain | {"k_core": 0}]}, "test").domains[0].core == 0
    only_items = {"name": "a", "format": "amazon-2014", "items": str(shop / "log.csv")}
    assert parse_config({"domains": [only_items]}, "test").domains[0].core == 0


def test_parquet_text_is_taken_as_it_is(shop: Path) -> None:
    domain = {"name": "a", "format": "parquet", "items": str(shop / "items.csv")}
    assert not parse_config({"domains": [domain]}, "test").domains[0].cleans_text
    assert parse_config({"domains": [domain | {"clean_text": True}]}, "test").domains[0].cleans_text


def test_parquet_config_names_the_missing_domain(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="domain 'games'"):
        parquet_config(tmp_path, ["games"])


def test_parquet_config_sorts_the_categories_of_the_domains_it_is_told(shop: Path) -> None:
    for name in ("books", "games"):
        (shop / name).mkdir()
        for file in ("items", "interactions"):
            (shop / name / f"{file}.parquet").touch()
    config = parquet_config(shop, ["books", "games"], sort_categories=["games"])
    assert [domain.sort_categories for domain in config.domains] == [False, True]
    with pytest.raises(ConfigError, match="'films': not among the domains, which are books, games"):
        parquet_config(shop, ["books", "games"], sort_categories=["films"])


def test_parse_map() -> None:
    assert parse_map(["item_id=asin", "items.title=name", "timestamp=when"]) == {
        "items": {"item_id": "asin", "title": "name"},
        "interactions": {"item_id": "asin", "timestamp": "when"},
    }


@pytest.mark.parametrize(
    "entry", ["item_id", "item_id=", "=asin", "colour=c", "interactions.title=t", "users.item_id=x"]
)
def test_parse_map_refuses_what_is_no_field(entry: str) -> None:
    with pytest.raises(ConfigError, match="OURS=THEIRS"):
        parse_map([entry])


def run(*arguments: str | Path) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prepares_one_domain_and_prints_its_figures(shop: Path) -> None:
    result = run(
        *("--name", "shop", "--format", "csv", "--items", shop / "items.csv", "--interactions", shop / "log.csv"),
        *("--map", "item_id=sku", "--out", shop / "out"),
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures == json.loads((shop / "out" / "figures.json").read_text())
    assert figures["domains"]["shop"]["interactions"] == 3
    assert Dataset.open(shop / "out")["shop"].history(0).tolist() == [0, 1, 0]


def test_the_command_takes_a_configuration_or_a_folder_of_parquet(shop: Path) -> None:
    (shop / "domains.toml").write_text(TOML)
    assert run(shop / "domains.toml", "--out", shop / "one").exit_code == 0
    assert run("--parquet", shop / "one", "--out", shop / "two").exit_code == 0
    assert run("--parquet", shop / "one", "--domains", " shop ,", "--out", shop / "three").exit_code == 0
    assert run("--parquet", shop / "one", "--sort-categories", "shop", "--out", shop / "four").exit_code == 0
    one, two, three = (Dataset.open(shop / name)["shop"] for name in ("one", "two", "three"))
    assert one.items.equals(two.items)
    assert two.items.equals(three.items)
    assert one.history_items.tolist() == three.history_items.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no source given"),
        (["domains.toml", "--parquet", "root"], "CONFIG and --parquet given"),
        (["domains.toml", "--k-core", "0"], "CONFIG and --name given"),
        (["domains.toml", "--domains", "a"], "--domains chooses"),
        (["domains.toml", "--sort-categories", "a"], "--sort-categories goes with --parquet"),
        (["--parquet", "nowhere", "--domains", "a", "--sort-categories", "b"], "'b': not among the domains"),
        (["--parquet", "nowhere"], "no folder in it has an items.parquet"),
        (["--name", "a"], "domains.0.format: Field required"),
    ],
)
def test_the_command_refuses_what_it_would_ignore(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run(*arguments, "--out", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
