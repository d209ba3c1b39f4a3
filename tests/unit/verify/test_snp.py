"""SEV-SNP reports: authentic means signed by a genuine chip, of that TCB, for this challenge.

Reports and certificates come from chips under test roots, with real signatures: what
is tried here is signed, as by a thief of a key, or mixed from what others have signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import (
    EmptyNonceError,
    HwTrustError,
    MalformedError,
    StaleQuoteError,
    UnsupportedError,
)
from hwtrust.errors.snp import (
    SnpChainError,
    SnpChipError,
    SnpMaskedChipError,
    SnpProductError,
    SnpSignatureError,
    SnpSignerError,
    SnpTcbError,
)
from hwtrust.verify.attestation import VERIFIED
from hwtrust.verify.enclaves import snp
from hwtrust.verify.enclaves.snp import ReportData, SnpClaims, SnpTrust, Unsafe, verify_snp
from hwtrust.wire.enclaves.snp import SIGNED_SIZE, Product, SigningKey, Tcb
from simulators.snp_signer import CSP, MEASUREMENT, NOW, REPORT_DATA, TCBS, Chip, integer, trust

MILAN, GENOA, TURIN = Chip(Product.MILAN), Chip(Product.GENOA), Chip(Product.TURIN)
KINDS = (SigningKey.VCEK, SigningKey.VLEK)
ORDER = snp._ORDER


def verify(
    report: bytes | None = None,
    *,
    chip: Chip = MILAN,
    certificates: Sequence[bytes] | None = None,
    report_data: ReportData = REPORT_DATA,
    now: datetime = NOW,
    trusted: SnpTrust | None = None,
    **options: Any,  # noqa: ANN401
) -> SnpClaims:
    """Verify a report, by default a good one of `chip`, with the chip's certificates."""
    return verify_snp(
        chip.report() if report is None else report,
        certificates=chip.certificates() if certificates is None else certificates,
        report_data=report_data,
        now=now,
        trust=trusted or trust(),
        **options,
    )


# --- what passes ----------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("product", list(Product))
def test_a_good_report_gives_what_the_chip_vouches_for(
    product: Product, kind: SigningKey, version: int
) -> None:
    """Of each product and version, under both kinds of key."""
    chip = Chip(product)
    claims = verify(chip.report(kind, version=version), certificates=chip.certificates(kind))
    assert claims.product is product
    assert claims.report.measurement == MEASUREMENT
    assert claims.reported_tcb == claims.launch_tcb == TCBS[product]
    assert claims.current_tcb == claims.committed_tcb == TCBS[product]
    assert claims.chip_id == (chip.hwid if kind is SigningKey.VCEK else b"")
    assert claims.csp_id == (CSP if kind is SigningKey.VLEK else "")
    assert claims.certificates[2] == chip.authority.ark.sha256


def test_each_tcb_is_taken_from_its_own_field() -> None:
    """What runs, what is committed and what was launched on may differ from what is reported."""
    others = [replace_level(n) for n in (30, 31, 32)]
    current, committed, launch = (tcb.encode(Product.MILAN) for tcb in others)
    report = MILAN.report(current_tcb=current, committed_tcb=committed, launch_tcb=launch)
    claims = verify(report)
    assert [claims.current_tcb, claims.committed_tcb, claims.launch_tcb] == others
    assert claims.reported_tcb == TCBS[Product.MILAN]


def replace_level(level: int) -> Tcb:
    """Milan's TCB with another level of SNP."""
    return msgspec.structs.replace(TCBS[Product.MILAN], snp=level)


def test_claims_are_told_with_what_the_certificates_add() -> None:
    """TCB versions as components, chip and provider."""
    facts = verify(TURIN.report(), chip=TURIN).facts()
    assert facts["product"] == "Turin"
    assert facts["chip_id"] == TURIN.hwid.hex()
    assert facts["reported_tcb"] == "fmc=1 bootloader=2 tee=3 snp=4 microcode=72"


def test_only_verification_makes_claims() -> None:
    """Neither by hand nor as a changed copy."""
    claims = verify()
    with pytest.raises(TypeError):
        msgspec.structs.replace(claims, product=Product.TURIN)
    fields = {name: getattr(claims, name) for name in claims.__struct_fields__}
    assert SnpClaims(**{**fields, "verified": VERIFIED}) == claims


# --- 2: signer ------------------------------------------------------------------------


