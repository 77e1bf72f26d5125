"""Latencies of any number of calls in little memory, to a fixed relative precision (after HdrHistogram)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from attar.runtime.errors import SettingsError

BITS = 9
"""Leading bits that are kept of a value: a bucket is at most 1/256 of its value wide, 0.4 %."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
ENOUGH = 5
"""Calls that must lie beyond a percentile for it to say something: p99 asks for 500 calls, p99.9 for 5,000."""


class Histogram:
    """Counts of values in nanoseconds; those of two processes or rounds add up to those of both together."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        self.counts: Counter[int] = Counter()
        self.largest = 0
        for value in values:
            self.add(value)

    def add(self, value: int) -> None:
        """Counts one value, which is at least 0."""
        if value < 0:
            raise SettingsError(f"a latency is at least 0, not {value}")
        self.counts[_bucket(value)] += 1
        self.largest = max(self.largest, value)

    def merge(self, other: Histogram) -> None:
        """Counts all values of the other one too."""
        self.counts.update(other.counts)
        self.largest = max(self.largest, other.largest)

    @property
    def count(self) -> int:
        return self.counts.total()

    def quantile(self, share: float) -> float:
        """The smallest value that at least this share of all values does not exceed, to within 0.2 %."""
        if not self.counts:
            raise SettingsError("a percentile needs at least one value")
        wanted = max(1, math.ceil(share * self.count))
        for value, below in self.steps():
            if below >= wanted:
                return value
        raise AssertionError("the last step counts every value")

    def steps(self) -> Iterator[tuple[float, int]]:
        """The distribution: each bucket's middle with the number of values up to and with this bucket."""
        below = 0
        for start in sorted(self.counts):
            below += self.counts[start]
            width = 1 << max(0, start.bit_length() - BITS)
            yield min(start + (width - 1) / 2, self.largest), below

    def told(self, share: float) -> bool:
        """Whether enough values lie beyond this percentile."""
        return self.count * (1 - share) >= ENOUGH - 1e-9


def _bucket(value: int) -> int:
    """The smallest value of the bucket: the leading bits, the others 0."""
    shift = max(0, value.bit_length() - BITS)
    return value >> shift << shift
