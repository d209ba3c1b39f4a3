"""Results that are kept, so that what comes again in a fleet is not worked out again.

Devices send the same log with every heartbeat, and many run the same release.
Rules for whoever keeps something, here or with `functools.lru_cache`:

1. Only results of pure functions are kept, and only good ones: what is refused
   is worked out, and refused, anew each time.
2. A key is all that goes into a result, or a SHA-256 over it that the verifier
   itself has made. Where it is less, it says where to look alone: what went into
   the result is kept beside it, and has to be the same.
3. Signatures, nonces and counters are never among them. Evidence is verified
   each time, whether or not it was seen before.
4. Both the number of results and the size of each are bounded, so that a hostile
   device can displace what others profit from, and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """At most `most` results, by key; the oldest gives way.

    For any number of threads: each step is one operation of the dictionary, and
    two threads that make room at the same time make more of it than is needed.
    """

    __slots__ = ("_most", "_results", "get")

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._results: OrderedDict[Key, Value] = OrderedDict()
        self.get = self._results.get
        """What was kept under a key; None if nothing was, or others displaced it."""

    def __len__(self) -> int:
        return len(self._results)

    def keep(self, key: Key, result: Value) -> None:
        """Keep `result` under `key`."""
        self._results[key] = result
        if len(self._results) > self._most:
            with suppress(KeyError):
                self._results.popitem(last=False)
