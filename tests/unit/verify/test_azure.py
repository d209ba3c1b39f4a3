"""A vTPM is believed as far as a genuine TEE vouches for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from hwtrust.errors import (
    EmptyNonceError,
    HwTrustError,
    MalformedError,
    PcrDigestError,
    SelectionError,
    StaleQuoteError,
    WeakKeyError,
)
from hwtrust.errors.azure import (
    AzureKeyError,
    AzureQuoteError,
    AzureRuntimeDataError,
    AzureTeeError,
    AzureUserDataError,
    AzureVmplError,
)
from hwtrust.errors.dcap import DcapError
from hwtrust.errors.snp import SnpError
from hwtrust.verify.attestation import Unsafe as AnyQuote
from hwtrust.verify.enclaves.azure import AzureClaims, Unsafe, verify_azure
from hwtrust.verify.enclaves.azure_rules import FINDINGS, AzureRules, appraise_azure
from hwtrust.verify.enclaves.snp_rules import SnpRules, appraise_snp
from hwtrust.verify.enclaves.tdx_rules import TdxRules, appraise_tdx
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.enclaves.azure import TeeKind
from hwtrust.wire.structures import PcrSelection
from simulators.azure_vtpm import NOW, PCRS, AzureVm, framed, jwk, rsa_key
from simulators.snp_signer import Chip

NONCE = bytes(range(32))
USER_DATA = b"u" * 40
VMS = {kind.name: AzureVm(kind=kind) for kind in TeeKind}
SNP = VMS["SNP"]
TDX = VMS["TDX"]
SELECTION = PcrSelection(((Alg.SHA256, tuple(range(24))),))
UNTRUSTED = timedelta(days=365 * 30)


def verify(vm: AzureVm = SNP, report: bytes | None = None, **changes: Any) -> AzureClaims:  # noqa: ANN401
    """Verify as the good evidence of `vm` is, but for `changes`."""
    report = vm.hcl_report(vm.runtime_data(user_data=USER_DATA)) if report is None else report
    quote = vm.bare_quote(NONCE)
    arguments: dict[str, Any] = {
        "message": quote.message,
        "signature": quote.signature,
        "tee": vm.tee(report),
        "nonce": NONCE,
        "user_data": USER_DATA,
        "selection": SELECTION,
        "pcrs": PCRS,
        "now": NOW,
    }
    return verify_azure(report, **(arguments | changes))


def refused(error: type[HwTrustError], *arguments: Any, **changes: Any) -> str:  # noqa: ANN401
    """The code of the refusal, which is of exactly that class."""
    with pytest.raises(error) as refusal:
        verify(*arguments, **changes)
    assert type(refusal.value) is error
    return refusal.value.code


@pytest.mark.parametrize("kind", VMS)
def test_good_evidence_is_believed(kind: str) -> None:
    """From the TEE down to the PCR values, with the signature in either form."""
    vm = VMS[kind]
    for quote in (vm.quote(NONCE), vm.bare_quote(NONCE)):
        claims = verify(vm, message=quote.message, signature=quote.signature)
        assert claims.quote.nonce == NONCE
        assert dict(claims.quote.pcrs[Alg.SHA256]) == PCRS[Alg.SHA256]
        assert claims.runtime_data.user_bytes == USER_DATA.ljust(64, b"\0")
        facts = claims.facts()
        assert facts["tee"] == kind.lower()
        assert facts["secure_boot"] is True
        assert any(name.startswith("tee_") for name in facts)


@pytest.mark.parametrize("hash_", [1, 2, 3])
def test_the_runtime_data_may_be_hashed_in_three_ways(hash_: int) -> None:
    """As the report names the hash; the digest is what the TEE signed."""
    report = SNP.hcl_report(SNP.runtime_data(user_data=USER_DATA), hash_=hash_)
    assert verify(SNP, report).quote.nonce == NONCE


def test_claims_are_made_here_alone() -> None:
    """Nobody else says that a TEE vouches for a vTPM."""
    with pytest.raises(TypeError):
        msgspec.structs.replace(verify(), runtime_data=verify().runtime_data)


@pytest.mark.parametrize("kind", VMS)
def test_a_quote_of_another_vtpm_is_refused(kind: str) -> None:
    """Adversary 92: the AK is not the one in the TEE's report."""
    vm = VMS[kind]
    other = replace(vm, ak="other-ak")
    for quote in (other.quote(NONCE), other.bare_quote(NONCE)):
        code = refused(AzureQuoteError, vm, message=quote.message, signature=quote.signature)
        assert code == "azure:quote:signature"
    assert verify(other).quote.nonce == NONCE


