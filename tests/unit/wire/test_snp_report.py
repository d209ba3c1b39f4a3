"""SEV-SNP reports and certificate tables: read as the ABI says, or refused with a coded error."""

from __future__ import annotations

import struct
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import MalformedError, UnsupportedError, WireError
from hwtrust.wire.enclaves.snp import (
    ARK,
    ASK,
    CRL,
    ENTRIES_LIMIT,
    SIGNED_SIZE,
    SIZE,
    TABLE_LIMIT,
    VCEK,
    CertificateTable,
    Firmware,
    Product,
    SigningKey,
    SnpReport,
    Tcb,
)
from simulators.snp_signer import POLICY, REPORT_DATA, TCBS, Chip

MILAN, TURIN = Chip(Product.MILAN), Chip(Product.TURIN)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("product", list(Product))
def test_what_is_read_and_written_again_is_the_same(product: Product, version: int) -> None:
    """Every byte of a report is in a field, or is zero."""
    raw = Chip(product).report(version=version)
    report = SnpReport.decode(raw)
    assert report.encode() == report.raw == raw
    assert report.signed == raw[:SIGNED_SIZE]
    assert report.version == version


def test_each_field_is_read_from_its_place_in_the_abi() -> None:
    """Offsets of 56860 §7.3, written out."""
    changed = bytearray(MILAN.report())
    changed[0x188:0x18B] = bytes([0x19, 0x11, 2])
    changed[0x1E8:0x1EF] = bytes([40, 55, 1, 0, 39, 54, 2])
    raw = bytes(changed)
    report = SnpReport.decode(raw)
    assert report.guest_svn == int.from_bytes(raw[4:8], "little") == 3
    assert report.policy == int.from_bytes(raw[8:16], "little") == POLICY
    assert (report.family_id, report.image_id) == (raw[0x10:0x20], raw[0x20:0x30])
    assert report.vmpl == raw[0x30] == 1
    assert report.platform_info == raw[0x40]
    assert report.report_data == raw[0x50:0x90] == REPORT_DATA
    assert report.measurement == raw[0x90:0xC0]
    assert report.host_data == raw[0xC0:0xE0]
    assert report.id_key_digest == raw[0xE0:0x110]
    assert report.author_key_digest == raw[0x110:0x140]
    assert (report.report_id, report.report_id_ma) == (raw[0x140:0x160], raw[0x160:0x180])
    assert report.reported_tcb == raw[0x180:0x188]
    assert report.cpuid == (0x19, 0x11, 2)
    assert report.chip_id == raw[0x1A0:0x1E0]
    assert report.committed_tcb == raw[0x1E0:0x1E8]
    assert report.current_firmware == Firmware(1, 55, 40)
    assert report.committed_firmware == Firmware(2, 54, 39)
    assert report.launch_tcb == raw[0x1F0:0x1F8]
    assert (report.launch_mit_vector, report.current_mit_vector) == (raw[0x1F8], raw[0x200])
    assert report.signature_r == raw[0x2A0:0x2E8]
    assert report.signature_s == raw[0x2E8:0x330]


@pytest.mark.parametrize(
    ("at", "versions"),
    [
        (0x4C, (2, 5)),
        (0x188, (2,)),
        (0x18A, (2,)),
        (0x18B, (2, 3, 5)),
        (0x19F, (2, 5)),
        (0x1EB, (2, 5)),
        (0x1EF, (2, 5)),
        (0x1F8, (2, 3, 4)),
        (0x207, (2, 3, 4)),
        (0x208, (2, 5)),
        (0x29F, (2, 5)),
        (SIGNED_SIZE + 144, (2, 5)),
        (SIZE - 1, (2, 5)),
    ],
)
def test_what_must_be_zero_is_refused_otherwise(at: int, versions: tuple[int, ...]) -> None:
    """Also where the signature does not reach, and in each version by its own rules."""
    for version in versions:
        with pytest.raises(MalformedError):
            SnpReport.decode(MILAN.patched(at, b"\x01", version=version))


