"""Quotes and collateral are read whole or not at all, and what they say is believed by nobody."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import HwTrustError, MalformedError, UnsupportedError
from hwtrust.wire.enclaves.dcap import (
    MAX_COLLATERAL,
    MAX_QUOTE,
    PCK_CHAIN,
    Collateral,
    EnclaveReport,
    Quote,
    TcbInfo,
    TdReport,
    Tee,
)
from simulators.dcap_signer import TEE_TCB_SVN, DcapSigner, enclave_report, td_report

if TYPE_CHECKING:
    from collections.abc import Callable

INTEL = DcapSigner()
SGX = INTEL.sgx()
TDX = INTEL.tdx()
TDX_5 = INTEL.tdx(version=5)
TDX_15 = INTEL.tdx(td_report(tee_tcb_svn2=TEE_TCB_SVN, mr_service_td=b"s" * 48), version=5)
QUOTES = {"SGX 3": SGX, "TDX 4": TDX, "TDX 5": TDX_5, "TDX 5 of TDX 1.5": TDX_15}


@pytest.mark.parametrize(
    ("raw", "version", "tee", "size"),
    [
        (SGX, 3, Tee.SGX, 48 + 384),
        (TDX, 4, Tee.TDX, 48 + 584),
        (TDX_5, 5, Tee.TDX, 48 + 6 + 584),
        (TDX_15, 5, Tee.TDX, 48 + 6 + 648),
    ],
    ids=QUOTES,
)
def test_a_quote_is_read_in_all_its_parts(raw: bytes, version: int, tee: Tee, size: int) -> None:
    """What is signed is the beginning of what was received."""
    quote = Quote.decode(raw)
    assert (quote.version, quote.tee) == (version, tee)
    assert quote.raw == raw
    assert quote.signed == raw[:size]
    assert quote.signature == raw[size + 4 : size + 68]
    assert quote.certification_type == PCK_CHAIN
    assert quote.certification_data == INTEL.chain
    assert quote.qe_report.isv_svn == 8
    assert quote.qe_auth_data == bytes(range(32))
    assert quote.padding == 0


def test_each_field_of_an_enclaves_report_is_where_it_belongs() -> None:
    """No two fields are mixed up."""
    fields: dict[str, int | bytes] = {
        "cpu_svn": b"a" * 16,
        "misc_select": 1,
        "isv_ext_prod_id": b"b" * 16,
        "attributes": 2,
        "xfrm": 3,
        "mr_enclave": b"c" * 32,
        "mr_signer": b"d" * 32,
        "config_id": b"e" * 64,
        "isv_prod_id": 4,
        "isv_svn": 5,
        "config_svn": 6,
        "isv_family_id": b"f" * 16,
        "report_data": b"g" * 64,
    }
    report = EnclaveReport.decode(enclave_report(**fields))
    assert {name: getattr(report, name) for name in fields} == fields


def test_each_field_of_a_tds_report_is_where_it_belongs() -> None:
    """No two fields are mixed up, and those of TDX 1.5 are empty in one of 1.0."""
    fields: dict[str, int | bytes] = {
        "tee_tcb_svn": b"a" * 16,
        "mr_seam": b"b" * 48,
        "mr_signer_seam": b"c" * 48,
        "seam_attributes": 1,
        "td_attributes": 2,
        "xfam": 3,
        "mr_td": b"d" * 48,
        "mr_config_id": b"e" * 48,
        "mr_owner": b"f" * 48,
        "mr_owner_config": b"g" * 48,
        "rtmr0": b"h" * 48,
        "rtmr1": b"i" * 48,
        "rtmr2": b"j" * 48,
        "rtmr3": b"k" * 48,
        "report_data": b"l" * 64,
    }
    of_15: dict[str, int | bytes] = {"tee_tcb_svn2": b"m" * 16, "mr_service_td": b"n" * 48}
    old = TdReport.decode(td_report(**fields))
    new = TdReport.decode(td_report(**fields, **of_15))
    assert {name: getattr(old, name) for name in fields} == fields
    assert (old.tee_tcb_svn2, old.mr_service_td) == (b"", b"")
    assert {name: getattr(new, name) for name in fields | of_15} == fields | of_15
    assert new.rtmrs == (b"h" * 48, b"i" * 48, b"j" * 48, b"k" * 48)


@pytest.mark.parametrize("raw", QUOTES.values(), ids=QUOTES)
def test_zeros_behind_a_quote_are_padding(raw: bytes) -> None:
    """Quote providers leave them there; they are no part of the quote."""
    padded = Quote.decode(raw + bytes(70))
    assert padded.padding == 70
    assert padded.raw == raw


@pytest.mark.parametrize("raw", QUOTES.values(), ids=QUOTES)
def test_a_quote_that_is_cut_short_anywhere_is_refused(raw: bytes) -> None:
    """Every size is compared with what is there."""
    for size in (*range(0, 1300, 7), *range(1300, len(raw), 101), len(raw) - 1):
        with pytest.raises(HwTrustError):
            Quote.decode(raw[:size])


def resized(raw: bytes, at: int, by: int) -> bytes:
    """The quote with the u32 at `at` changed by `by`."""
    (size,) = struct.unpack_from("<I", raw, at)
    return raw[:at] + struct.pack("<I", (size + by) & 0xFFFF_FFFF) + raw[at + 4 :]


MALFORMED: dict[str, Callable[[], bytes]] = {
    "something behind it that is not zero": lambda: SGX + b"\0" * 9 + b"x",
    "signature data that is larger than the rest": lambda: resized(SGX, 48 + 384, 1),
    "signature data that ends before the certificates do": lambda: resized(TDX, 48 + 584, -1),
    "certificates that end before the signature data do": lambda: resized(SGX + b"\1", 48 + 384, 1),
    "enormous signature data": lambda: resized(SGX, 48 + 384, -(2**31)),
    "a reserved byte of the enclave's report": lambda: INTEL.sgx(
        enclave_report(reserved=b"\1" + bytes(11))
    ),
    "another reserved byte of it": lambda: INTEL.sgx(enclave_report(reserved2=b"\1" * 32)),
    "a third reserved byte of it": lambda: INTEL.sgx(enclave_report(reserved3=b"\1" * 32)),
    "a fourth reserved byte of it": lambda: INTEL.sgx(enclave_report(reserved4=b"\1" * 42)),
    "a reserved byte of the quoting enclave's report": lambda: INTEL.tdx(
        qe={"reserved4": b"\1" * 42}
    ),
    "more bytes than the kernel would give": lambda: SGX + bytes(MAX_QUOTE),
    "nothing at all": lambda: b"",
}


@pytest.mark.parametrize("make", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_quote_is_refused(make: Callable[[], bytes]) -> None:
    """Nothing is read past what is understood."""
    with pytest.raises(MalformedError) as caught:
        Quote.decode(make())
    assert caught.value.code == "wire:malformed"


UNSUPPORTED: dict[str, Callable[[], bytes]] = {
    "of version 2": lambda: INTEL.sgx(header={"version": 2}),
    "of version 6": lambda: INTEL.tdx(header={"version": 6}),
    "of SGX in version 4": lambda: INTEL.tdx(header={"tee": 0}),
    "of TDX in version 3": lambda: INTEL.sgx(header={"tee": 0x81}),
    "of an unknown TEE": lambda: INTEL.tdx(header={"tee": 0x82}),
    "signed over P-384": lambda: INTEL.tdx(header={"key_type": 3}),
    "with an enclave's body in version 5": lambda: INTEL.tdx(version=5, body=(1, 384)),
    "with a body of another size than its type": lambda: INTEL.tdx(version=5, body=(3, 584)),
    "with an unknown body": lambda: INTEL.tdx(version=5, body=(9, 584)),
    "without the report of a quoting enclave": lambda: INTEL.tdx(nested=5),
}


@pytest.mark.parametrize("make", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_a_quote_of_another_kind_is_refused(make: Callable[[], bytes]) -> None:
    """What is not known is not guessed at."""
    with pytest.raises(UnsupportedError) as caught:
        Quote.decode(make())
    assert caught.value.code == "wire:unsupported"


@given(st.sampled_from(list(QUOTES.values())), st.data())
def test_no_change_of_a_quote_raises_anything_else(raw: bytes, data: st.DataObject) -> None:
    """Bytes from outside raise errors of the tree, or are read."""
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + data.draw(st.binary(max_size=8)) + raw[at + data.draw(st.integers(0, 8)) :]
    try:
        Quote.decode(changed)
    except HwTrustError:
        return


@given(st.binary(max_size=2000))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    """The same of quotes and collateral, for any bytes."""
    for decode in (Quote.decode, Collateral.decode):
        with pytest.raises(HwTrustError):
            decode(raw)


def test_the_facts_of_a_quote_are_in_its_terms() -> None:
    """Byte strings are hex, sets of bits are spelled as numbers in hex."""
    facts = Quote.decode(TDX).facts()
    assert facts["tee"] == "tdx"
    assert facts["mr_td"] == Quote.decode(TDX).report.facts()["mr_td"]
    assert facts["td_attributes"] == "0x0000000010000000"
    assert facts["xfam"] == "0x00000000000602e7"
    assert "mr_service_td" not in facts
    assert Quote.decode(SGX).facts()["isv_prod_id"] == 7
    assert Quote.decode(SGX).facts()["misc_select"] == "0x00000000"


# --- collateral ----------------------------------------------------------------------

JSON = INTEL.collateral("tdx")


def test_collateral_is_read_and_written_as_json() -> None:
    """Chains as text, lists and signatures as bytes."""
    collateral = Collateral.decode(JSON)
    assert collateral.tcb_info == json.loads(JSON)["tcb_info"]
    assert collateral.pck_crl == bytes.fromhex(json.loads(JSON)["pck_crl"])
    assert Collateral.decode(collateral.encode()) == collateral
    facts = collateral.facts()
    assert facts["tcb_info_fmspc"] == "B0C06F000000"
    assert facts["qe_identity_next_update"] == "2026-06-16T00:00:00Z"


def test_a_chain_of_the_platform_in_collateral_is_not_looked_at() -> None:
    """The one in the quote counts; whoever sends collateral must not replace it."""
    other = DcapSigner(seed="other").chain.decode()
    changed = json.dumps(json.loads(JSON) | {"pck_certificate_chain": other}).encode()
    assert Collateral.decode(changed) == Collateral.decode(JSON)


BAD_COLLATERAL = {
    "no JSON": b"{",
    "a list": b"[]",
    "without a field": json.dumps({**json.loads(JSON), "pck_crl": None}).encode(),
    "with a list that is not hex": json.dumps({**json.loads(JSON), "pck_crl": "zz"}).encode(),
    "nested without end": b"[" * 5000,
    "not in UTF-8": b'{"pck_crl":"\xff"}',
    "too long": JSON + b" " * MAX_COLLATERAL,
}


@pytest.mark.parametrize("raw", BAD_COLLATERAL.values(), ids=BAD_COLLATERAL)
def test_bad_collateral_is_refused(raw: bytes) -> None:
    """With an error of the tree, whatever it is."""
    with pytest.raises(MalformedError):
        Collateral.decode(raw)


def test_collateral_whose_parts_cannot_be_read_says_so_in_its_facts() -> None:
    """To show it is not to verify it."""
    changed = json.dumps(json.loads(JSON) | {"tcb_info": "[]", "qe_identity": "["}).encode()
    assert Collateral.decode(changed).facts() == {
        "tcb_info": "cannot be read",
        "qe_identity": "cannot be read",
    }


def test_tcb_info_that_is_none_is_refused() -> None:
    """An error of the tree."""
    for text in ("{}", "[", "[]"):
        with pytest.raises(MalformedError):
            TcbInfo.decode(text)


@pytest.mark.parametrize("size", [0, 583, 585, 647, 649])
def test_a_report_of_another_size_is_none(size: int) -> None:
    """There are two kinds of a TD's report, and nothing between them."""
    with pytest.raises(MalformedError):
        TdReport.decode(bytes(size))
    with pytest.raises(MalformedError):
        EnclaveReport.decode(bytes(size))
