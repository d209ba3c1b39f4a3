"""What `hwtrust evidence verify` does between its options and `hwtrust.verify`."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from msgspec import UNSET, UnsetType

from hwtrust.cli.files import read_file
from hwtrust.errors import (
    ConfigError,
    EmptyNonceError,
    FirmwarePcrError,
    MalformedError,
    StaleQuoteError,
    WireError,
)
from hwtrust.errors.cca import CcaEndorsementError
from hwtrust.errors.forms import EvidenceUseError
from hwtrust.verify.agent_files import read_azure_evidence
from hwtrust.verify.attestation import Nonce
from hwtrust.verify.enclaves import kinds, nvidia_rules
from hwtrust.verify.enclaves.cca_keys import CcaTrust
from hwtrust.verify.enclaves.dcap_chain import DcapTrust
from hwtrust.verify.enclaves.kinds import EnclaveRules, EnclaveTrust, Unsafe
from hwtrust.verify.enclaves.kinds_rules import ABSENT, FINDINGS
from hwtrust.verify.enclaves.kinds_trust import NO_CCA, certificates_in
from hwtrust.verify.enclaves.nitro_chain import NitroTrust
from hwtrust.verify.enclaves.nvidia import verify_nvidia
from hwtrust.verify.evidence import require_log
from hwtrust.verify.forms import MAX_SIZE, TITLES, Form, recognise
from hwtrust.verify.logs import firmware, ima
from hwtrust.verify.logs.firmware_claims import FirmwareClaims
from hwtrust.verify.logs.firmware_rules import appraise_firmware
from hwtrust.verify.logs.ima_rules import PreparedImaRules, appraise_ima
from hwtrust.verify.platform import FirmwareLogRules, ImaLogRules
from hwtrust.verify.quote import PcrValues
from hwtrust.verify.tools_files import read_pcrs
from hwtrust.wire import cmw
from hwtrust.wire.algorithms import Alg, alg_from_name, alg_name
from hwtrust.wire.enclave import EnclaveEvidence, EnclaveKind
from hwtrust.wire.enclave_parts import EnclaveParts, kind_of, parts_of, pem
from hwtrust.wire.enclaves.dcap import Collateral
from hwtrust.wire.enclaves.snp import Product
from hwtrust.wire.logs.firmware import FirmwareLog
from hwtrust.wire.logs.ima import ImaLog
from hwtrust.wire.messages import Finding, Severity
from hwtrust.wire.selection import PcrSelection

Asked = Nonce | None
"""Report data; that there are none; or that nothing was said of them."""

_KINDS: Final = {Form(kind.value): kind for kind in EnclaveKind if kind is not EnclaveKind.AZURE}
_BARE: Final = {
    Form.SNP: "VCEK or VLEK, ASK and ARK",
    Form.NVIDIA: "the chain of the GPU, its own first,",
}
_BANKS: Final = (Alg.SHA256, Alg.SHA384, Alg.SHA512, Alg.SHA1)
_MAX_POLICY: Final = 16 * 1024 * 1024
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_RTMRS: Final = range(4)
_BOOT: Final = range(8)
_NO_SELECTION: Final = PcrSelection.parse("sha256:0")
"""Values in a row are of no use: nothing says whose they are."""


class EvidencePolicy(EnclaveRules, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tables of `--policy`: those of the kinds, and of the logs of a TPM."""

    firmware_log: FirmwareLogRules | UnsetType = UNSET
    ima: ImaLogRules | UnsetType = UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What else the evidence is verified with: contents of files, and when."""

    certificates: tuple[bytes, ...]
    crls: tuple[bytes, ...]
    collateral: tuple[bytes, ...]
    endorsements: tuple[bytes, ...]
    roots: tuple[str, ...]
    pcrs: bytes | None
    now: datetime


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints of authentic evidence."""

    authentic: bool = True
    accepted: bool
    form: str
    title: str
    not_checked: tuple[str, ...]
    facts: dict[str, Any]
    findings: tuple[Finding, ...]


# --- files and options -------------------------------------------------------------


