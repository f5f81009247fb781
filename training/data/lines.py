"""Reads lines of text files, plain or gzip, with their numbers and byte offsets.

Knows nothing of what the lines mean.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from training.data.report import Findings, Kind, Problem

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_REPORT_EVERY = 1 << 20

OnBytes = Callable[[int], None]
"""Called with the number of bytes read from the file since the last call."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its line ending.

    Attributes
    ----------
    number : from 1
    offset : number of bytes before the line in the uncompressed file
    content : its bytes
    """

    number: int
    offset: int
    content: bytes


def read_lines(path: Path, findings: Findings, on_bytes: OnBytes) -> Iterator[Line]:
    """Lines of a file; gzip is recognised by its first bytes, not by the file name.

    A gzip stream that is damaged or ends early is reported as a malformed line; the lines before it are yielded.
    """
    number = offset = told = 0
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        packed = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        raw.seek(0)
        file = stack.enter_context(gzip.open(raw)) if packed else raw
        try:
            for content in file:
                number += 1
                body = content.rstrip(b"\r\n")
                yield Line(number, offset, body.removeprefix(_BOM) if number == 1 else body)
                offset += len(content)
                if raw.tell() - told >= _REPORT_EVERY:
                    on_bytes(raw.tell() - told)
                    told = raw.tell()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            reason = f"the gzip stream breaks off ({error}); fetch the file again"
            findings.add(Problem(Kind.MALFORMED_LINE, str(path), number + 1, None, reason))
    on_bytes(path.stat().st_size - told)


def broken_byte(line: Line) -> str | None:
    """Why a line is not UTF-8, with the byte's offset in the uncompressed file; None if it is."""
    try:
        line.content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line.content[error.start]
        return f"byte 0x{byte:02x} at offset {line.offset + error.start} is not UTF-8; save the file as UTF-8"
    return None
