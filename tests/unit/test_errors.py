"""The error tree: codes that programs can rely on, data without surprises."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path

import pytest

from hwtrust import errors
from hwtrust.errors import HwTrustError, MalformedError, TpmError, WireError, all_errors

CODE = re.compile(r"[a-z0-9-]+(:[a-z0-9-]+)*")


def descendants(cls: type[HwTrustError]) -> list[type[HwTrustError]]:
    """`cls` and every class below it."""
    return [cls, *(found for child in cls.__subclasses__() for found in descendants(child))]


all_errors()  # loads every module of the tree
CLASSES = [cls for cls in descendants(HwTrustError) if cls.__module__.startswith("hwtrust.errors")]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def test_no_module_of_the_tree_is_forgotten() -> None:
    """Whatever defines errors is loaded at once, or when one of its errors is asked for."""
    there = {path.stem for path in Path(errors.__file__).parent.glob("*.py")} - {"__init__"}
    at_once = {"base", "device", "evidence", "root", "tpm"}
    assert there == at_once | set(errors.LATER)


def test_what_is_no_error_is_not_found_in_the_tree() -> None:
    """A misspelt name is a mistake, whatever else a module happens to import."""
    with pytest.raises(AttributeError):
        _ = errors.MalformdError  # type: ignore[attr-defined]


def test_a_code_belongs_to_one_class_only() -> None:
    """A program that reads a code knows the cause."""
    assert len(CLASSES) > 50
    assert [code for code, count in Counter(cls.code for cls in CLASSES).items() if count > 1] == []


@every_class
def test_every_class_has_a_well_formed_code_of_its_own(cls: type[HwTrustError]) -> None:
    """No class goes by its parent's code, and codes are made of words and colons."""
    assert "code" in vars(cls)
    assert CODE.fullmatch(cls.code)


@every_class
def test_every_class_says_what_it_means(cls: type[HwTrustError]) -> None:
    """A class has a docstring of its own, a sentence, and a name that says it is an error."""
    assert (vars(cls)["__doc__"] or "").split("\n")[0].endswith(".")
    assert cls.__name__.endswith("Error")


@every_class
def test_a_hint_is_a_phrase_that_fits_behind_a_colon(cls: type[HwTrustError]) -> None:
    """The command line prints `hint: …`, without a full stop."""
    assert not cls.hint.endswith(".")
    assert cls.hint == cls.hint.strip()


def test_all_errors_lists_every_class_by_its_code_in_order() -> None:
    """Documentation and command line can enumerate the tree."""
    listed = all_errors()
    assert list(listed) == sorted(listed)
    assert {cls.code: cls for cls in CLASSES}.items() <= listed.items()


def test_an_error_carries_its_message_and_its_data() -> None:
    """What a program may want to know is an attribute, not a part of the text."""
    error = TpmError("the TPM refused", rc=0x922, command="TPM2_Unseal")
    assert str(error) == error.message == "the TPM refused"
    assert error.data == {"rc": 0x922, "command": "TPM2_Unseal"}


def test_an_error_is_caught_by_every_class_above_it() -> None:
    """A caller chooses how precisely to catch."""
    assert issubclass(MalformedError, WireError)
    assert issubclass(WireError, HwTrustError)
    assert not issubclass(HwTrustError, OSError | ValueError)


def test_an_error_survives_the_way_between_processes() -> None:
    """A worker process can hand its error on, data included."""
    error = pickle.loads(pickle.dumps(MalformedError("cut short", offset=7)))  # noqa: S301 - ours
    assert type(error) is MalformedError
    assert (error.message, error.data, error.code) == ("cut short", {"offset": 7}, "wire:malformed")
