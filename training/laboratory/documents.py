"""Tables in a Markdown document, each between two comments; the first one states the command that makes the table.

    <!-- unitok report --table small-ids -->
    | ... |
    <!-- end of table -->

Knows nothing of the tables' contents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from service.errors import InvalidInput

END = "<!-- end of table -->"
BEGIN = re.compile(r"^<!-- (?:unitok report --table|python -m benchmarks\.tables) (\S+) -->$")


def tables_in(text: str, where: str) -> list[str]:
    """Names of the tables that a document has a place for.

    Raises
    ------
    InvalidInput : a place has no end comment; names it
    """
    names: list[str] = []
    open_name: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        begun = BEGIN.match(line)
        if begun and open_name is not None:
            raise InvalidInput(f"{where}, line {number}: table {open_name!r} has no `{END}` before the next one begins")
        if begun:
            open_name = begun.group(1)
            names.append(open_name)
        elif line == END:
            open_name = None
    if open_name is not None:
        raise InvalidInput(f"{where}: table {open_name!r} has no `{END}` after it")
    return names


def filled(text: str, tables: Mapping[str, str], where: str) -> str:
    """The document with new tables in their places; places of other tables stay as they are.

    Raises
    ------
    InvalidInput : a place has no end comment
    """
    tables_in(text, where)
    lines: list[str] = []
    skipping = False
    for line in text.splitlines():
        begun = BEGIN.match(line)
        if line == END:
            skipping = False
        if not skipping:
            lines.append(line)
        if begun and begun.group(1) in tables:
            lines += ["", *tables[begun.group(1)].splitlines(), ""]
            skipping = True
    return "".join(line + "\n" for line in lines)