def read(path: Path) -> bytes:
    """A file of evidence, or of what it is verified with.

    Raises:
        MalformedError: it is larger than any of these.
    """
    data = read_file(path, most=MAX_SIZE)
    if len(data) > MAX_SIZE:
        raise MalformedError(f"{path} is larger than anything that is evidence")
    return data


def read_policy(path: Path) -> EvidencePolicy:
    """The policy in a file.

    Raises:
        ConfigError: it is no TOML, or has a table or an option that there is not.
    """
    text = read_file(path, most=_MAX_POLICY)
    if len(text) > _MAX_POLICY:
        raise ConfigError(f"the policy {path} has more than {_MAX_POLICY} bytes")
    try:
        return msgspec.toml.decode(text, type=EvidencePolicy)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the policy {path} cannot be read: {error}") from error


def report_data(text: str | None, *, unsafe: bool) -> Asked:
    """The report data of the command line."""
    if text is not None and unsafe:
        message = "give either --report-data or --unsafe-no-report-data"
        raise click.UsageError(message)
    if unsafe:
        return Unsafe.NO_NONCE
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError:
        raise click.BadParameter("not hexadecimal", param_hint="--report-data") from None


def root(text: str) -> str:
    """A fingerprint, as the pins are spelled."""
    found = text.replace(":", "").lower()
    if not _SHA256.fullmatch(found):
        raise click.BadParameter("not the SHA-256 of a certificate, in hex", param_hint="--root")
    return found


def moment(text: str | None) -> datetime:
    """The time of the command line; without one, now."""
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = datetime.min  # noqa: DTZ901 - refused below
    if found.tzinfo is None:
        message = "not a time with its zone, such as 2026-06-01T12:00:00Z"
        raise click.BadParameter(message, param_hint="--time")
    return found


def _trust(given: Given) -> EnclaveTrust:
    with _naming("--certificates"):
        certificates = certificates_in(given.certificates)
    with _naming("--collateral"):
        collateral = tuple(map(Collateral.decode, given.collateral))
    with _naming("--endorsements"):
        cca = _cca(given.endorsements)
    trust = EnclaveTrust(certificates=certificates, collateral=collateral, cca=cca)
    if given.roots:
        pins = frozenset(given.roots)
        trust = dataclasses.replace(
            trust,
            snp=dataclasses.replace(trust.snp, roots=dict.fromkeys(Product, pins)),
            nitro=NitroTrust(roots=pins),
            nvidia=dataclasses.replace(trust.nvidia, roots=pins),
            dcap=DcapTrust(bytes.fromhex(given.roots[0])),
        )
    with _naming("--crl"):
        return trust.with_crls(given.crls) if given.crls else trust


def _cca(files: tuple[bytes, ...]) -> CcaTrust:
    keys: dict[Any, Any] = {}
    for file in files:
        keys |= CcaTrust.read(file).keys
    return CcaTrust(keys=keys) if keys else NO_CCA


@contextlib.contextmanager
def _naming(option: str) -> Iterator[None]:
    """Whatever is wrong with a file of `option` is told of it, and not of the evidence."""
    try:
        yield
    except (WireError, CcaEndorsementError) as error:
        raise MalformedError(f"{option}: {error.message}", hint=error.hint) from None


# --- verification ------------------------------------------------------------------


def verified(data: bytes, *, policy: EvidencePolicy, asked: Asked, given: Given) -> Outcome:
    """Verify evidence of any form and appraise it.

    Raises:
        EvidenceError: it is not authentic, or does not answer; the class says why.
        WireError: it is malformed, or none that can be verified by itself.
        EnclaveSoftwareError: what its kind takes is not installed.
    """
    form, data = recognise(data)
    if form in {Form.FIRMWARE_LOG, Form.IMA_LOG}:
        return _log(form, data, policy=policy, asked=asked, given=given)
    if form not in {*_KINDS, Form.AZURE_EVIDENCE, Form.CMW, Form.ENCLAVE, Form.NVIDIA}:
        raise _useless(form)
    if given.pcrs is not None:
        message = "--pcrs is for the logs of a TPM, and this is none"
        raise click.UsageError(message)
    if asked is None:
        message = "give --report-data, or --unsafe-no-report-data"
        raise click.UsageError(message)
    if form in _BARE and not given.certificates:
        message = f"a report carries no certificates: give {_BARE[form]} by --certificates"
        raise click.UsageError(message)
    if form is Form.NVIDIA:
        return _gpu(data, policy=policy, asked=asked, given=given)
    if len(given.roots) > 1 and form in {Form.TDX, Form.SGX}:
        message = "quotes of Intel have one --root"
        raise click.UsageError(message)
    claims = _claims(form, data, asked=asked, given=given)
    return _outcome(
        form,
        claims.facts(),
        _findings(claims, policy),
        () if asked is not Unsafe.NO_NONCE else _AGE,
    )


