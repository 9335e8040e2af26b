"""Rate limits: a token bucket a client."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

__all__ = ["Buckets"]

_MAX_CLIENTS = 10_000


class Buckets:
    """Each client has a bucket that holds ``burst`` requests and is refilled with ``rate`` a second.

    Args:
        rate: Requests a second; 0: no limit.
        burst: Requests at once; default: what five seconds refill.
        clock: Seconds, rising.
    """

    def __init__(self, rate: float, burst: float | None = None, clock: Callable[[], float] = monotonic) -> None:
        """See the class."""
        self.rate = rate
        self.burst = max(1.0, rate * 5 if burst is None else burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str, cost: float = 1.0) -> float:
        """Take ``cost`` from a client's bucket; 0, or the seconds to wait until there is enough."""
        if self.rate <= 0:
            return 0.0
        now = self._clock()
        level, then = self._buckets.get(client, (self.burst, now))
        level = min(self.burst, level + (now - then) * self.rate)
        cost = min(cost, self.burst)
        wait = 0.0 if level >= cost else (cost - level) / self.rate
        self._buckets[client] = (level - cost if not wait else level, now)
        if len(self._buckets) > _MAX_CLIENTS:
            self._forget(now)
        return wait

    def charge(self, client: str, cost: float) -> None:
        """Take ``cost`` though there may not be enough: the client then waits for longer."""
        if self.rate > 0:
            self.take(client, 0.0)
            level, then = self._buckets[client]
            self._buckets[client] = (max(level - cost, -self.burst), then)

    def _forget(self, now: float) -> None:
        """Drop full buckets, which are as good as none; if that is not enough, the oldest half."""
        rate, burst = self.rate, self.burst
        kept = {c: (lv, t) for c, (lv, t) in self._buckets.items() if lv + (now - t) * rate < burst}
        if len(kept) > _MAX_CLIENTS // 2:
            kept = dict(sorted(kept.items(), key=lambda item: -item[1][1])[: _MAX_CLIENTS // 2])
        self._buckets = kept
