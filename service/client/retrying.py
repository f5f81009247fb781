"""Retry policy: whether a request is sent again, and after which pause.

Independent of the requests' contents and of sockets.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits of the retries of one request.

    Attributes
    ----------
    attempts : maximum number of times that one request is sent
    budget_seconds : maximum sum of the pauses of one request; if the next pause does not fit, the failure is reported
        at once
    pause_seconds : first pause if the response names none; it doubles with each attempt
    longest_pause_seconds : upper limit of that doubling pause
    """

    attempts: int = 5
    budget_seconds: float = 30.0
    pause_seconds: float = 0.1
    longest_pause_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.budget_seconds, self.pause_seconds, self.longest_pause_seconds) < 0:
            raise ValueError(f"{self}: attempts must be at least 1, and no time below 0")


class Patience:
    """Remaining attempts and time budget of one request."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._sent = 0
        self._left = policy.budget_seconds

    def next_pause(self, retry_after: float | None) -> float | None:
        """Seconds to wait before the request is sent again, None to give up.

        At least the time the response asked for. Random jitter adds up to half of it, so that clients refused at the
        same time do not retry at the same time.
        """
        self._sent += 1
        if self._sent >= self._policy.attempts:
            return None
        doubled = self._policy.pause_seconds * 2.0 ** (self._sent - 1)
        least = min(doubled, self._policy.longest_pause_seconds) if retry_after is None else retry_after
        if least > self._left:
            return None
        pause = min(self._left, least * (1 + random.random() / 2))  # noqa: S311 - spreads clients, hides nothing
        self._left -= pause
        return pause


def read_retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header, given as a number or a date; None if it is missing or invalid."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