_AGE: Final = ("report data: the evidence may be of any age, and made for anybody",)


def _claims(form: Form, data: bytes, *, asked: Nonce, given: Given) -> kinds.EnclaveClaims:
    trust, now_ms = _trust(given), int(given.now.timestamp() * 1000)
    if form is Form.ENCLAVE:
        evidence = _read_enclave(data)
        bound = evidence.binding.report_data()
        if isinstance(asked, bytes) and not compare_digest(asked, bound):
            raise StaleQuoteError("the evidence is for another binding than the report data")
        require_log(evidence.log, digest=evidence.binding.log_digest, pcr=0)
        return kinds.verify_enclave(
            evidence.evidence, kind=evidence.kind, report_data=bound, now_ms=now_ms, trust=trust
        )
    if form is Form.CMW:
        collection = cmw.decode(data)
        if not isinstance(collection, cmw.Collection):
            raise EvidenceUseError(
                "a single record is not verified", hint="give the file that is wrapped in it"
            )
        kind = kind_of(collection)
        if isinstance(asked, bytes):
            return kinds.verify_enclave(
                data, kind=kind, report_data=asked, now_ms=now_ms, trust=trust
            )
        parts = parts_of(collection, kind=kind)
    elif form is Form.AZURE_EVIDENCE:
        kind, parts = EnclaveKind.AZURE, read_azure_evidence(data)
    else:
        kind, parts = _KINDS[form], EnclaveParts(tee=data)
    return kinds.verify_parts(
        parts,
        kind=kind,
        challenge=asked,
        gpu_challenge=asked,
        now=given.now,
        trust=trust,
        unsafe_any_user_data=True,
    )


def _read_enclave(data: bytes) -> EnclaveEvidence:
    try:
        return msgspec.json.decode(data, type=EnclaveEvidence)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"the evidence of an enclave cannot be read: {error}") from None


def _findings(claims: kinds.EnclaveClaims, policy: EvidencePolicy) -> tuple[Finding, ...]:
    found = kinds.appraise_enclave(claims, rules=policy)
    if claims.firmware is None:
        return found
    return found + _of_firmware(claims.firmware, policy)


def _of_firmware(claims: FirmwareClaims, policy: EvidencePolicy) -> tuple[Finding, ...]:
    if isinstance(policy.firmware_log, UnsetType):
        return (_absent("firmware_log"),)
    return appraise_firmware(claims, rules=policy.firmware_log)


def _gpu(data: bytes, *, policy: EvidencePolicy, asked: Nonce, given: Given) -> Outcome:
    if isinstance(asked, bytes) and not asked:
        raise EmptyNonceError("the report data is empty: whatever answers it may be of any age")
    claims = verify_nvidia(
        data,
        # In the order in which they are given: the GPU's own first.
        certificates=(pem(certificates_in(given.certificates)),),
        nonce=asked,
        now=given.now,
        trust=_trust(dataclasses.replace(given, certificates=())).nvidia,
    )
    if isinstance(policy.nvidia, UnsetType):
        findings: tuple[Finding, ...] = (_absent("nvidia"),)
    else:
        findings = nvidia_rules.appraise(claims, rules=policy.nvidia)
    not_checked = () if isinstance(asked, bytes) else _AGE
    return _outcome(Form.NVIDIA, claims.facts(), findings, not_checked)


# --- logs --------------------------------------------------------------------------

_VALUES: Final = "PCR values: they are taken as those of a quote that you have verified"