CHANGES = {
    "version 1": (0, b"\x01", UnsupportedError),
    "version 6": (0, b"\x06", UnsupportedError),
    "version 2 with a high byte": (3, b"\x01", UnsupportedError),
    "no signature algorithm": (0x34, b"\x00", UnsupportedError),
    "another signature algorithm": (0x34, b"\x02", UnsupportedError),
    "a policy bit that is not known": (8 + 3, b"\x04", UnsupportedError),
    "the last policy bit": (8 + 7, b"\x80", UnsupportedError),
    "a policy without the bit that is always set": (8 + 2, b"\x01", MalformedError),
    "a reserved kind of key": (0x48, bytes([2 << 2]), UnsupportedError),
    "reserved bits of the key info": (0x48, b"\x20", MalformedError),
}


@pytest.mark.parametrize(("at", "value", "error"), CHANGES.values(), ids=CHANGES)
def test_what_is_not_known_is_refused(at: int, value: bytes, error: type[WireError]) -> None:
    """It would mean something that hwtrust does not judge."""
    with pytest.raises(error) as caught:
        SnpReport.decode(MILAN.patched(at, value))
    assert caught.value.code == error.code


@pytest.mark.parametrize("size", [0, 1, SIGNED_SIZE, SIZE - 1, SIZE + 1, 2 * SIZE])
def test_another_size_is_refused(size: int) -> None:
    """The report is the whole of what is read."""
    with pytest.raises(MalformedError):
        SnpReport.decode(MILAN.report().ljust(size, b"\0")[:size])


CPUIDS = {
    (0x19, 0x00): Product.MILAN,
    (0x19, 0x0F): Product.MILAN,
    (0x19, 0x10): Product.GENOA,
    (0x19, 0x1F): Product.GENOA,
    (0x19, 0xA0): Product.GENOA,
    (0x19, 0xAF): Product.GENOA,
    (0x1A, 0x00): Product.TURIN,
    (0x1A, 0x11): Product.TURIN,
}


@pytest.mark.parametrize(("cpuid", "product"), CPUIDS.items())
def test_the_processor_tells_the_product(cpuid: tuple[int, int], product: Product) -> None:
    """Siena and Bergamo are of Genoa's line."""
    fields = MILAN.fields()
    assert msgspec.structs.replace(fields, cpuid=(*cpuid, 1)).product is product


@pytest.mark.parametrize("cpuid", [(0x19, 0x20), (0x19, 0xB0), (0x1A, 0x12), (0x17, 0x01)])
def test_an_unknown_processor_is_refused(cpuid: tuple[int, int]) -> None:
    """Its TCB may be in another order."""
    with pytest.raises(UnsupportedError):
        _ = msgspec.structs.replace(MILAN.fields(), cpuid=(*cpuid, 1)).product
    assert MILAN.fields(version=2).product is None


def test_bits_are_told_by_their_names() -> None:
    """Of policy, platform and key info."""
    report = SnpReport.decode(
        MILAN.report(
            policy=POLICY | 1 << 19 | 1 << 20,
            platform_info=0x1FF,
            author_key_en=False,
            mask_chip_key=True,
            signing_key=SigningKey.NONE,
        )
    )
    assert report.debug
    assert report.policy_names == {"smt", "debug", "single_socket"}
    assert report.abi_minimum == (1, 55)
    assert len(report.platform_names) == 8
    assert (report.author_key_en, report.mask_chip_key) == (False, True)
    assert report.signing_key is SigningKey.NONE
    facts = report.facts()
    assert facts["debug"] is True
    assert facts["signing_key"] == "none"
    assert facts["policy_bits"] == ["debug", "single_socket", "smt"]
    assert facts["report_data"] == REPORT_DATA.hex()


@pytest.mark.parametrize("field", ["guest_svn", "vmpl", "platform_info", "launch_mit_vector"])
def test_a_number_that_does_not_fit_is_not_written(field: str) -> None:
    """It is refused as malformed, not cut."""
    with pytest.raises(MalformedError):
        msgspec.structs.replace(MILAN.fields(), **{field: 1 << 64}).encode()


# --- TCB versions ----------------------------------------------------------------------


def test_the_order_of_a_tcb_is_the_products() -> None:
    """The same bytes are other levels on Turin."""
    raw = bytes([1, 2, 0, 0, 0, 0, 3, 4])
    expected = Tcb(bootloader=1, tee=2, snp=3, microcode=4)
    assert Tcb.decode(raw, Product.MILAN) == Tcb.decode(raw, Product.GENOA) == expected
    turin = Tcb.decode(bytes([1, 2, 3, 4, 0, 0, 0, 5]), Product.TURIN)
    assert turin == Tcb(fmc=1, bootloader=2, tee=3, snp=4, microcode=5)


