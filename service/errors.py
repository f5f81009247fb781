"""Every error the service raises on purpose, as a small tree.

Knows nothing of HTTP: `service/http/problems.py` holds the one table from class to status. A message says what was
wrong, where (file, row, field) and what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping

SHOWN_CHARACTERS = 40
"""Characters of a bad value that a message shows."""


class UnitokError(Exception):
    """Root of the tree; anything else that escapes is a bug."""


class InvalidInput(UnitokError):
    """The caller's data cannot be used as it is: a wrong field, width, type or range.

    Parameters
    ----------
    message : what is wrong, where, and what would be right
    field : path of the field that is wrong, as in `items[3].embedding`, where the data has fields
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message if field is None else f"{field}: {message}")
        self.field = field
        self.reason = message


def shown(value: object) -> str:
    """A bad value as messages show it: its `repr`, truncated."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def below(field: str, name: str) -> str:
    """Path of a part of a field; just the part's name if the field's path is empty (the data themselves)."""
    return f"{field}.{name}" if field else name


class UnknownDomain(InvalidInput):
    """A request names a domain that holds no item."""


class ItemNotFound(UnitokError):
    """A named item is not in the catalogue."""


class LimitExceeded(InvalidInput):
    """The request is larger than a configured limit."""


class SuffixExhausted(UnitokError):
    """A group of items with equal codes has used every suffix of the bundle's layout; the item was not registered.

    Parameters
    ----------
    refused : the items of a batch that were not registered: path in the caller's data -> message
    """

    def __init__(self, message: str, refused: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.refused = refused or {}


class Overloaded(UnitokError):
    """The queue is full; nothing was started.

    Parameters
    ----------
    retry_after : seconds after which a retry may succeed
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(Overloaded):
    """The caller has used up its rate; nothing was started."""


class Unauthenticated(UnitokError):
    """The caller sent no API key, or one that is not known."""


class Forbidden(UnitokError):
    """The caller's API key lacks the scope that this needs."""


class DeadlineExceeded(UnitokError):
    """The request took longer than the service allows; work that had not begun was withdrawn."""


class StoreUnavailable(UnitokError):
    """The catalogue store does not answer; nothing was acknowledged."""


class ClusterFailed(UnitokError):
    """A cluster of other processes does not start or fails at its work; what was acknowledged before is stored."""


class NotReady(UnitokError):
    """The service is starting or draining."""


class BundleError(UnitokError):
    """A bundle is missing a file, altered, or not of the shape that its manifest says."""


class SavedIndexError(UnitokError):
    """A saved index is missing, damaged or of another catalogue; it is rebuilt from the store."""


class ConfigError(UnitokError):
    """A setting or a configuration file is wrong; the message names the key."""


class UnknownGeneration(ConfigError):
    """The ID generation does not exist or is not served; the message says where the served ones are listed."""


class GenerationIncomplete(ConfigError):
    """The ID generation's catalogue is not complete yet."""


class ProviderUnavailable(ConfigError):
    """The requested ONNX Runtime execution provider is not in this installation."""


class ModelError(UnitokError):
    """A network returned something no network should: NaN, a wrong shape, a code out of range."""


class GraphFailed(ModelError):
    """A graph could not run on its inputs."""
