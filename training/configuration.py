"""Reads parameters from TOML files strictly: an unknown key or a value out of range is an error that names it.

Also defines the types of numeric parameters. Knows nothing of what the parameters mean.
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
"""Upper limit: faiss takes 32-bit seeds, and each level and expert has its own seed, slightly above this one."""
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
"""A share below 1, such as of dropout, of label smoothing, or the decay of an average."""


class Strict(BaseModel):
    """Immutable parameters; refuses unknown keys, and `inf` and `nan`, which TOML allows but no training can use."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_toml(path: Path | None) -> dict[str, Any]:
    """Contents of a TOML file; empty for None.

    Raises
    ------
    ConfigError : the file is missing or is not TOML
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
    also_known : further allowed keys, for the message

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
    """All problems as `key: message; ...`; a problem that belongs to no single key is listed under `whole`."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or whole}: "
        + ("unknown key" if each["type"] == "extra_forbidden" else each["msg"])
        for each in error.errors()
    )
