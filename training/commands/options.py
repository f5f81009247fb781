"""What options of several subcommands have in common. Knows nothing of what they are for."""

from __future__ import annotations

from typing import Any


def names_in(given: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in given.split(",") if name.strip())


def those_given(**options: Any) -> dict[str, Any]:
    """The options that a person gave, by name: what is None was not, nor was an empty list."""
    return {name: value for name, value in options.items() if value is not None and value != []}