def test_a_report_that_nothing_has_signed_is_refused() -> None:
    """Firmware leaves the signature out when it is configured so."""
    with pytest.raises(SnpSignerError) as caught:
        verify(MILAN.report(signing_key=SigningKey.NONE))
    assert caught.value.code == "evidence:snp:signer"


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_key_is_the_one_that_the_report_names(kind: SigningKey) -> None:
    """A chain of the other kind does not do, although it is a good one."""
    other = SigningKey(1 - kind)
    report = MILAN.report(signing_key=other, signer=MILAN.key(kind))
    with pytest.raises(SnpChainError):
        verify(report, certificates=MILAN.certificates(kind))
    # With both chains at hand, the key of the kind that is named must have signed.
    both = (*MILAN.certificates(kind), *MILAN.certificates(other))
    with pytest.raises(SnpSignatureError):
        verify(report, certificates=both)
    assert verify(MILAN.report(kind), certificates=both).report.signing_key is kind


# --- 4: signature ---------------------------------------------------------------------


def test_a_report_by_another_key_is_refused() -> None:
    """Also by the key of the same chip at another TCB version."""
    for signer in (
        ec.derive_private_key(5, ec.SECP384R1()),
        replace(MILAN, tcb=replace_level(23)).key(SigningKey.VCEK),
    ):
        with pytest.raises(SnpSignatureError) as caught:
            verify(MILAN.report(signer=signer))
        assert caught.value.code == "evidence:snp:signature"


@pytest.mark.parametrize("product", list(Product))
def test_each_bit_of_a_report_counts(product: Product) -> None:
    """All 1184 bytes: those that are not signed must be zero, or are the signature."""
    chip = Chip(product)
    report, certificates = chip.report(), chip.certificates()
    step = 1 if product is Product.TURIN else 37
    for bit in range(0, 8 * len(report), step):
        changed = bytearray(report)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HwTrustError) as caught:
            verify(bytes(changed), certificates=certificates, report_data=Unsafe.NO_REPORT_DATA)
        assert caught.value.code.startswith(("wire:", "evidence:snp"))


NUMBERS = {
    "r is zero": (0, 5),
    "s is zero": (5, 0),
    "r is the order": (ORDER, 5),
    "s is the order": (5, ORDER),
    "r fills its place": ((1 << 576) - 1, 5),
    "s fills its place": (5, (1 << 576) - 1),
}


