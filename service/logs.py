"""Structured logs on standard error: one line for each event, as JSON or in a console format.

Events carry ids, counts and times, never the text of items and never a secret. Only the command line configures logs,
because loggers belong to the process; all other code only gets a logger. The console format escapes what callers send,
such as a path, so that it cannot send control sequences to a terminal. Knows nothing of what is logged.
"""

from __future__ import annotations

import logging
import sys
from io import StringIO
from typing import Literal, TextIO

import orjson
import structlog


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events include the values bound in `structlog.contextvars`, such as the request id."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure_logs(level: str, form: Literal["json", "console"]) -> None:
    """Send all logs of this process, including uvicorn's, to standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    if form == "json":
        last: list[structlog.typing.Processor] = [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # locals hold item texts
            ),
            structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str).decode()),
        ]
    else:
        last = [
            _escape_values,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_traceback),
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # We write our own access log (service/http/middleware.py); uvicorn's would repeat it without the request id.
    logging.getLogger("uvicorn.access").disabled = True


def _escape_values(
    logger: structlog.typing.WrappedLogger, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Escape the texts of an event; a structlog processor."""
    return {key: _escaped(value) if isinstance(value, str) else value for key, value in event.items()}


def _write_traceback(out: TextIO, error: structlog.typing.ExcInfo) -> None:
    """Write an exception, escaped, because its message may repeat what a caller sent."""
    written = StringIO()
    structlog.dev.plain_traceback(written, error)
    out.write("\n".join(map(_escaped, written.getvalue().split("\n"))))


def _escaped(text: str) -> str:
    """The text with its non-printable characters as Python escape sequences."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
