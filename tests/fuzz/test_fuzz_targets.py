"""Every decoder takes its own corpus, and ends in the error tree with what is near it.

`scripts/fuzz` looks much further; here is what every run of the tests does.
"""

from __future__ import annotations

import random
from itertools import islice

import pytest

from fuzz.target import Target
from fuzz.targets import every_target, tried

CUTS, FLIPS = 60, 60
"""Of each of the first few inputs."""
INPUTS = 4

TARGETS = every_target()
each_target = pytest.mark.parametrize("name", TARGETS)


def test_there_are_targets_for_every_kind_of_evidence() -> None:
    """A module that is renamed does not take its targets along unnoticed."""
    kinds = ("snp", "dcap", "nitro", "cca", "nvidia", "azure", "cmw", "firmware", "ima", "tpm")
    assert [kind for kind in kinds if not any(kind in name for name in TARGETS)] == []


@each_target
def test_a_decoder_takes_its_corpus(name: str) -> None:
    """A corpus is never empty, and begins inside what is understood."""
    corpus = list(TARGETS[name].corpus())
    assert corpus
    assert any(tried(TARGETS[name], data) for data in corpus)


@each_target
def test_what_is_cut_short_or_flipped_ends_in_the_error_tree(name: str) -> None:
    """Nothing else is raised, by whatever is nearly right."""
    target, chance = TARGETS[name], random.Random(name)  # noqa: S311 - the same in every run
    for data in islice(target.corpus(), INPUTS):
        for _ in range(CUTS):
            tried(target, data[: chance.randrange(len(data) + 1)])
        for _ in range(FLIPS):
            flipped = bytearray(data)
            if flipped:
                flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            tried(target, bytes(flipped))


def test_an_exception_from_outside_the_tree_is_a_finding() -> None:
    """What this module and `scripts/fuzz` hold decoders to can fail."""

    def careless(data: bytes) -> int:
        return data[0]

    with pytest.raises(IndexError):
        tried(Target(careless, lambda: [b"x"]), b"")