@pytest.mark.parametrize("kind", VMS)
def test_runtime_data_that_the_tee_does_not_vouch_for_are_refused(kind: str) -> None:
    """Adversaries 85, 92: another key, or configuration, beside an authentic report."""
    vm = VMS[kind]
    own = vm.runtime_data(user_data=USER_DATA)
    good = vm.hcl_report(own)
    other = replace(vm, ak="other-ak").runtime_data(user_data=USER_DATA)
    for data in (other, own.replace(b"true", b"fals"), own + b" "):
        report = framed(good[32:1216], data, kind=int(vm.kind))
        code = refused(AzureRuntimeDataError, vm, report, tee=vm.tee(good))
        assert code == "azure:runtime-data:mismatch"


def test_the_whole_report_data_count() -> None:
    """Zeros stand behind the digest; a half of anybody's choice would bind nothing."""
    data = SNP.runtime_data(user_data=USER_DATA)
    digest = SNP.hcl_report(data)[32 + 0x50 :][:32]
    assert verify(SNP, SNP.hcl_report(data, report_data=digest)).quote.nonce == NONCE
    report = SNP.hcl_report(data, report_data=digest + b"x")
    assert refused(AzureRuntimeDataError, SNP, report)


def test_a_td_quote_of_another_report_is_refused() -> None:
    """The quote, and not the TDREPORT beside it, is what Intel vouches for."""
    report = TDX.hcl_report(TDX.runtime_data(user_data=USER_DATA))
    assert refused(AzureRuntimeDataError, TDX, report, tee=TDX.tee(report, quoted=bytes(64)))


def test_a_report_that_the_guest_made_itself_is_refused() -> None:
    """Adversary 87: above VMPL 0, the guest chooses what its reports are over."""
    for vmpl in (1, 2, 3):
        assert refused(AzureVmplError, replace(SNP, vmpl=vmpl)) == "azure:vmpl"


def test_the_tee_is_verified_by_the_rules_of_its_kind() -> None:
    """Another chip's certificate, another day, another kind of collateral."""
    other = replace(SNP, chip=Chip(SNP.chip.product, seed=b"other"))
    report = SNP.hcl_report()
    with pytest.raises(SnpError):
        verify(SNP, tee=other.tee(report))
    with pytest.raises(SnpError):
        verify(SNP, now=NOW + UNTRUSTED)
    with pytest.raises(DcapError):
        verify(TDX, now=NOW + UNTRUSTED)
    tdx_report = TDX.hcl_report()
    assert refused(AzureTeeError, SNP, tee=TDX.tee(tdx_report)) == "azure:tee:mismatch"
    assert refused(AzureTeeError, TDX, tee=SNP.tee(report)) == "azure:tee:mismatch"


def test_a_quote_is_verified_as_every_quote() -> None:
    """Adversaries 14, 17, 22, 24, 27, 93."""
    assert refused(StaleQuoteError, nonce=NONCE[::-1]) == "evidence:nonce:mismatch"
    assert refused(EmptyNonceError, nonce=b"") == "evidence:nonce:empty"
    assert verify(nonce=AnyQuote.NO_NONCE).quote.nonce == NONCE
    assert refused(SelectionError, selection=PcrSelection.parse("sha256:0"))
    pcrs = {Alg.SHA256: PCRS[Alg.SHA256] | {7: bytes(32)}}
    assert refused(PcrDigestError, pcrs=pcrs) == "evidence:pcrs:mismatch"
    assert refused(PcrDigestError, pcrs={}) == "evidence:pcrs:mismatch"
    with pytest.raises(MalformedError):
        verify(SNP, b"")
    for empty in ("message", "signature"):
        with pytest.raises(HwTrustError) as refusal:
            verify(SNP, None, **{empty: b""})
        assert refusal.value.code == "wire:malformed"


def test_other_user_data_than_asked_for_are_refused() -> None:
    """Adversary 85: the TEE vouched for another caller's."""
    for other in (USER_DATA[:-1], USER_DATA + b"u", USER_DATA.ljust(65, b"\0"), bytes(64)):
        assert refused(AzureUserDataError, user_data=other) == "azure:user-data:mismatch"
    assert refused(EmptyNonceError, user_data=b"") == "evidence:nonce:empty"
    assert verify(user_data=Unsafe.ANY_USER_DATA).quote.nonce == NONCE
    assert verify(SNP, SNP.hcl_report(), user_data=bytes(64)).quote.nonce == NONCE


