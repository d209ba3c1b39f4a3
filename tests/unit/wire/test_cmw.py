"""Conceptual Message Wrappers: what is wrapped comes back, and nothing else is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import HwTrustError
from hwtrust.errors.cmw import CmwError, CmwLabelError, CmwLimitError, CmwTypeError
from hwtrust.wire import cmw_cbor
from hwtrust.wire.cmw import (
    COMPOSITE,
    MAX_DEPTH,
    MAX_LABEL,
    MAX_RECORDS,
    MAX_SIZE,
    Cmw,
    Collection,
    Indicator,
    MediaType,
    Record,
    decode,
    encode_cbor,
    encode_json,
)
from hwtrust.wire.cmw_cbor import Pairs

RECORD = Record(MediaType.SNP, b"report", Indicator.EVIDENCE)
COLLECTION = Collection(
    {"tee": RECORD, "gpu": Collection({"0": Record(60, b"\xff\xfe")}), "log": Record("a/b", b"x")},
    COMPOSITE,
)

VALUES = st.binary(min_size=1, max_size=40)
RECORDS = st.builds(
    Record,
    st.sampled_from(list(MediaType)) | st.integers(0, 65535),
    VALUES,
    st.integers(0, 2**32 - 1),
)
LABELS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)


def collections(items: st.SearchStrategy[Cmw]) -> st.SearchStrategy[Cmw]:
    """Collections of such items."""
    return st.builds(
        Collection,
        st.dictionaries(LABELS, items, min_size=1, max_size=4),
        st.none() | st.sampled_from([COMPOSITE, "1.2.3.4"]),
    )


WRAPPERS = st.one_of(RECORDS, collections(RECORDS), collections(RECORDS | collections(RECORDS)))


@given(WRAPPERS)
def test_what_is_wrapped_comes_back(wrapped: Cmw) -> None:
    """In both encodings, in the same order."""
    assert decode(encode_json(wrapped)) == wrapped
    assert decode(encode_cbor(wrapped)) == wrapped


def test_a_record_is_written_as_the_draft_says() -> None:
    """Draft 23, §3.1: an array of type, base64url value and indicator."""
    assert encode_json(RECORD) == b'["application/vnd.hwtrust.sev-snp","cmVwb3J0",4]'
    assert encode_json(Record(30001, b"#c")) == b'[30001,"I2M"]'
    assert encode_cbor(Record(30001, b"#c")).hex() == "82197531422363"


def test_a_collection_is_written_as_the_draft_says() -> None:
    """Its type stands under a label of its own."""
    written = json.loads(encode_json(COLLECTION))
    assert list(written) == ["__cmwc_t", "tee", "gpu", "log"]
    assert written["__cmwc_t"] == "urn:x-hwtrust:composite-evidence:1"
    assert [path for path, _ in COLLECTION.records()] == [("tee",), ("gpu", "0"), ("log",)]
    assert COLLECTION.record("tee").require("Application/vnd.hwtrust.sev-snp") == b"report"


def test_what_others_wrote_is_read() -> None:
    """The collection in the tests of another implementation, nested."""
    found = decode(
        b'{"__cmwc_t":"tag:ietf.org,2024:X","bretwaldadom":["application/eat-ucs+cbor","oQo"],'
        b'"murmurless":{"__cmwc_t":"tag:ietf.org,2024:Y","polyscopic":["application/eat-ucs+json",'
        b'"eyJlYXRfbm9uY2UiOiAuLi59",8]},"photoelectrograph":["application/eat-ucs+cbor","gngY",3]}'
    )
    assert isinstance(found, Collection)
    assert found.type == "tag:ietf.org,2024:X"
    assert found.record("bretwaldadom").value == b"\xa1\n"
    assert found.record("photoelectrograph").facts()["indicator"] == [
        "reference_values",
        "endorsements",
    ]


def test_media_types_with_parameters_are_read() -> None:
    """A profile behind the type is kept, and does not hide the type."""
    record = Record('application/eat+cwt; eat_profile="tag:x,2026:y"', b"x")
    assert decode(encode_json(record)) == record
    assert record.require(MediaType.EAT_CWT) == b"x"
    for alike in ("Application/EAT+cwt", "application/eat+cwt ;a=b", "application/eat+cwt;a=b"):
        assert Record(alike, b"x").require(MediaType.EAT_CWT) == b"x"


def test_numbers_are_labels_in_cbor_alone() -> None:
    """JSON has no other labels than text."""
    numbered = Collection({1: RECORD, "1": RECORD})
    assert decode(encode_cbor(numbered)) == numbered
    with pytest.raises(CmwLabelError):
        encode_json(numbered)


def nested(levels: int) -> Any:  # noqa: ANN401 - JSON
    """Collections within one another."""
    found: Any = ["a/b", "QQ"]
    for _ in range(levels):
        found = {"x": found}
    return found


BAD_JSON: dict[str, tuple[bytes, type[HwTrustError]]] = {
    "nothing at all": (b"", CmwError),
    "an empty record": (b"[]", CmwError),
    "a record of a type alone": (b'["a/b"]', CmwError),
    "a record of four fields": (b'["a/b","QQ",4,4]', CmwError),
    "an empty value": (b'["a/b",""]', CmwError),
    "base64 with padding": (b'["a/b","QQ=="]', CmwError),
    "base64 of the other alphabet": (b'["a/b","+/+/"]', CmwError),
    "base64 with spare bits": (b'["a/b","QR"]', CmwError),
    "base64 cut short": (b'["a/b","QUFBQ"]', CmwError),
    "base64 with a letter of no alphabet": ('["a/b","QUFB\u00e4"]'.encode(), CmwError),
    "base64 with a line end": (b'["a/b","QUFB\\n"]', CmwError),
    "a value that is a number": (b'["a/b",5]', CmwError),
    "a type without a subtype": (b'["ab","QQ"]', CmwError),
    "a type with a line end": (b'["a/b\\n","QQ"]', CmwError),
    "a type that begins with a dot": (b'[".a/b","QQ"]', CmwError),
    "a type with a name of 128 characters": (b'["a/%s","QQ"]' % (b"b" * 128), CmwError),
    "a type that is far too long": (b'["a/%s","QQ"]' % (b"b;c=d" * 99), CmwError),
    "a content format that is too large": (b'[65536,"QQ"]', CmwError),
    "a content format below zero": (b'[-1,"QQ"]', CmwError),
    "a type that is true": (b'[true,"QQ"]', CmwError),
    "a type that is a fraction": (b'[1.5,"QQ"]', CmwError),
    "a number of a thousand digits": (b"[%s]" % (b"9" * 1000), CmwError),
    "not a number": (b'[NaN,"QQ"]', CmwError),
    "an indicator of zero": (b'["a/b","QQ",0]', CmwError),
    "an indicator that is too large": (b'["a/b","QQ",4294967296]', CmwError),
    "an indicator below zero": (b'["a/b","QQ",-4]', CmwError),
    "an indicator that is true": (b'["a/b","QQ",true]', CmwError),
    "an indicator that is null": (b'["a/b","QQ",null]', CmwError),
    "an empty collection": (b"{}", CmwLabelError),
    "a collection of its type alone": (b'{"__cmwc_t":"a:b"}', CmwLabelError),
    "a label twice": (b'{"x":["a/b","QQ"],"x":["a/b","QQ"]}', CmwLabelError),
    "a label twice, spelled in two ways": (
        b'{"x":["a/b","QQ"],"\\u0078":["a/b","QQ"]}',
        CmwLabelError,
    ),
    "a type twice": (b'{"__cmwc_t":"a:b","__cmwc_t":"a:b","x":["a/b","QQ"]}', CmwLabelError),
    "an empty label": (b'{"":["a/b","QQ"]}', CmwLabelError),
    "half a character in a label": (b'{"\\ud800":["a/b","QQ"]}', CmwLabelError),
    "a label that is far too long": (
        b'{"%s":["a/b","QQ"]}' % (b"x" * (MAX_LABEL + 1)),
        CmwLabelError,
    ),
    "a collection whose type is a record": (
        b'{"__cmwc_t":["a/b","QQ"],"x":["a/b","QQ"]}',
        CmwError,
    ),
    "a collection whose type is no URI": (b'{"__cmwc_t":"a b","x":["a/b","QQ"]}', CmwError),
    **{
        f"a collection whose type is {name}": (
            json.dumps({"__cmwc_t": type_, "x": ["a/b", "QQ"]}).encode(),
            CmwError,
        )
        for name, type_ in {
            "a URI and more": "a:b c",
            "an object identifier with a line end": "1.2.3\n",
            "an object identifier of a fourth tree": "3.1",
            "an object identifier of one number": "1",
            "an object identifier with a needless zero": "1.02.3",
        }.items()
    },
    "a collection whose type is too long": (
        b'{"__cmwc_t":"a:%s","x":["a/b","QQ"]}' % (b"b" * 254),
        CmwError,
    ),
    "a label with a line end": (b'{"x\\n":["a/b","QQ"]}', CmwLabelError),
    "a part that is text": (b'{"x":"QQ"}', CmwError),
    "one level too many": (json.dumps(nested(MAX_DEPTH + 1)).encode(), CmwLimitError),
    "a thousand levels": (b'{"x":' * 1000 + b"1", CmwLimitError),
    "so many levels of arrays that no parser sees them": (b"[" * 2049, CmwLimitError),
    "levels of arrays": (b"[" * 1500, CmwError),
    "one part too many": (
        json.dumps({str(n): ["a/b", "QQ"] for n in range(MAX_RECORDS)}).encode(),
        CmwLimitError,
    ),
    "a million numbers": (b"[" + b"0," * 1_000_000 + b"0]", CmwLimitError),
    "too many bytes": (b" " * (MAX_SIZE + 1), CmwLimitError),
    "two wrappers": (b'["a/b","QQ"]["a/b","QQ"]', CmwError),
    "no UTF-8": (b'["a/b","QQ\xff"]', CmwError),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_json_that_is_no_wrapper_is_refused(case: str) -> None:
    """By the error that says why, and never by another one."""
    data, error = BAD_JSON[case]
    with pytest.raises(CmwError) as refused:
        decode(data)
    assert type(refused.value) is error


GOOD_CBOR = ["a/b", b"A"]
BAD_CBOR: dict[str, tuple[bytes, type[HwTrustError]]] = {
    "text where bytes should be": (cmw_cbor.encode(["a/b", "QQ"]), CmwError),
    "an empty value": (cmw_cbor.encode(["a/b", b""]), CmwError),
    "a label twice": (cmw_cbor.encode(Pairs([("x", GOOD_CBOR), ("x", GOOD_CBOR)])), CmwLabelError),
    "a label of bytes": (cmw_cbor.encode(Pairs([(b"x", GOOD_CBOR)])), CmwLabelError),
    "a label that is an array": (bytes.fromhex("a180") + b"\x60", CmwLimitError),
    "an indefinite array": (bytes.fromhex("9f63612f624141ff"), CmwError),
    "a tag": (bytes.fromhex("c1") + cmw_cbor.encode(GOOD_CBOR), CmwError),
    "a negative number": (bytes.fromhex("82204141"), CmwError),
    "true": (bytes.fromhex("f5"), CmwError),
    "a negative number that goes on like a map": (b"\x21\x61x\x82\x63a/b\x41A", CmwError),
    "a simple value that goes on like a map": (b"\xe1\x61x\x82\x63a/b\x41A", CmwError),
    "a length that is longer than it has to be": (
        bytes.fromhex("82") + b"\x78\x03a/b\x41A",
        CmwError,
    ),
    "a number that is longer than it has to be": (bytes.fromhex("82190000") + b"\x41A", CmwError),
    **{
        f"a number in {len(head) - 1} bytes that fits in fewer": (
            b"\x82" + head + b"\x41A",
            CmwError,
        )
        for head in map(bytes.fromhex, ("1817", "1900ff", "1a0000ffff", "1b00000000ffffffff"))
    },
    "a length that is reserved": (bytes.fromhex("821c4141"), CmwError),
    "an indicator of zero": (cmw_cbor.encode(["a/b", b"A", 0]), CmwError),
    "an indicator that is too large": (cmw_cbor.encode(["a/b", b"A", 1 << 32]), CmwError),
    "a type twice": (
        cmw_cbor.encode(Pairs([("__cmwc_t", "a:b"), ("__cmwc_t", "a:b"), ("x", GOOD_CBOR)])),
        CmwLabelError,
    ),
    "a text that is not UTF-8": (bytes.fromhex("8261ff4141"), CmwError),
    "cut short": (cmw_cbor.encode(GOOD_CBOR)[:-1], CmwError),
    "followed by something": (cmw_cbor.encode(GOOD_CBOR) + b"\0", CmwError),
    "an array of more than there may be parts": (
        b"\x98" + bytes([MAX_RECORDS + 1]) + bytes(MAX_RECORDS + 1),
        CmwLimitError,
    ),
    "a huge array": (bytes.fromhex("9bffffffffffffffff"), CmwLimitError),
    "a huge value": (b"\x82\x63a/b" + bytes.fromhex("5bffffffffffffffff"), CmwError),
    "levels without end": (b"\x81" * 100_000, CmwLimitError),
    "collections without end": (b"\xa1\x61x" * 100_000, CmwLimitError),
    "one level too many": (b"\xa1\x61x" * (MAX_DEPTH + 1) + b"\x82\x63a/b\x41A", CmwLimitError),
}


@pytest.mark.parametrize("case", BAD_CBOR)
def test_cbor_that_is_no_wrapper_is_refused(case: str) -> None:
    """Rule by rule."""
    data, error = BAD_CBOR[case]
    with pytest.raises(CmwError) as refused:
        decode(data)
    assert type(refused.value) is error


@pytest.mark.parametrize("number", [0, 23, 24, 255, 256, 65535])
def test_a_number_has_the_one_length_that_is_shortest(number: int) -> None:
    """At the bounds of each length, also of those that only indicators have."""
    for record in (
        Record(number, b"A"),
        Record("a/b", b"A", number or 1),
        Record("a/b", b"A", 65536 + number),
    ):
        assert decode(encode_cbor(record)) == record


@pytest.mark.parametrize("item", [True, None, -1, 1.5, 1 << 64, {}, (1,)], ids=repr)
def test_what_no_wrapper_has_is_not_written(item: object) -> None:
    """By mistake, say: nobody could read it."""
    with pytest.raises(CmwError):
        cmw_cbor.encode(["a/b", item])


def test_a_collection_is_what_it_was_when_it_was_checked() -> None:
    """Its parts stay, and none has the name of its type."""
    parts: dict[str | int, Record | Collection] = {"x": RECORD}
    found = Collection(parts)
    parts["y"] = RECORD
    assert list(found.items) == ["x"]
    with pytest.raises(TypeError):
        found.items["y"] = RECORD  # type: ignore[index]
    with pytest.raises(CmwLabelError):
        Collection({"__cmwc_t": RECORD})


def test_every_cut_of_a_wrapper_is_refused() -> None:
    """There is no wrapper that another one starts with."""
    for data in (encode_json(COLLECTION), encode_cbor(COLLECTION)):
        for end in range(len(data)):
            with pytest.raises(CmwError):
                decode(data[:end])


def test_a_message_of_another_type_is_refused() -> None:
    """A decoder is not given what was not meant for it."""
    with pytest.raises(CmwTypeError) as refused:
        RECORD.require(MediaType.TDX)
    assert refused.value.code == "wire:cmw:type"
    for wanted, found in (
        (MediaType.TPM, MediaType.TPM_QUOTE),
        (MediaType.TPM_QUOTE, MediaType.TPM),
        ("application/eat+cwt", "application/eat+cwtx"),
    ):
        with pytest.raises(CmwTypeError):
            Record(found, b"x").require(wanted)
    for label in ("gpu", "nothing"):
        with pytest.raises(CmwLabelError) as missing:
            COLLECTION.record(label)
        assert missing.value.code == "wire:cmw:label"


def test_as_deep_and_as_many_as_may_be_is_taken() -> None:
    """The bounds themselves are within them."""
    many = json.dumps({str(n): ["a/b", "QQ"] for n in range(MAX_RECORDS - 1)}).encode()
    for data, records in (
        (json.dumps(nested(MAX_DEPTH)).encode(), 1),
        (b"\xa1\x61x" * MAX_DEPTH + b"\x82\x63a/b\x41A", 1),
        (many, MAX_RECORDS - 1),
    ):
        found = decode(data)
        assert isinstance(found, Collection)
        assert len(list(found.records())) == records


def test_the_longest_and_largest_are_taken() -> None:
    """Types, labels, numbers and the whole wrapper at their bounds, in both encodings."""
    parameter = "a" * 61
    longest = f"{'a' * 60}/{'b' * 127};{parameter}=c"
    assert len(f"{longest}ccc") == 255
    parts: dict[str | int, Record | Collection] = {
        str(number): Record(0xFFFF, b"x", 0xFFFF_FFFF) for number in range(MAX_RECORDS - 2)
    }
    wrapped = Collection(parts | {"l" * 200: Record(f"{longest}ccc", b"x")}, f"a:{'b' * 253}")
    assert decode(encode_json(wrapped)) == wrapped
    assert decode(encode_cbor(wrapped)) == wrapped
    assert decode(encode_json(RECORD).rjust(MAX_SIZE)) == RECORD


def test_space_before_and_behind_json_is_passed_over() -> None:
    """As editors leave it there; CBOR has none."""
    assert decode(b" \t\r\n" + encode_json(RECORD) + b"\n") == RECORD
    with pytest.raises(CmwError):
        decode(b"\n" + encode_cbor(RECORD))
