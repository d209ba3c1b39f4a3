"""CBOR from outside: one way to write each value, nothing large, nothing that acts."""

from __future__ import annotations

import cbor2
import pytest

from hwtrust.errors import MalformedError
from hwtrust.wire.enclaves import cbor


def decode(raw: bytes) -> object:
    """By the bounds of these tests."""
    return cbor.decode(raw, "a test", most=256, depth=3)


@pytest.mark.parametrize(
    "value",
    [0, 23, 24, 2**64 - 1, -1, -(2**64), b"", b"x" * 99, "", "é", None, True, [], [1, [2]], {}],
    ids=repr,
)
def test_what_is_written_deterministically_is_read(value: object) -> None:
    """Numbers, strings, lists, maps and null."""
    assert decode(cbor2.dumps(value)) == value


def test_the_order_of_a_maps_keys_is_its_signers_own() -> None:
    """Signers in the field do not sort."""
    assert list(decode(bytes.fromhex("a202010100"))) == [2, 1]  # type: ignore[call-overload]


REFUSED = {
    "nothing": "",
    "something behind it": "0000",
    "a number that is longer than it has to be": "1800",
    "a length that is longer than it has to be": "5800",
    "an indefinite list": "9f00ff",
    "an indefinite string": "5f4100ff",
    "a key twice": "a201000101",
    "keys that are equal in Python": "a20100f500",
    "a list without an end": "8201",
    "a list of more items than there are bytes": "9bffffffffffffffff",
    "a map of four thousand million items": "ba ffffffff",
    "a string of many bytes": "5bffffffffffffffff",
    "a string of 2^63 - 1 bytes": "5b7fffffffffffffff",
    "a list deeper than allowed": "8181818100",
    "a text that is not UTF-8": "61ff",
    "a reserved length": "1c",
    "a break alone": "ff",
    "a short float": "f93c00",
    "a number with a tag": "c100",
    "a date": "c07432303133 2d30332d32315432303a30343a30305a",
    "a regular expression": "d8236161",
    "a number of any length": "c24101",
    "a shared value": "d81c8100",
    "a reference to a list from inside it": "d81c81d81d00",
    "a reference to a string": "d9010082 4161d81900",
    "CBOR in a tag of its own": "d9d9f700",
    "a set": "d901028100",
    "a tag that nobody knows": "da0badcafe00",
    "a tag inside": "81c100",
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused(case: str) -> None:
    """With the one error, whatever the parser itself would do."""
    with pytest.raises(MalformedError) as refused:
        decode(bytes.fromhex(REFUSED[case]))
    assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize("content", ["f6", "00", "80", "8100", "4100", "6100", "a0"])
def test_no_tag_whatsoever_is_taken(content: str) -> None:
    """Also none that a later version of the parser might come to know, on any content."""
    for tag in (*range(1500), 43000, 55799, 2**16, 2**32, 2**64 - 1):
        tagged = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] + bytes.fromhex(content)
        with pytest.raises(MalformedError):
            decode(tagged)


def test_the_parsers_own_tags_are_the_ones_that_are_refused_by_number() -> None:
    """A tag that the parser decodes without asking the hook is in the table."""

    def refuse(*_: object) -> object:
        raise KeyError

    known = []
    for tag in range(2**16):
        try:
            cbor2.loads(cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] + b"\xf6", tag_hook=refuse)
        except KeyError:
            continue
        except cbor2.CBORDecodeError as error:
            if isinstance(error.__cause__, KeyError):
                continue
        known.append(tag)
    assert known == list(cbor._BUILT_IN_TAGS)


def test_what_is_too_large_is_refused_before_it_is_decoded() -> None:
    """By its size alone."""
    assert decode(cbor2.dumps(b"x" * 254))
    with pytest.raises(MalformedError) as refused:
        decode(b"\x00" * 257)
    assert refused.value.data == {"size": 257}


FIELDS = {
    "a byte string that is a text": lambda f: f.octets("text", range(9)),
    "a byte string of another size": lambda f: f.octets("bytes", (2,)),
    "a byte string that is missing": lambda f: f.octets("no", range(9)),
    "a byte string or none that is a number": lambda f: f.octets_or_none("one", range(9)),
    "a text that is a byte string": lambda f: f.text("bytes", 9),
    "a text that is too long": lambda f: f.text("text", 3),
    "a text that is empty": lambda f: f.text("empty", 9),
    "a text that moves the cursor": lambda f: f.text("escape", 9),
    "a text or none that is null": lambda f: f.text_or_none("null", 9),
    "a number that is a truth value": lambda f: f.number("true", range(9)),
    "a number outside its range": lambda f: f.number("one", range(1)),
    "a list that is a byte string": lambda f: f.items("bytes", range(9)),
    "a list of too many items": lambda f: f.items("list", range(2)),
    "a map that is a list": lambda f: f.mapping("list", range(9)),
    "a map of too many fields": lambda f: f.mapping("map", range(1)),
    "fields that were not read": lambda f: f.end(),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_field_of_another_type_or_size_is_refused(case: str) -> None:
    """Each by the getter that asks for it."""
    value = {
        "bytes": b"1",
        "text": "text",
        "empty": "",
        "escape": "\x1b[2J",
        "one": 1,
        "true": True,
        "null": None,
        "list": [1, 2],
        "map": {1: 2},
    }
    with pytest.raises(MalformedError):
        FIELDS[case](cbor.Fields(value, "a test"))


@pytest.mark.parametrize("value", [[], None, 1, {True: 0}, {1.0: 0}, {(1,): 0}, {b"": 0}], ids=repr)
def test_fields_come_from_a_map_with_numbers_and_texts_as_keys(value: object) -> None:
    """`true` does not stand where 1 is looked for."""
    with pytest.raises(MalformedError):
        cbor.Fields(value, "a test")


def test_what_may_be_missing_is_none() -> None:
    """Null and missing are the same for a byte string, as AWS has it."""
    fields = cbor.Fields({"null": None, "bytes": b"1", "text": "t"}, "a test")
    assert fields.octets_or_none("null", range(9)) is None
    assert fields.octets_or_none("no", range(9)) is None
    assert fields.text_or_none("no", 9) is None
    assert fields.rest() == ("bytes", "text")
    assert fields.octets_or_none("bytes", range(9)) == b"1"
    assert fields.text_or_none("text", 9) == "t"
    fields.end()
