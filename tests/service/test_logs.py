"""Logs: one JSON object a line, the request id in it, no item text and no secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import logging, structlog
from service.logs import configure_logs, get_logger
configure_logs({level!r}, {form!r})
log = get_logger("unitok.test")
with structlog.contextvars.bound_contextvars(request_id="r-1"):
    log.info("request", status=200)
    log.debug("detail")
    logging.getLogger("uvicorn.error").warning("from %s", "uvicorn")
    logging.getLogger("uvicorn.access").warning("twice")
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("request failed")
"""


def run(level: str, form: str) -> str:
    program = PROGRAM.format(level=level, form=form)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == ""
    return result.stderr


def test_json_lines_carry_the_request_id() -> None:
    lines = [json.loads(line) for line in run("info", "json").splitlines()]
    assert [line["event"] for line in lines] == ["request", "from uvicorn", "request failed"]
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert {line["request_id"] for line in lines} == {"r-1"}
    assert lines[0]["status"] == 200
    assert lines[2]["exception"][0]["exc_type"] == "ZeroDivisionError"


def test_the_level_decides_and_console_is_for_people() -> None:
    assert "detail" in run("debug", "json")
    text = run("error", "console")
    assert "request failed" in text
    assert "from uvicorn" not in text
    assert "ZeroDivisionError" in text


SPOKEN = """
import logging, sys
from service.logs import configure_logs, get_logger
sys.stderr.isatty = lambda: {terminal!r}
configure_logs("info", "console")
log = get_logger("unitok.test")
log.info("request", path="/items/movies/x\\x1b[2J\\r\\nfaked\\x9b2J\\u2028", title="caf\\xe9 \\u6f22")
logging.getLogger("uvicorn.error").warning("from %s", "\\x1b[2J")
try:
    raise ValueError("bad \\x1b[2J\\x07")
except ValueError:
    log.exception("request failed")
"""


def spoken(terminal: bool) -> str:
    program = SPOKEN.format(terminal=terminal)
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    return result.stderr.decode("utf-8")


def test_what_a_caller_sends_cannot_steer_the_terminal_of_a_reader() -> None:
    text = spoken(False)
    assert all(character.isprintable() or character == "\n" for character in text), repr(text)
    assert r"path=/items/movies/x\x1b[2J\r\nfaked\x9b2J\u2028" in text
    assert r"from \x1b[2J" in text
    assert r"ValueError: bad \x1b[2J\x07" in text
    assert "title='café 漢'" in text
    assert "\n  File " in text


def test_colours_are_left_where_there_is_a_terminal() -> None:
    text = spoken(True)
    assert "\x1b[0m" in text
    assert "\x1b[2J" not in text