AK = jwk(rsa_key("ak").public_key(), "HCLAkPub")
BAD_KEYS = {
    "none": [],
    "another name": [AK | {"kid": "HCLEkPub"}],
    "two of that name": [AK, AK],
    "an elliptic-curve key": [AK | {"kty": "EC"}],
    "no modulus": [AK | {"n": ""}],
    "a modulus that is no base64": [AK | {"n": "a="}],
    "a modulus with line ends": [AK | {"n": f"{AK['n']}\n\n\n\n"}],
    "a modulus in the other alphabet": [AK | {"n": f"{AK['n']}+/+/"}],
    "a modulus cut within a byte": [AK | {"n": "aaaaa"}],
    "an even exponent": [AK | {"e": "Ag"}],
    "an exponent of one": [AK | {"e": "AQ"}],
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_runtime_data_without_a_usable_key_are_refused(case: str) -> None:
    """Nothing can be verified under it, whatever the TEE vouches for."""
    report = SNP.hcl_report(SNP.runtime_data(user_data=USER_DATA, keys=BAD_KEYS[case]))
    assert refused(AzureKeyError, SNP, report) == "azure:key:absent"


def test_a_weak_key_is_refused() -> None:
    """Adversary 12: small, or with a small exponent."""
    for change in ({"n": AK["n"][:171]}, {"e": "Aw"}):  # type: ignore[index]
        report = SNP.hcl_report(SNP.runtime_data(user_data=USER_DATA, keys=[AK | change]))
        assert refused(WeakKeyError, SNP, report) == "evidence:key:weak"


def test_every_changed_bit_is_refused() -> None:
    """Adversary 13: of what the TEE signed, of the JSON, of the quote; a sample of each."""
    report = SNP.hcl_report(SNP.runtime_data(user_data=USER_DATA))
    quote = SNP.bare_quote(NONCE)
    tee = SNP.tee(report)
    signed = (range(32 * 8, (32 + 0x2A0) * 8, 61), range(1236 * 8, (len(report) - 64) * 8, 97))
    for change in (*signed[0], *signed[1]):
        with pytest.raises(HwTrustError):
            verify(SNP, flipped(report, change), tee=tee)
    for name, data in (("message", quote.message), ("signature", quote.signature)):
        for change in range(0, len(data) * 8, 17):
            with pytest.raises(HwTrustError):
                verify(SNP, report, tee=tee, **{name: flipped(data, change)})


def flipped(data: bytes, at: int) -> bytes:
    """`data` with that bit changed."""
    changed = bytearray(data)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


# --- rules -------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "secure_boot": True,
    "console_enabled": False,
    "vm_unique_ids": ("26f8bc30-774e-4290-8e7a-535f3b672aee",),
    "pcrs": {"7": ("0" * 64, PCRS[Alg.SHA256][7].hex())},
    "snp": SnpRules(),
    "tdx": TdxRules(),
}


def found_by(claims: AzureClaims, **changes: Any) -> list[str]:  # noqa: ANN401 - any field
    """What these rules find, the TEE's own findings aside."""
    found = appraise_azure(claims, rules=AzureRules(**(GOOD | changes)))
    ours = [finding for finding in found if finding.code.startswith("azure:")]
    assert all(FINDINGS[finding.code][0] is finding.severity for finding in ours)
    return [finding.code for finding in ours]


@pytest.mark.parametrize("kind", VMS)
def test_a_machine_as_the_rules_have_it_is_accepted(kind: str) -> None:
    """And what its TEE's rules find is told with the rest."""
    claims = verify(VMS[kind])
    assert found_by(claims) == []
    found = appraise_azure(claims, rules=AzureRules(**GOOD))
    if kind == "SNP":
        assert found == appraise_snp(claims.tee, rules=SnpRules())  # type: ignore[arg-type]
    else:
        assert found == appraise_tdx(claims.tee, rules=TdxRules())  # type: ignore[arg-type]
    assert found


def test_what_the_rules_do_not_say_is_not_accepted() -> None:
    """Every field on its own; of the TEE, the rules of the other kind do not help."""
    claims = verify()
    for name in set(GOOD) - {"tdx"}:
        assert found_by(claims, **{name: msgspec.UNSET}) == ["azure:absent"]
    assert found_by(verify(TDX), tdx=msgspec.UNSET) == ["azure:absent"]
    assert found_by(claims, pcrs={}, vm_unique_ids=()) == ["azure:absent"] * 2
    assert found_by(claims, vm_unique_ids=msgspec.UNSET, unsafe_any_vm=True) == []


def test_every_finding_is_told() -> None:
    """Not the first alone."""
    claims = verify()
    assert found_by(claims, secure_boot=False, console_enabled=True) == [
        "azure:secure-boot",
        "azure:console",
    ]
    assert found_by(claims, vm_unique_ids=("another",)) == ["azure:vm"]
    assert found_by(claims, pcrs={"7": (), "8": ("0" * 64,)}) == ["azure:pcr"] * 2
    report = SNP.hcl_report(
        SNP.runtime_data(
            user_data=USER_DATA,
            configuration={"secure-boot": None, "tpm-enabled": False, "vmUniqueId": None},
        )
    )
    assert found_by(verify(SNP, report)) == ["azure:secure-boot", "azure:tpm", "azure:vm"]


def test_a_pcr_that_is_not_quoted_is_not_accepted() -> None:
    """What the rules name has to be there."""
    quote = SNP.tpm.quote(NONCE, {Alg.SHA256: {1: PCRS[Alg.SHA256][1]}})
    claims = verify(
        message=quote.message,
        signature=quote.signature,
        selection=PcrSelection.parse("sha256:1"),
    )
    assert found_by(claims) == ["azure:pcr-missing"]
