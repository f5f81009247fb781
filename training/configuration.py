"""TOML file -> parameters, strictly: an unknown key or a value out of range is an error that names it.

Knows nothing of what the parameters mean.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.errors import ConfigError

P = TypeVar("P", bound=BaseModel)


def read_toml(path: Path | None) -> dict[str, Any]:
    """What a TOML file holds; nothing, where there is none to read.

    Raises
    ------
    ConfigError : the file is missing or no TOML
    """
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def checked(kind: type[P], values: Mapping[str, Any], where: str) -> P:
    """Build parameters from names and values.

    Raises
    ------
    ConfigError : a key is unknown or a value is wrong; names every such key, and `where` they stand
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'parameters'}: {problem['msg']}" for problem in error.errors()
        )
        known = ", ".join(kind.model_fields)
        raise ConfigError(f"{where}: {problems} (known keys: {known})") from None
