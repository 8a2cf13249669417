"""How many requests a minute an account may send."""

from __future__ import annotations

import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.errors import OverloadedError


class RateLimits:
    """Counts the requests of each account in a sliding minute, in the memory of this process.

    Not in Redis: a broker that hangs must not hold up a request.
    """

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, account: str, *, per_minute: int) -> None:
        """Count one request; OverloadedError if it is one too many. ``per_minute`` 0: no limit."""
        if not per_minute:
            return
        limit = RateLimitItemPerMinute(per_minute)
        if not self._limiter.hit(limit, account):
            reset = self._limiter.get_window_stats(limit, account).reset_time
            raise OverloadedError(
                f"{account!r} may send {per_minute} requests a minute", retry_after=max(1.0, reset - time.time())
            )
