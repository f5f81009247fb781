"""TOML file -> parameters, strictly: an unknown key or a value out of range is an error that names it.

Knows nothing of what the parameters mean.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import ConfigError

P = TypeVar("P", bound=BaseModel)

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
"""Of parameters: unknown keys are refused, and so are `inf` and `nan`, which TOML can write and nothing learns by."""


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


def checked(kind: type[P], values: Mapping[str, Any], where: str, also_known: Sequence[str] = ()) -> P:
    """Build parameters from names and values.

    Parameters
    ----------
    also_known : further keys that may stand there, for the message

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
        known = [f"known keys: {', '.join([*kind.model_fields, *also_known])}"]
        for table in dict.fromkeys(str(problem["loc"][0]) for problem in error.errors() if len(problem["loc"]) > 1):
            inner = kind.model_fields[table].annotation if table in kind.model_fields else None
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                known.append(f"of {table}: {', '.join(inner.model_fields)}")
        raise ConfigError(f"{where}: {problems} ({'; '.join(known)})") from None
