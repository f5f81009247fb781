"""Settings: from the environment, checked, unknown ones refused, secrets kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.errors import ConfigError
from service.settings import PREFIX, Settings, read_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


def test_defaults_serve_the_sample_on_the_embedded_store() -> None:
    settings = read_settings()
    assert settings.bundle == Path("models/sample")
    assert settings.store.get_secret_value() == "embedded:var/catalogue"
    assert (settings.provider, settings.host, settings.port) == ("cpu", "127.0.0.1", 8000)


def test_the_environment_sets_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNITOK_PORT", "9000")
    monkeypatch.setenv("UNITOK_MAX_K", "7")
    monkeypatch.setenv("UNITOK_HOST", "")
    monkeypatch.setenv("UNITOK_BESIDE", '["models/a", "models/b"]')
    settings = read_settings(port=9001, bundle=None)
    assert (settings.port, settings.max_k, settings.host) == (9001, 7, "127.0.0.1")
    assert settings.limits.k == 7
    assert settings.beside == (Path("models/a"), Path("models/b"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("UNITOK_PROT", "1", r"UNITOK_PROT: there is no such setting; did you mean UNITOK_PORT\?"),
        ("UNITOK_QQQQQQQ", "1", r"UNITOK_QQQQQQQ: there is no such setting; known are .*UNITOK_BUNDLE"),
        ("UNITOK_PORT", "99999", "environment variable UNITOK_PORT: .*65535"),
        ("UNITOK_PROVIDER", "tpu", "environment variable UNITOK_PROVIDER: .*'cpu' or 'cuda'"),
        ("UNITOK_BESIDE", "models/x", r"UNITOK_BESIDE: 'models/x' is no JSON list of strings; one is \[\"models"),
        ("UNITOK_BESIDE", "7", r"UNITOK_BESIDE: "),
        ("UNITOK_MAX_K", "500", "UNITOK_MAX_BEAM_WIDTH is 200, but must be at least UNITOK_MAX_K"),
        ("UNITOK_MAX_CONCURRENT_BODY_BYTES", "5000", "is 5000, but must be at least UNITOK_MAX_BODY_BYTES"),
        ("UNITOK_MAX_CONCURRENT_ITEMS", "10", "UNITOK_MAX_CONCURRENT_ITEMS is 10, but must be at least 1001"),
    ],
)
def test_wrong_variables_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        read_settings()


def test_a_wrong_option_is_named_as_an_option() -> None:
    with pytest.raises(ConfigError, match=r"^setting port: "):
        read_settings(port=-1)


def test_the_password_in_the_store_url_is_not_shown() -> None:
    settings = Settings(store="redis://:hunter2@localhost:6379/0")
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


def test_every_setting_is_documented() -> None:
    """The table in docs/operations.md says of each setting what the code says."""
    table = [
        f"| `{PREFIX}{name.upper()}` | {_shown(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    lines = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith(f"| `{PREFIX}")] == table


def _shown(default: object) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return "none" if default in (None, ()) else f"`{default}`"
