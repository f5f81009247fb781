"""TOML file -> parameters, strictly: an unknown key or a value out of range is an error that names it.

Also the kinds of numbers that parameters are. Knows nothing of what the parameters mean.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import ConfigError

P = TypeVar("P", bound=BaseModel)

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2_000_000_000)]
"""faiss counts in 32 bits, and every level and expert has a seed of its own a little above."""
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
"""A share that must leave something: what is dropped, spread over others, or kept from step to step."""


class Strict(BaseModel):
    """Parameters: they do not change; unknown keys are refused, and so are `inf` and `nan`, which TOML can write and
    nothing learns by."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
        known = [f"known keys: {', '.join([*kind.model_fields, *also_known])}"]
        for table in dict.fromkeys(str(problem["loc"][0]) for problem in error.errors() if len(problem["loc"]) > 1):
            inner = kind.model_fields[table].annotation if table in kind.model_fields else None
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                known.append(f"of {table}: {', '.join(inner.model_fields)}")
        raise ConfigError(f"{where}: {problems(error, 'parameters')} ({'; '.join(known)})") from None


def problems(error: ValidationError, whole: str) -> str:
    """What is wrong, key by key: `key: message; ...`; `whole` names what a problem of no single key is one of."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or whole}: "
        + ("unknown key" if each["type"] == "extra_forbidden" else each["msg"])
        for each in error.errors()
    )
