"""`unitok tokenize --url`, and what else is behind an address than the service."""

from __future__ import annotations

import pytest
from pydantic import SecretStr
from scripted_server import Prepared, scripted

from service.cli.asking import ask_server
from service.errors import ConfigError


def test_the_end_of_a_line_is_no_part_of_a_key() -> None:
    with scripted(Prepared(200, "{}")) as script:
        assert ask_server(script.address, "/tokenize", {}, SecretStr("utk_secret\r\n")) == {}
        assert script.asked[0].headers["Authorization"] == "Bearer utk_secret"


@pytest.mark.parametrize("key", ["utk_secret\u20ac", "utk_secr\net", "\n"])
def test_what_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError, match=r"^UNITOK_API_KEY: an API key is letters") as caught:
        ask_server("http://127.0.0.1:1", "/tokenize", {}, SecretStr(key))
    assert "utk_" not in str(caught.value)
