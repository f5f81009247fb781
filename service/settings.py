"""Settings of the service: read from the environment in one place, checked, and passed in.

Every setting is `UNITOK_` and its name in capitals. Knows nothing of what the settings are for beyond their ranges.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service import limits
from service.errors import ConfigError

PREFIX = "UNITOK_"
ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")


class Settings(BaseSettings):
    """What an operator may choose; `read_settings` makes one."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    bundle: Path = Field(default=Path("models/sample"), description="Folder of the bundle to serve.")
    beside: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="Folders of further generations of the bundle to serve beside it, as a JSON list of strings. "
        "`unitok catalogue switch` makes one of them current.",
    )
    store: SecretStr = Field(
        default=SecretStr("embedded:var/catalogue"),
        description="Catalogue store: `embedded:FOLDER`, or `redis://...`, `redis+cluster://...` or "
        "`redis+sentinel://...` shared by several replicas. May hold a password, so it is never logged.",
    )
    index_folder: Path | None = Field(
        default=None,
        description="Folder in which the index in memory is saved when the service stops, to be mapped at the next "
        "start instead of reading the whole store; one folder a replica. Empty: nowhere.",
    )
    provider: Literal["cpu", "cuda"] = Field(
        default="cpu", description="Where the networks run; a provider that is not installed is an error at start."
    )
    threads: int = Field(default=0, ge=0, le=1024, description="Threads of one network operator; 0 takes every core.")
    spin_microseconds: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="How long a thread that waits for the next operator of a running network keeps its core before it "
        "sleeps; shortens single requests on idle cores and slows down whatever else runs there.",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")

    api_keys: SecretStr | None = Field(
        default=None,
        description="API keys, entries separated by `;`, each as `unitok keys new` prints it. Without keys here and "
        "in the file, the service is open.",
    )
    api_keys_file: Path | None = Field(
        default=None, description="File with further API keys, an entry a line; a secret mounted by an orchestrator."
    )
    api_key: SecretStr | None = Field(
        default=None, description="Key that `unitok tokenize` and `unitok recommend` send to the server at `--url`."
    )
    rate_items_per_second: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Items a second that one API key may use, unless its entry says otherwise; 0 sets no limit. "
        "Shared by all replicas where the store is Redis.",
    )
    rate_burst_seconds: float = Field(
        default=10.0, gt=0, le=3600, description="How many seconds' worth of items a key may use at once."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins (`https://shop.example`) whose pages may read answers in a browser, separated by "
        "commas; none by default.",
    )

    max_body_bytes: int = Field(
        default=4 * 2**20, ge=1024, description="Largest request body; a larger one is refused while it is read."
    )
    max_concurrent_body_bytes: int = Field(
        default=256 * 2**20,
        ge=1024,
        description="Bytes of all request bodies that are held at once, from their arrival to their answers; a body "
        "that finds no room is answered 429. The first 64 KiB of each do not count, so small requests are let in "
        "whatever large ones hold.",
    )
    max_body_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="Longest time that a request body may take to arrive."
    )
    max_request_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="Longest time that a request may take once its body is there."
    )
    keep_alive_seconds: int = Field(
        default=75,
        ge=1,
        le=3600,
        description="How long an idle connection is kept open. It must be longer than a proxy keeps its connections "
        "to the service; otherwise the proxy may reuse one that is just being closed, and its caller "
        "gets a 502.",
    )
    max_items_per_request: int = Field(
        default=512, ge=1, le=limits.ITEMS, description="Most items of one tokenize request."
    )
    max_text_characters: int = Field(
        default=20_000, ge=1, le=limits.TEXT_CHARACTERS, description="Most characters of one text field."
    )
    max_history: int = Field(
        default=1_000,
        ge=1,
        le=limits.HISTORY,
        description="Most entries of a history; the recommender reads the most recent ones, as many as it was "
        "trained on.",
    )
    max_k: int = Field(default=100, ge=1, le=limits.BEAMS, description="Most results of one recommend request.")
    max_beam_width: int = Field(default=200, ge=1, le=limits.BEAMS, description="Widest beam a request may ask for.")
    default_beam_width: int = Field(
        default=50, ge=1, le=limits.BEAMS, description="Beam width of a request that names none; raised to its k."
    )
    max_references: int = Field(
        default=10_000,
        ge=0,
        le=limits.REFERENCES,
        description="Most items of an exclude or an allow list. A request that excludes 10,000 takes 0.05 s of a core "
        "and 13 MB, one that excludes 1,000 takes 0.01 s.",
    )
    max_concurrent_items: int = Field(
        default=4_096,
        ge=1,
        description="Items being worked on or waiting, over all requests; what exceeds it is answered 429 at once. "
        "A recommend request counts as one and one more for each raw item in its history.",
    )

    max_wait_seconds: float = Field(
        default=0.25,
        gt=0,
        le=3600,
        description="Longest expected wait in a queue; a request that would wait longer is answered 429 at once. "
        "The limit is 25 times the request's own processing time, at least 0.1 s and at most this "
        "value; a request that itself takes longer may wait as long as it takes.",
    )
    overload_patience: float = Field(
        default=0.25,
        ge=0,
        le=1000,
        description="During overload, how many times its own processing time a request may be expected to wait when "
        "nearly all requests are refused; the more are admitted, the longer it may wait.",
    )

    overload_refusals_per_second: float = Field(
        default=100.0,
        gt=0,
        allow_inf_nan=False,
        description="Requests of one operation that may be read and then refused in a second; beyond that, all are "
        "refused unread. Each costs the server about a millisecond.",
    )

    text_batch_tokens: int = Field(
        default=8_192, ge=1, description="Padded tokens of one tokenizing batch (rows x longest row)."
    )
    search_batch_beams: int = Field(
        default=1_600,
        ge=1,
        description="Beams of one search batch (requests x beam width); excluded items count as more beams.",
    )
    refresh_seconds: float = Field(
        default=0.5, gt=0, le=60, description="How often changes made by other replicas are fetched."
    )
    compare_seconds: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="How often this replica's fingerprints are compared with the store's; if they differ, the whole "
        "catalogue is read again.",
    )
    drain_seconds: float = Field(
        default=30.0, ge=0, le=3600, description="How long running requests may take to finish after SIGTERM."
    )
    drain_notice_seconds: float = Field(
        default=0.0,
        ge=0,
        le=600,
        description="How long after SIGTERM new requests are still served while /readyz already says 503, so that a "
        "load balancer notices first.",
    )
    ray_address: str | None = Field(
        default=None,
        description="Ray cluster on which `unitok backfill --engine ray` encodes, as `HOST:PORT`; none starts one on "
        "this machine.",
    )
    trace_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Where traces are sent: OTLP over HTTP, such as `http://collector:4318/v1/traces`; needs the extra "
        "`trace`. None switches tracing off.",
    )
    trace_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of requests that are traced, unless the caller's `traceparent` says yes or no.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["json", "console"] = Field(
        default="json", description="JSON, one object a line, or a form for people."
    )

    @field_validator("beside", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError(f'{value!r} is no JSON list of strings; one is ["models/shop-2"]') from None

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _parted_by_commas(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; one is a scheme and a host, such as https://shop.example")
        return value

    @model_validator(mode="after")
    def _limits_fit_together(self) -> Settings:
        if self.max_beam_width < max(self.max_k, self.default_beam_width):
            raise ValueError(
                f"UNITOK_MAX_BEAM_WIDTH is {self.max_beam_width}, but must be at least UNITOK_MAX_K ({self.max_k}) and "
                f"UNITOK_DEFAULT_BEAM_WIDTH ({self.default_beam_width})"
            )
        if self.max_concurrent_body_bytes < self.max_body_bytes:
            raise ValueError(
                f"UNITOK_MAX_CONCURRENT_BODY_BYTES is {self.max_concurrent_body_bytes}, but must be at least "
                f"UNITOK_MAX_BODY_BYTES ({self.max_body_bytes}), so that the largest allowed body can be taken"
            )
        largest = max(self.max_items_per_request, self.max_history + 1)
        if self.max_concurrent_items < largest:
            raise ValueError(
                f"UNITOK_MAX_CONCURRENT_ITEMS is {self.max_concurrent_items}, but must be at least {largest}, so that "
                "the largest allowed request can be served (UNITOK_MAX_ITEMS_PER_REQUEST, UNITOK_MAX_HISTORY + 1)"
            )
        return self

    @property
    def limits(self) -> limits.Limits:
        """The limits on one request."""
        return limits.Limits(
            items_per_request=self.max_items_per_request,
            text_characters=self.max_text_characters,
            history=self.max_history,
            k=self.max_k,
            beam_width=self.max_beam_width,
            references=self.max_references,
        )


def read_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment; `overrides` that are not None (command line options) win.

    Raises
    ------
    ConfigError : an unknown `UNITOK_` variable or a wrong value; the message names it
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
            raise ConfigError(f"environment variable {name}: there is no such setting{hint}")
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = "; ".join(_describe(dict(problem), given) for problem in error.errors(include_input=False))
        raise ConfigError(problems) from None


def _describe(problem: dict[str, Any], given: Mapping[str, Any]) -> str:
    """Say which setting is wrong, by the name its operator knows."""
    name = ".".join(map(str, problem["loc"]))
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not name:
        return f"settings: {message}"
    return f"setting {name}: {message}" if name in given else f"environment variable {PREFIX}{name.upper()}: {message}"