@pytest.mark.parametrize(("r", "s"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_out_of_range_are_refused_before_any_arithmetic(
    r: int, s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a library makes of them does not matter."""
    report = MILAN.report()
    numbers = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    report = report[:SIGNED_SIZE] + numbers + report[SIGNED_SIZE + 144 :]
    monkeypatch.delattr(snp, "encode_dss_signature")
    with pytest.raises(SnpSignatureError):
        verify(report)


# --- 5: product -----------------------------------------------------------------------


def test_a_processor_of_another_line_than_the_root_is_refused() -> None:
    """A VCEK of Milan vouches for no Genoa."""
    with pytest.raises(SnpProductError) as caught:
        verify(MILAN.report(cpuid=(0x19, 0x11, 1)))
    assert caught.value.code == "evidence:snp:product"
    with pytest.raises(UnsupportedError):
        verify(MILAN.report(cpuid=(0x19, 0x77, 1)))
    # What version 2 does not tell, the root does.
    assert verify(MILAN.report(version=2)).product is Product.MILAN


# --- 6: TCB ---------------------------------------------------------------------------


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode", "fmc"])
@pytest.mark.parametrize("step", [-1, 1])
def test_another_tcb_than_the_certificates_is_refused(component: str, step: int) -> None:
    """Component by component, lower and higher: the chip does not get to claim its patches."""
    tcb = msgspec.structs.replace(
        TCBS[Product.TURIN], **{component: getattr(TCBS[Product.TURIN], component) + step}
    )
    with pytest.raises(SnpTcbError) as caught:
        verify(TURIN.report(reported_tcb=tcb.encode(Product.TURIN)), chip=TURIN)
    assert caught.value.code == "evidence:snp:tcb"


def test_a_tcb_in_another_products_order_is_refused() -> None:
    """Turin's levels at Milan's places are other levels."""
    tcb = bytes([2, 3, 0, 0, 0, 0, 4, 72])
    with pytest.raises(UnsupportedError):
        verify(TURIN.report(reported_tcb=tcb), chip=TURIN)


@pytest.mark.parametrize("field", ["reported_tcb", "current_tcb", "committed_tcb", "launch_tcb"])
def test_levels_of_unknown_components_are_refused(field: str) -> None:
    """In every TCB version of the report."""
    changes: dict[str, Any] = {field: bytes([4, 0, 0, 1, 0, 0, 24, 219])}
    with pytest.raises(UnsupportedError):
        verify(MILAN.report(**changes))


# --- 7: chip --------------------------------------------------------------------------


@pytest.mark.parametrize("chip", [MILAN, GENOA, TURIN], ids=lambda chip: str(chip.product))
def test_a_report_that_names_another_chip_is_refused(chip: Chip) -> None:
    """Though the key of the certificate has signed it."""
    other = replace(chip, seed=b"other").hwid.ljust(64, b"\0")
    with pytest.raises(SnpChipError) as caught:
        verify(chip.report(chip_id=other), chip=chip)
    assert caught.value.code == "evidence:snp:chip"
    # Nor is it enough that they begin alike.
    with pytest.raises(SnpChipError):
        verify(chip.report(chip_id=chip.hwid[:8].ljust(64, b"\x01")), chip=chip)


MASKS: dict[str, dict[str, Any]] = {
    "the id is zero": {"chip_id": bytes(64)},
    "the key is masked": {"mask_chip_key": True},
    "both": {"chip_id": bytes(64), "mask_chip_key": True},
}


@pytest.mark.parametrize("changes", MASKS.values(), ids=MASKS)
def test_a_masked_chip_is_refused_unless_the_caller_takes_any(changes: dict[str, Any]) -> None:
    """Whoever does so learns of no chip that was not shown."""
    report = MILAN.report(**changes)
    with pytest.raises(SnpMaskedChipError) as caught:
        verify(report)
    assert caught.value.code == "evidence:snp:chip:masked"
    claims = verify(report, unsafe_allow_masked_chip=True)
    assert claims.chip_id == (b"" if "chip_id" in changes else MILAN.hwid)


def test_a_chip_that_is_shown_is_compared_although_it_may_be_masked() -> None:
    """`unsafe_allow_masked_chip` allows no other chip."""
    report = MILAN.report(chip_id=b"\x01" * 64, mask_chip_key=True)
    with pytest.raises(SnpChipError):
        verify(report, unsafe_allow_masked_chip=True)


def test_a_vlek_knows_no_chip() -> None:
    """It belongs to a provider, masked or not."""
    certificates = MILAN.certificates(SigningKey.VLEK)
    for chip_id in (bytes(64), b"\x01" * 64):
        report = MILAN.report(SigningKey.VLEK, chip_id=chip_id, mask_chip_key=True)
        assert verify(report, certificates=certificates).chip_id == b""


# --- 8: report data -------------------------------------------------------------------


def test_another_report_data_is_refused() -> None:
    """A replay, or a report for something else; shorter ones are others too."""
    for data in (bytes(64), REPORT_DATA[:32], REPORT_DATA + b"\0"):
        with pytest.raises(StaleQuoteError) as caught:
            verify(report_data=data)
        assert caught.value.code == "evidence:nonce:mismatch"


def test_empty_report_data_is_refused() -> None:
    """Whoever wants none says so."""
    with pytest.raises(EmptyNonceError):
        verify(report_data=b"")
    assert verify(report_data=Unsafe.NO_REPORT_DATA).report.report_data == REPORT_DATA


# --- bytes from outside ---------------------------------------------------------------


@pytest.mark.parametrize("report", [b"", b"\0" * 1184, b"\xff" * 1184, b"\x02" * 99])
def test_bytes_that_are_no_report_are_refused_with_a_coded_error(report: bytes) -> None:
    """Nothing else leaves the library."""
    with pytest.raises((MalformedError, UnsupportedError)):
        verify(report)


def test_a_certificate_for_an_older_tcb_does_not_do() -> None:
    """The host cannot show today's certificate with yesterday's firmware, or the reverse."""
    older = replace(MILAN, tcb=replace_level(20))
    with pytest.raises(SnpSignatureError):
        verify(certificates=older.certificates())
    # Nor if the host had the key: the levels differ as well.
    stated = MILAN.certificate(change={"3.3": integer(20)})
    with pytest.raises(SnpTcbError):
        verify(certificates=(stated, *MILAN.certificates()[1:]))
