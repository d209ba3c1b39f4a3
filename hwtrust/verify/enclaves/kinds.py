"""One door to the evidence of every kind of enclave and confidential VM.

    CMW collection ── verify_enclave ──▶ EnclaveClaims ── appraise_enclave ──▶ findings

Which part answers the report data, 64 bytes, that were asked for:

    snp, tdx, sgx   report_data                 nitro   nonce, and no user data beside it
    cca             challenge of the realm      azure   nonce of the quote, SHA-256 of them
    gpu             nonce, SHA-256 of "gpu" and them

Rules, in the order in which they are checked (the code carries their numbers):

1. parts      the collection holds evidence of the kind that is asked for, and no part
              that is not known (`hwtrust.wire.enclave_parts`) or that nothing here
              looks at: whatever is kept was verified.
2. challenge  the report data are there; whoever goes without them says so.
3. TEE        its evidence is authentic and answers, by the rules of its kind.
4. GPU        so is the report of a GPU, where there is one.
5. log        the firmware log, where there is one, explains the quoted registers.

What a kind takes is loaded when it is verified. Where that is not installed,
EnclaveSoftwareError says so.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from hwtrust.errors import EmptyNonceError, MalformedError, UnsupportedError
from hwtrust.errors.cmw import CmwLabelError
from hwtrust.errors.forms import EnclaveSoftwareError
from hwtrust.verify.attestation import VERIFIED, Unsafe, made_elsewhere, take_away
from hwtrust.verify.enclaves import cca_rules, nitro_rules
from hwtrust.verify.enclaves.azure_rules import appraise_azure
from hwtrust.verify.enclaves.kinds_rules import ABSENT, FINDINGS, EnclaveRules
from hwtrust.verify.enclaves.kinds_trust import EnclaveTrust
from hwtrust.verify.enclaves.nvidia_rules import appraise_nvidia, missing_gpu
from hwtrust.verify.enclaves.sgx_rules import appraise_sgx
from hwtrust.verify.enclaves.snp_rules import appraise_snp
from hwtrust.verify.enclaves.tdx_rules import appraise_tdx
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.enclave_parts import (
    CERTIFICATES,
    GPU,
    GPU_CERTIFICATES,
    PCRS,
    QUOTE,
    TD_QUOTE,
    EnclaveParts,
    split_quote,
    unwrap,
)
from hwtrust.wire.messages import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.verify.attestation import Nonce
    from hwtrust.verify.enclaves.azure import AzureClaims
    from hwtrust.verify.enclaves.cca import CcaClaims
    from hwtrust.verify.enclaves.nitro import NitroClaims
    from hwtrust.verify.enclaves.nvidia import NvidiaClaims
    from hwtrust.verify.enclaves.sgx import SgxClaims
    from hwtrust.verify.enclaves.snp import SnpClaims
    from hwtrust.verify.enclaves.tdx import TdxClaims
    from hwtrust.verify.logs.firmware_claims import FirmwareClaims

    TeeClaims = SnpClaims | TdxClaims | SgxClaims | NitroClaims | CcaClaims | AzureClaims

__all__ = [
    "ABSENT",
    "FINDINGS",
    "REPORT_DATA_SIZE",
    "EnclaveClaims",
    "EnclaveRules",
    "EnclaveTrust",
    "Unsafe",
    "appraise_enclave",
    "gpu_nonce",
    "quote_nonce",
    "verify_enclave",
    "verify_parts",
]

T = TypeVar("T")

REPORT_DATA_SIZE: Final = 64

_GPU: Final = b"gpu"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EXTRA: Final = frozenset({"cbor2", "dcap_qvl"})
_FIRMWARE: Final = range(8)
_RESETTABLE: Final = frozenset({16, 23})
"""PCRs of a vTPM that any program resets; they measure nothing."""
_RTMRS: Final = range(3)
"""Those that firmware and boot loaders extend; the last is the application's."""

Facts = dict[str, str | int | bool | list[str]]


class EnclaveClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What authentic evidence says; only `hwtrust.verify` makes them."""

    kind: EnclaveKind
    tee: Any
    """The claims of the kind: `SnpClaims`, `TdxClaims` and so on."""
    gpu: NvidiaClaims | None
    firmware: FirmwareClaims | None
    """What the firmware log tells; None without one, and for a kind without registers."""
    registers: Mapping[str, bytes]
    """By the names that the device gives them: `rtmr3`, `pcr16` (Nitro), `rem0`."""
    extends: tuple[tuple[int, bytes], ...]
    """What the log of a TD says was extended into its run-time registers."""
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    def register(self, name: str) -> bytes | None:
        """The value of a measurement register; None where the evidence does not hold it."""
        return self.registers.get(name)

    def facts(self) -> Facts:
        """All of it in words; of the GPU behind `gpu_`, of the log behind `firmware_`."""
        found: Facts = {"kind": self.kind.value, **self.tee.facts()}
        for prefix, part in (("gpu", self.gpu), ("firmware", self.firmware)):
            if part is not None:
                found |= {f"{prefix}_{name}": value for name, value in part.facts().items()}
        return found


def verify_enclave(
    evidence: str | bytes,
    *,
    kind: EnclaveKind,
    report_data: bytes,
    now_ms: int,
    trust: EnclaveTrust,
) -> EnclaveClaims:
    """Check a CMW collection of evidence of `kind` that has to answer `report_data`, 64 bytes.

    Raises:
        EvidenceError: it is not authentic, or does not answer; the class says why.
        WireError: a part is missing, malformed, or of another kind.
        EnclaveSoftwareError: what this kind takes is not installed.
    """
    # (1): parts.
    parts = unwrap(evidence, kind=kind)
    # (2): challenge.
    if not report_data:
        raise EmptyNonceError("the report data is empty: whatever answers it may be of any age")
    if len(report_data) != REPORT_DATA_SIZE:
        raise MalformedError(f"report data has {REPORT_DATA_SIZE} bytes, not {len(report_data)}")
    return verify_parts(
        parts,
        kind=kind,
        challenge=quote_nonce(report_data) if kind is EnclaveKind.AZURE else report_data,
        gpu_challenge=gpu_nonce(report_data),
        now=_EPOCH + timedelta(milliseconds=now_ms),
        trust=trust,
    )


def quote_nonce(report_data: bytes) -> bytes:
    """What a vTPM is asked to quote for, where an enclave would be asked for `report_data`."""
    return hashlib.sha256(report_data).digest()


def gpu_nonce(report_data: bytes) -> bytes:
    """What a GPU beside an enclave is asked with."""
    return hashlib.sha256(_GPU + report_data).digest()


def verify_parts(
    parts: EnclaveParts,
    *,
    kind: EnclaveKind,
    challenge: Nonce,
    gpu_challenge: Nonce,
    now: datetime,
    trust: EnclaveTrust,
    unsafe_any_user_data: bool = False,
) -> EnclaveClaims:
    """Check evidence whose TEE answers `challenge` in the form of its kind; `now` is aware.

    `unsafe_any_user_data` takes a Nitro document with whatever its enclave put into it.

    Raises:
        EvidenceError, WireError, EnclaveSoftwareError: as of `verify_enclave`.
    """
    verify = _VERIFIERS.get(kind)
    if verify is None:
        raise UnsupportedError(f"evidence of the kind {str(kind)[:32]!r} is not known")
    # (1): parts that nothing looks at.
    _require_used(parts, kind)
    with _software(kind):
        # (3): TEE.
        asked = _Asked(parts, challenge, now, trust, unsafe_any_user_data)
        tee = verify(asked)
        # (4): GPU.
        gpu = _gpu(parts, gpu_challenge, now, trust) if parts.gpu else None
        # (5): log.
        firmware, extends = _firmware(kind, tee, parts) if parts.firmware_log else (None, ())
    return EnclaveClaims(
        kind=EnclaveKind(kind),
        tee=tee,
        gpu=gpu,
        firmware=firmware,
        registers=dict(_registers(kind, tee)),
        extends=extends,
        verified=VERIFIED,
    )


def appraise_enclave(claims: EnclaveClaims, *, rules: EnclaveRules) -> tuple[Finding, ...]:
    """Every finding against `claims`; none where all of them are accepted."""
    return tuple(_findings(claims, rules))


# --- verification ------------------------------------------------------------------


class _Asked(msgspec.Struct, frozen=True):
    """What is verified, and with what."""

    parts: EnclaveParts
    challenge: Any
    now: datetime
    trust: EnclaveTrust
    any_user_data: bool


def _snp(asked: _Asked) -> SnpClaims:
    from hwtrust.verify.enclaves import snp  # noqa: PLC0415 - each kind when it is verified

    return snp.verify_snp(
        asked.parts.tee,
        certificates=_snp_certificates(asked, asked.parts.tee),
        report_data=_or(asked.challenge, snp.Unsafe.NO_REPORT_DATA),
        now=asked.now,
        trust=asked.trust.snp,
    )


def _tdx(asked: _Asked) -> TdxClaims:
    from hwtrust.verify.enclaves import dcap, tdx  # noqa: PLC0415
    from hwtrust.wire.enclaves.dcap import Quote  # noqa: PLC0415

    quote = Quote.decode(asked.parts.tee)
    return tdx.verify_tdx(
        quote,
        collateral=asked.trust.collateral_of(quote, now=asked.now),
        report_data=_or(asked.challenge, dcap.Unsafe.NO_REPORT_DATA),
        now=asked.now,
        trust=asked.trust.dcap,
    )


def _sgx(asked: _Asked) -> SgxClaims:
    from hwtrust.verify.enclaves import dcap, sgx  # noqa: PLC0415
    from hwtrust.wire.enclaves.dcap import Quote  # noqa: PLC0415

    quote = Quote.decode(asked.parts.tee)
    return sgx.verify_sgx(
        quote,
        collateral=asked.trust.collateral_of(quote, now=asked.now),
        report_data=_or(asked.challenge, dcap.Unsafe.NO_REPORT_DATA),
        now=asked.now,
        trust=asked.trust.dcap,
    )


def _nitro(asked: _Asked) -> NitroClaims:
    from hwtrust.verify.enclaves import nitro  # noqa: PLC0415

    return nitro.verify_nitro(
        asked.parts.tee,
        nonce=_or(asked.challenge, nitro.Unsafe.NO_NONCE),
        user_data=nitro.Unsafe.ANY_USER_DATA if asked.any_user_data else None,
        now=asked.now,
        trust=asked.trust.nitro,
    )


def _cca(asked: _Asked) -> CcaClaims:
    from hwtrust.verify.enclaves import cca  # noqa: PLC0415

    return cca.verify_cca(
        asked.parts.tee,
        challenge=_or(asked.challenge, cca.Unsafe.NO_CHALLENGE),
        trust=asked.trust.cca,
    )


def _azure(asked: _Asked) -> AzureClaims:
    from hwtrust.verify.enclaves import azure  # noqa: PLC0415
    from hwtrust.verify.quote import require_extended  # noqa: PLC0415
    from hwtrust.verify.tools_files import read_pcrs, read_selection  # noqa: PLC0415
    from hwtrust.wire.enclaves.azure import HclReport, TeeKind  # noqa: PLC0415
    from hwtrust.wire.enclaves.dcap import Quote  # noqa: PLC0415

    parts, trust = asked.parts, asked.trust
    message, signature = split_quote(parts.require(QUOTE))
    hcl = HclReport.decode(parts.tee)
    tee: azure.Tee
    if hcl.kind is TeeKind.SNP:
        certificates = _snp_certificates(asked, hcl.tee_report)
        tee = azure.SnpTee(certificates=certificates, trust=trust.snp)
    else:
        quote = Quote.decode(parts.require(TD_QUOTE))
        collateral = trust.collateral_of(quote, now=asked.now)
        tee = azure.TdxTee(quote=quote, collateral=collateral, trust=trust.dcap)
    claims = azure.verify_azure(
        parts.tee,
        message,
        signature,
        tee=tee,
        nonce=asked.challenge,
        # The quote answers, and its key is the machine's own: nothing else has to be bound.
        user_data=azure.Unsafe.ANY_USER_DATA,
        # The rules name the PCRs that have to be there, of the SHA-256 bank alone.
        selection=Unsafe.ANY_SELECTION,
        pcrs=read_pcrs(parts.require(PCRS), selection=read_selection(message)),
        now=asked.now,
    )
    require_extended(claims.quote, bank=Alg.SHA256)
    return claims


_VERIFIERS: Final[Mapping[EnclaveKind, Callable[[_Asked], TeeClaims]]] = {
    EnclaveKind.SNP: _snp,
    EnclaveKind.TDX: _tdx,
    EnclaveKind.SGX: _sgx,
    EnclaveKind.NITRO: _nitro,
    EnclaveKind.CCA: _cca,
    EnclaveKind.AZURE: _azure,
}


def _require_used(parts: EnclaveParts, kind: EnclaveKind) -> None:
    if kind is not EnclaveKind.AZURE and (parts.quote or parts.pcrs or parts.td_quote):
        raise CmwLabelError(f"evidence of {kind} has a part of a vTPM's")
    if parts.gpu_certificates and not parts.gpu:
        raise CmwLabelError("there are certificates of a GPU, and no report of one", part=GPU)


def _snp_certificates(asked: _Asked, report: bytes) -> tuple[bytes, ...]:
    from hwtrust.verify.enclaves.snp_chain import suiting  # noqa: PLC0415
    from hwtrust.wire.enclaves.snp import SnpReport  # noqa: PLC0415

    came = (asked.parts.certificates,) if asked.parts.certificates else ()
    if not came and not asked.trust.certificates:
        asked.parts.require(CERTIFICATES)
    return suiting(came, asked.trust.certificates, report=SnpReport.decode(report))


def _gpu(parts: EnclaveParts, challenge: Nonce, now: datetime, trust: EnclaveTrust) -> NvidiaClaims:
    from hwtrust.verify.enclaves.nvidia import verify_nvidia  # noqa: PLC0415

    return verify_nvidia(
        parts.gpu,
        certificates=(parts.require(GPU_CERTIFICATES),),
        nonce=challenge,
        now=now,
        trust=trust.nvidia,
    )


def _firmware(
    kind: EnclaveKind,
    tee: Any,  # noqa: ANN401 - the claims of `kind`
    parts: EnclaveParts,
) -> tuple[FirmwareClaims | None, tuple[tuple[int, bytes], ...]]:
    from hwtrust.verify.enclaves.rtmr import from_ccel  # noqa: PLC0415
    from hwtrust.verify.logs.firmware import verify_cc_log, verify_firmware_log  # noqa: PLC0415
    from hwtrust.wire.logs.firmware import EventType, FirmwareLog  # noqa: PLC0415

    log = FirmwareLog.decode(parts.firmware_log)
    if kind is EnclaveKind.TDX:
        values = dict(enumerate(tee.report.rtmrs))
        claims = verify_cc_log(log, rtmrs={number: values[number] for number in _RTMRS})
        extends = (
            (event.register, event.digests[Alg.SHA384])
            for event in log.events
            # As in the replay: an event without a digest of the bank was extended into no register.
            if event.type != EventType.NO_ACTION and event.register and Alg.SHA384 in event.digests
        )
        return claims, from_ccel(extends)
    if kind is EnclaveKind.AZURE:
        pcrs = tee.quote.pcrs
        numbers = [number for number in _FIRMWARE if number in pcrs.get(Alg.SHA256, {})]
        return verify_firmware_log(log, pcrs=pcrs, bank=Alg.SHA256, numbers=numbers), ()
    raise UnsupportedError(f"evidence of {kind} has no registers that a firmware log explains")


@contextlib.contextmanager
def _software(kind: EnclaveKind) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise EnclaveSoftwareError(
            f"evidence of {kind} needs {error.name}, which is not installed", module=error.name
        ) from None


def _or(challenge: Nonce, unsafe: T) -> bytes | T:
    """The challenge, or how the kind spells that there is none."""
    return unsafe if challenge is Unsafe.NO_NONCE else challenge


def _registers(kind: EnclaveKind, tee: Any) -> Iterator[tuple[str, bytes]]:  # noqa: ANN401
    if kind is EnclaveKind.TDX:
        yield "mrtd", tee.report.mr_td
        yield from ((f"rtmr{at}", value) for at, value in enumerate(tee.report.rtmrs))
    elif kind is EnclaveKind.NITRO:
        yield from ((f"pcr{at}", value) for at, value in tee.pcrs.items())
    elif kind is EnclaveKind.CCA:
        yield from ((f"rem{at}", value) for at, value in enumerate(tee.realm.rems))
    elif kind is EnclaveKind.AZURE:
        quoted = tee.quote.pcrs.get(Alg.SHA256, {})
        yield from ((f"pcr{at}", value) for at, value in quoted.items() if at not in _RESETTABLE)


# --- appraisal ---------------------------------------------------------------------


def _findings(claims: EnclaveClaims, rules: EnclaveRules) -> Iterator[Finding]:
    accepted: Any = getattr(rules, claims.kind)
    if accepted is UNSET:
        yield _absent(claims.kind)
    elif claims.kind is EnclaveKind.TDX:
        yield from appraise_tdx(claims.tee, rules=accepted, log=claims.extends)
    else:
        yield from _APPRAISERS[claims.kind](claims.tee, rules=accepted)
    if claims.gpu is None:
        if not isinstance(rules.nvidia, UnsetType):
            yield missing_gpu()
    elif isinstance(rules.nvidia, UnsetType):
        yield _absent("nvidia")
    else:
        yield from appraise_nvidia(claims.gpu, rules=rules.nvidia)


_APPRAISERS: Final[Mapping[EnclaveKind, Callable[..., tuple[Finding, ...]]]] = {
    EnclaveKind.SNP: appraise_snp,
    EnclaveKind.SGX: appraise_sgx,
    EnclaveKind.NITRO: nitro_rules.appraise,
    EnclaveKind.CCA: cca_rules.appraise,
    EnclaveKind.AZURE: appraise_azure,
}


def _absent(table: str) -> Finding:
    severity, sentence = FINDINGS[ABSENT]
    return Finding(code=ABSENT, severity=severity, message=f"{sentence}: there is no [{table}]")
