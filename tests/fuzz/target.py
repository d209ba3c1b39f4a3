"""What is fuzzed: a decoder of bytes from outside, and where its fuzzing begins.

Each module `fuzz_<area>.py` beside this one has a table `TARGETS`: a target under a
name. `scripts/fuzz` runs them under coverage guidance, and a test runs each over its
corpus, the corpus cut short, and the corpus with bits flipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder and its corpus.

    Attributes:
        decode: takes any bytes; whatever it raises is of the error tree.
        corpus: makes well-formed inputs, at least one, each of which `decode` takes.
    """

    decode: Callable[[bytes], object]
    corpus: Callable[[], Iterable[bytes]]