@pytest.mark.parametrize("product", list(Product))
def test_a_tcb_is_written_as_it_was_read(product: Product) -> None:
    """In the product's order."""
    tcb = TCBS[product]
    assert Tcb.decode(tcb.encode(product), product) == tcb


@pytest.mark.parametrize(
    ("product", "reserved"),
    [(Product.MILAN, (2, 3, 4, 5)), (Product.GENOA, (2, 5)), (Product.TURIN, (4, 5, 6))],
)
def test_levels_in_reserved_places_are_refused(product: Product, reserved: tuple[int, ...]) -> None:
    """They are of components that are not known."""
    for at in reserved:
        raw = bytearray(8)
        raw[at] = 1
        with pytest.raises(UnsupportedError):
            Tcb.decode(bytes(raw), product)
    with pytest.raises(MalformedError):
        Tcb.decode(bytes(7), product)


def test_a_tcb_that_the_product_does_not_have_is_not_written() -> None:
    """A level above a byte, or Turin's component elsewhere."""
    with pytest.raises(MalformedError):
        Tcb(fmc=1, bootloader=0, tee=0, snp=0, microcode=0).encode(Product.MILAN)
    with pytest.raises(MalformedError):
        Tcb(bootloader=256, tee=0, snp=0, microcode=0).encode(Product.MILAN)


def test_floors_hold_for_each_component() -> None:
    """A higher one does not make up for a lower one."""
    floor = Tcb(fmc=1, bootloader=2, tee=3, snp=4, microcode=5)
    assert not floor.below(floor)
    assert Tcb(fmc=9, bootloader=9, tee=2, snp=9, microcode=4).below(floor) == ["tee", "microcode"]


# --- the certificate table -------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.uuids().filter(lambda guid: guid.int), st.binary(max_size=60)), max_size=9
    )
)
def test_any_table_is_read_as_it_was_written(entries: list[tuple[UUID, bytes]]) -> None:
    """Also one with unknown or empty entries, and with padding to a page behind it."""
    table = CertificateTable(tuple(entries))
    assert CertificateTable.decode(table.encode()) == table
    if entries:
        assert CertificateTable.decode(table.encode().ljust(4096, b"\0")) == table


def test_a_table_gives_the_certificates_of_the_chain() -> None:
    """And neither revocation lists nor what is unknown or empty."""
    entries = ((CRL, b"crl"), (ARK, b"ark"), (UUID(int=5), b"?"), (VCEK, b"leaf"), (ASK, b""))
    table = CertificateTable(entries)
    assert table.certificates == (b"ark", b"leaf")
    facts = table.facts()["entries"]
    assert isinstance(facts, list)
    assert facts[:2] == ["crl (3 bytes)", "ark (3 bytes)"]


def _entry(offset: int, size: int) -> bytes:
    return VCEK.bytes + struct.pack("<II", offset, size)


TABLES = {
    "no end": _entry(24, 0),
    "less than an entry": b"\0" * 23,
    "an offset into the header": _entry(24, 4) + bytes(24) + b"leaf",
    "an offset behind the end": _entry(0xFFFFFFFF, 1) + bytes(24),
    "a size beyond the end": _entry(48, 5) + bytes(24) + b"leaf",
    "an offset and size that overflow together": _entry(0xFFFFFFFF, 0xFFFFFFFF) + bytes(24),
    "too many entries": _entry(24 * 40, 0) * (ENTRIES_LIMIT + 1) + bytes(24 * 40),
    "too large": bytes(TABLE_LIMIT + 1),
}


@pytest.mark.parametrize("raw", TABLES.values(), ids=TABLES)
def test_a_table_that_does_not_hold_together_is_refused(raw: bytes) -> None:
    """The host writes it, and the host is not trusted."""
    with pytest.raises(MalformedError):
        CertificateTable.decode(raw)


def test_guids_are_in_the_order_of_rfc_4122() -> None:
    """As GHCB 2.03 has them and hosts write them."""
    assert CertificateTable(((VCEK, b"x"),)).encode()[:4] == bytes.fromhex("63da758d")
