"""API keys: how they are written, read and refused, and that nothing of a secret is repeated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.access.keys import ApiKeys, KeyScope, digest_of, new_key
from service.errors import ConfigError, Forbidden

DIGEST = "0" * 64


def test_a_new_key_is_found_by_its_entry_and_nothing_else_is(tmp_path: Path) -> None:
    made = [new_key(name, [KeyScope.READ], rate) for name, rate in (("a", None), ("b", 2.5))]
    file = tmp_path / "keys"
    file.write_text(f"# two keys\n\n  # indented\n{made[1].entry}\n")
    keys = ApiKeys.read(made[0].entry + ";", file)
    found = [keys.find(key.secret) for key in made]
    assert [(key.name, key.items_per_second) for key in found if key] == [("a", None), ("b", 2.5)]
    for wrong in ("", made[0].secret[:-1], made[0].secret + "x", digest_of(made[0].secret).hex(), "é"):
        assert keys.find(wrong) is None
    assert made[0].secret not in made[0].entry
    assert made[0].secret not in repr(made[0])
    assert len({new_key("a", [KeyScope.READ]).secret for _ in range(100)}) == 100


def test_a_scope_includes_no_other() -> None:
    key = new_key("a", [KeyScope.REGISTER, KeyScope.ADMIN])
    found = ApiKeys.read(key.entry, None).find(key.secret)
    assert found is not None
    found.require(KeyScope.REGISTER)
    with pytest.raises(Forbidden, match="'a' has the scopes admin, register, but this needs read"):
        found.require(KeyScope.READ)


def test_without_keys_the_service_is_open() -> None:
    assert not ApiKeys.read("", None)


@pytest.mark.parametrize("text", [" ", ";", " ; \n# none\n", f"#shop read {DIGEST}", f"# a; shop read {DIGEST}"])
def test_a_text_without_keys_does_not_open_the_service(text: str) -> None:
    with pytest.raises(ConfigError, match="UNITOK_API_KEYS: holds no key"):
        ApiKeys.read(text, None)


@pytest.mark.parametrize(
    "name", ["#shop", "", ";", "a;b", "shop; b", "a\nb", "# shop", "my shop", "utk_shop", "-shop", "a" * 65]
)
def test_a_name_that_its_entry_could_not_keep_is_refused(name: str) -> None:
    """`#shop` made an entry that is a comment, and so a service that is open."""
    with pytest.raises(ConfigError, match="new key: the name must be 1 to 64 letters"):
        new_key(name, [KeyScope.READ])


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1, "1"),
        (2.0, "2"),
        (0.001, "0.001"),
        (1234567.5, "1234567.5"),
        (1e22, "1e+22"),
        (123456789.125, "123456789.125"),
    ],
)
def test_a_rate_is_written_as_it_is(rate: float, text: str) -> None:
    key = new_key("a", [KeyScope.READ], rate)
    found = ApiKeys.read(key.entry, None).find(key.secret)
    assert found is not None
    assert found.items_per_second == rate
    assert key.entry.split()[3] == text


def test_an_entry_names_each_scope_once_and_up_to_64_letters() -> None:
    key = new_key("a" * 64, [KeyScope.REGISTER, KeyScope.READ, KeyScope.REGISTER])
    assert key.entry.split()[:2] == ["a" * 64, "register,read"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shop read", r"UNITOK_API_KEYS, entry 1: has 2 parts, but must be NAME SCOPE"),
        (f"shop write {DIGEST}", r"entry 1 \(shop\): a scope is unknown; known are read, register, admin"),
        (f"shop read, {DIGEST}", "a scope is unknown"),
        (f"a read {DIGEST}; shop read {DIGEST[1:]}", r"entry 2 \(shop\): the digest must be 64"),
        (f"shop read {DIGEST.replace('0', 'A')}", "small hexadecimal"),
        (f"sh/op read {DIGEST}", "the name must be"),
        (f"shop read {DIGEST} 0", "items a second must be a number above 0"),
        (f"shop read {DIGEST} nan", "items a second"),
        (f"shop read {DIGEST} inf", "items a second"),
        (f"shop read {DIGEST} much", "items a second"),
        (f"a read {DIGEST}\na read {'1' * 64}", "'a': its name is already taken"),
        (f"a read {DIGEST}\nb read {DIGEST}", "'b': its digest is already taken"),
    ],
)
def test_a_wrong_entry_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ApiKeys.read(text, None)


@pytest.mark.parametrize(
    "form", ["{key}", "{key} read {digest}", "shop read {key}", "shop {key} {digest}", "a b {key} 1"]
)
def test_a_key_in_the_wrong_place_is_not_repeated(form: str) -> None:
    secret = new_key("a", [KeyScope.READ]).secret
    with pytest.raises(ConfigError) as raised:
        ApiKeys.read(form.format(key=secret, digest=DIGEST), None)
    assert secret not in str(raised.value)


def test_a_file_without_keys_does_not_open_the_service(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        ApiKeys.read("", tmp_path / "missing")
    (tmp_path / "empty").write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match="holds no key"):
        ApiKeys.read("", tmp_path / "empty")
    (tmp_path / "binary").write_bytes(b"shop read \xff")
    with pytest.raises(ConfigError, match=r"binary: .*can't decode"):
        ApiKeys.read("", tmp_path / "binary")


def test_the_command_line_makes_a_key_that_its_entry_knows() -> None:
    command = [sys.executable, "-m", "service.cli.main", "keys", "new", "shop", "--scope", "read", "--rate", "5"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    key, entry = (line.split(maxsplit=1)[1] for line in result.stdout.splitlines())
    found = ApiKeys.read(entry, None).find(key)
    assert found is not None
    assert (found.name, found.scopes, found.items_per_second) == ("shop", {KeyScope.READ}, 5.0)
    wrong = subprocess.run([*command[:5], "no/name", *command[6:]], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "the name must be" in wrong.stderr