def _log(form: Form, data: bytes, *, policy: EvidencePolicy, asked: Asked, given: Given) -> Outcome:
    if asked is not None:
        message = "a log answers no report data: the quote does, whose values --pcrs gives"
        raise click.UsageError(message)
    if given.pcrs is None:
        message = "a log is verified by the values of a quote: give --pcrs"
        raise click.UsageError(message)
    with _naming("--pcrs"):
        pcrs = read_pcrs(given.pcrs, selection=_NO_SELECTION)
    if form is Form.IMA_LOG:
        return _ima(ImaLog.decode(data), pcrs, policy)
    log = FirmwareLog.decode(data)
    claims = (
        firmware.verify_cc_log(log, rtmrs=_rtmrs(pcrs))
        if log.is_confidential
        else _firmware(log, pcrs, policy.firmware_log)
    )
    return _outcome(form, claims.facts(), _of_firmware(claims, policy), (_VALUES,))


def _rtmrs(pcrs: PcrValues) -> dict[int, bytes]:
    values = pcrs.get(Alg.SHA384, {})
    return {number: values[number] for number in _RTMRS if number in values}


def _firmware(
    log: FirmwareLog, pcrs: PcrValues, rules: FirmwareLogRules | UnsetType
) -> FirmwareClaims:
    named: set[int] = set()
    bank = _bank_of(pcrs, 0)
    if not isinstance(rules, UnsetType):
        bank = alg_from_name(rules.bank) if not isinstance(rules.bank, UnsetType) else bank
        if not isinstance(rules.pcrs, UnsetType):
            return firmware.verify_firmware_log(log, pcrs=pcrs, bank=bank, numbers=rules.pcrs)
        for table in (rules.digests, rules.sequences, rules.required):
            named |= set() if isinstance(table, UnsetType) else set(map(int, table))
        named |= set(rules.unsafe_any_pcrs)
    numbers = named | {number for number in _BOOT if number in pcrs.get(bank, {})}
    return firmware.verify_firmware_log(log, pcrs=pcrs, bank=bank, numbers=sorted(numbers))


def _ima(log: ImaLog, pcrs: PcrValues, policy: EvidencePolicy) -> Outcome:
    pcr = ima.PCR if isinstance(policy.ima, UnsetType) else policy.ima.pcr
    bank = _bank_of(pcrs, pcr)
    value = pcrs.get(bank, {}).get(pcr)
    if value is None:
        raise FirmwarePcrError(f"the values do not hold PCR {pcr}", pcr=pcr)
    claims = ima.verify_ima(log, bank=bank, value=value, state=ima.START, pcr=pcr)
    if isinstance(policy.ima, UnsetType):
        findings: tuple[Finding, ...] = (_absent("ima"),)
    else:
        findings = appraise_ima(claims, rules=PreparedImaRules(policy.ima), pcrs=pcrs)
    facts = claims.facts() | {"bank": alg_name(bank)}
    return _outcome(Form.IMA_LOG, facts, findings, (_VALUES,))


def _bank_of(pcrs: PcrValues, number: int) -> Alg:
    """The strongest customary bank that has a PCR."""
    return next((bank for bank in _BANKS if number in pcrs.get(bank, {})), Alg.SHA256)


# --- what comes of it --------------------------------------------------------------


def _outcome(
    form: Form, facts: dict[str, Any], findings: tuple[Finding, ...], not_checked: tuple[str, ...]
) -> Outcome:
    return Outcome(
        accepted=all(finding.severity is Severity.ALERT for finding in findings),
        form=form.value,
        title=TITLES[form],
        not_checked=not_checked,
        facts=facts,
        findings=findings,
    )


def _absent(table: str) -> Finding:
    severity, sentence = FINDINGS[ABSENT]
    return Finding(code=ABSENT, severity=severity, message=f"{sentence}: there is no [{table}]")


_HINTS: Final = {
    Form.AZURE: "wrap it with the quote of its vTPM, the PCR values and the certificates",
    Form.TPM: "a backend verifies it, which knows the device's keys",
    Form.TPM_QUOTE: "use hwtrust verify-quote",
}


def _useless(form: Form) -> EvidenceUseError:
    hint = _HINTS.get(form, "give it along with the evidence that it belongs to")
    return EvidenceUseError(f"{TITLES[form]}: it is not verified by itself", hint=hint)
