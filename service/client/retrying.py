"""When a request is sent again, and after how long.

Knows nothing of what is asked, nor of sockets.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a client is.

    Attributes
    ----------
    attempts : most times that one request is sent
    budget_seconds : longest time that one request waits between its attempts, in all; a wait that does not fit is not
        begun, and the failure is reported at once
    pause_seconds : first pause where the answer names none; it doubles with each attempt
    longest_pause_seconds : to which it grows
    """

    attempts: int = 5
    budget_seconds: float = 30.0
    pause_seconds: float = 0.1
    longest_pause_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.budget_seconds, self.pause_seconds, self.longest_pause_seconds) < 0:
            raise ValueError(f"{self}: attempts must be at least 1, and no time below 0")


class Patience:
    """What is left of a policy for one request."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._sent = 0
        self._left = policy.budget_seconds

    def next_pause(self, retry_after: float | None) -> float | None:
        """Seconds to wait before the request is sent again, None to give up.

        Never less than the answer asked for, and up to a half more, so that clients that were refused together do not
        come back together.
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
    """Seconds that a `Retry-After` header asks for, a number or a date; None where it asks for nothing that counts."""
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
