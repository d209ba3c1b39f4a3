"""What evidence of any form says of itself. Nothing of it is verified.

    bytes ── recognise ──▶ Form ── show ──▶ Shown (facts, parts)

Rules:
1. Of a wrapper each part is shown in its turn. One that cannot be read does not hide
   the others: it has its error in the place of facts.
2. What a form takes is loaded when it is shown; where that is not installed,
   EnclaveSoftwareError says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hwtrust.errors import EvidenceError, MalformedError, WireError
from hwtrust.errors.forms import EnclaveSoftwareError
from hwtrust.verify.forms import Form, recognise
from hwtrust.wire import cmw
from hwtrust.wire.cmw import MediaType, Record

if TYPE_CHECKING:
    from hwtrust.wire.messages import Binding

Facts = dict[str, str | int | bool | list[str]]

_EXTRA: Final = frozenset({"cbor2", "dcap_qvl"})
_MAX_DEPTH: Final = 3


@dataclass(frozen=True, slots=True)
class Shown:
    """What evidence says of itself; `problem` stands for what cannot be read of a part."""

    form: Form | None
    facts: Facts = field(default_factory=dict)
    parts: tuple[tuple[str, Shown], ...] = ()
    problem: EvidenceError | WireError | None = None

    def problems(self) -> Iterator[EvidenceError | WireError]:
        """Every part's that cannot be read."""
        if self.problem is not None:
            yield self.problem
        for _, part in self.parts:
            yield from part.problems()


def show(data: bytes) -> Shown:
    """What `data` says of itself.

    Raises:
        EvidenceFormError: it is of no form that is known.
        EvidenceError, WireError: its decoder refuses it.
        EnclaveSoftwareError: what the form takes is not installed.
    """
    return _show(data, _MAX_DEPTH)


@contextlib.contextmanager
def software(form: str) -> Iterator[None]:
    """What an extra of the installation lacks, as an error of the tree.

    Raises:
        EnclaveSoftwareError: dcap-qvl or cbor2 are not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise EnclaveSoftwareError(
            f"evidence of the form {form} needs {error.name}, which is not installed",
            module=error.name,
        ) from None


def _show(data: bytes, depth: int) -> Shown:
    form, data = recognise(data)
    with software(form):
        match form:
            case Form.CMW:
                return _cmw(cmw.decode(data), depth)
            case Form.ENCLAVE:
                return _enclave(data, depth)
            case Form.AZURE_EVIDENCE:
                return _azure_evidence(data, depth)
            case Form.TPM:
                return _tpm(data)
            case _:
                return Shown(form, _DECODERS[form](data))


# --- what has parts ----------------------------------------------------------------


def _cmw(wrapper: cmw.Cmw, depth: int) -> Shown:
    if isinstance(wrapper, Record):
        return Shown(Form.CMW, wrapper.facts(), (("value", _part(wrapper.value, wrapper, depth)),))
    facts: Facts = {} if wrapper.type is None else {"type": wrapper.type}
    found = []
    for path, record in wrapper.records():
        found.append(("/".join(map(str, path)), _part(record.value, record, depth)))
    return Shown(Form.CMW, facts | {"parts": [label for label, _ in found]}, tuple(found))


def _part(value: bytes, record: Record, depth: int) -> Shown:
    media_type = str(record.type).partition(";")[0].strip().lower()
    try:
        if media_type == MediaType.TPM_QUOTE:
            return Shown(Form.TPM_QUOTE, _attest(value))
        if media_type == MediaType.JSON:
            return Shown(None, {"json": value.decode("utf-8", "replace")})
        if not depth:
            raise MalformedError(f"wrappers are more than {_MAX_DEPTH} deep")
        return _show(value, depth - 1)
    except (EvidenceError, WireError) as error:
        return Shown(None, problem=error)


def _enclave(data: bytes, depth: int) -> Shown:
    from hwtrust.wire.enclave import EnclaveEvidence  # noqa: PLC0415 - where it is used

    read = _json(data, EnclaveEvidence, "the evidence of an enclave")
    facts: Facts = {"kind": read.kind.value, "report_data": read.binding.report_data().hex()}
    try:
        wrapped = _cmw(cmw.decode(read.evidence.encode()), depth - 1)
    except UnicodeEncodeError:
        raise MalformedError("the evidence of an enclave is no text") from None
    return Shown(Form.ENCLAVE, facts | _binding(read.binding) | _log(read.log), wrapped.parts)


def _azure_evidence(data: bytes, depth: int) -> Shown:
    from hwtrust.verify.agent_files import read_azure_evidence  # noqa: PLC0415 - where it is used
    from hwtrust.wire.enclave import EnclaveKind  # noqa: PLC0415
    from hwtrust.wire.enclave_parts import wrap  # noqa: PLC0415

    wrapper = wrap(read_azure_evidence(data), kind=EnclaveKind.AZURE).encode()
    wrapped = _cmw(cmw.decode(wrapper), depth - 1)
    return Shown(Form.AZURE_EVIDENCE, {"parts": wrapped.facts["parts"]}, wrapped.parts)


def _tpm(data: bytes) -> Shown:
    from hwtrust.wire.messages import Evidence  # noqa: PLC0415

    read = _json(data, Evidence, "the evidence of a TPM")
    facts: Facts = {"digest": read.binding.digest().hex(), **_binding(read.binding)}
    facts["pcrs"] = [f"{number}:{value.hex()}" for number, value in read.pcrs.items()]
    parts = []
    for label, signed in (("quote", read.quote), ("counter", read.counter)):
        try:
            part = Shown(Form.TPM_QUOTE, _attest(signed.message))
        except (EvidenceError, WireError) as error:
            part = Shown(None, problem=error)
        parts.append((label, part))
    return Shown(Form.TPM, facts | _log(read.log), tuple(parts))


def _json(data: bytes, kind: type[Any], what: str) -> Any:  # noqa: ANN401 - a message of `kind`
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"{what} cannot be read: {error}") from None


def _binding(binding: Binding) -> Facts:
    return {
        "purpose": binding.purpose.value,
        "nonce": binding.nonce.hex(),
        "tls_key": binding.tls_key.hex(),
        "epoch": binding.epoch,
        "release": binding.release,
        "log_digest": binding.log_digest.hex(),
        "statement": binding.statement.hex(),
        "release_key": binding.release_key.hex(),
    }


def _log(raw: bytes) -> Facts:
    return {"log_size": len(raw)}


# --- what has none -----------------------------------------------------------------


def _snp(data: bytes) -> Facts:
    from hwtrust.wire.enclaves.snp import SnpReport  # noqa: PLC0415

    return SnpReport.decode(data).facts()


def _dcap(data: bytes) -> Facts:
    from hwtrust.wire.enclaves.dcap import Quote  # noqa: PLC0415

    return Quote.decode(data).facts()


def _nitro(data: bytes) -> Facts:
    from hwtrust.wire.enclaves.nitro import NitroDocument  # noqa: PLC0415

    return NitroDocument.decode(data).facts()


def _cca(data: bytes) -> Facts:
    from hwtrust.wire.enclaves.cca import CcaToken  # noqa: PLC0415

    return CcaToken.decode(data).facts()


def _azure(data: bytes) -> Facts:
    from hwtrust.wire.enclaves.azure import HclReport, TeeKind  # noqa: PLC0415

    report = HclReport.decode(data)
    told: Facts = {}
    if report.kind is TeeKind.SNP:
        told = {f"tee_{name}": value for name, value in _snp(report.tee_report).items()}
    return report.facts() | told


def _nvidia(data: bytes) -> Facts:
    from hwtrust.wire.enclaves.nvidia import GpuReport  # noqa: PLC0415

    return GpuReport.decode(data).facts()


def _attest(data: bytes) -> Facts:
    from hwtrust.verify.tools_files import read_message  # noqa: PLC0415
    from hwtrust.wire.codec import Reader  # noqa: PLC0415
    from hwtrust.wire.structures import Attest  # noqa: PLC0415

    if data[2:6] == b"\xffTCG" and int.from_bytes(data[:2], "big") + 2 < len(data):
        reader = Reader(data, "the quote of a vTPM")
        message, signature = reader.sized(), reader.sized()
        reader.end()
    else:
        message, signature = read_message(data), b""
    attest = Attest.decode(message)
    facts: Facts = {
        "type": attest.type.name.lower(),
        "qualified_signer": attest.qualified_signer.hex(),
        "extra_data": attest.extra_data.hex(),
        "clock": attest.clock.clock,
        "reset_count": attest.clock.reset_count,
        "restart_count": attest.clock.restart_count,
        "safe": attest.clock.safe,
        "firmware_version": f"{attest.firmware_version:016x}",
    }
    for name, value in msgspec.structs.asdict(attest.attested).items():
        told = value.hex() if isinstance(value, bytes) else value
        facts[name] = told if isinstance(told, int) else str(told)
    return facts | ({"signature": signature.hex()} if signature else {})


def _firmware_log(data: bytes) -> Facts:
    from hwtrust.wire.logs.firmware import FirmwareLog, type_name  # noqa: PLC0415

    log = FirmwareLog.decode(data)
    counts: dict[str, int] = {}
    for event in log.events:
        name = f"{event.register} {type_name(event.type)}"
        counts[name] = counts.get(name, 0) + 1
    told = [f"{name} {count}" for name, count in counts.items()]
    return log.facts() | {"events_by_register": told}


def _ima_log(data: bytes) -> Facts:
    from hwtrust.wire.logs.ima import ImaLog  # noqa: PLC0415

    return ImaLog.decode(data).facts()


def _certificates(data: bytes) -> Facts:
    from hwtrust.verify.certificates import read_certificate  # noqa: PLC0415
    from hwtrust.verify.enclaves.kinds_trust import elements  # noqa: PLC0415

    found = [read_certificate(element) for element in elements(data, b"CERTIFICATE")]
    facts: Facts = {"certificates": len(found)}
    for at, certificate in enumerate(found, 1):
        facts |= {
            f"{at}_subject": certificate.subject_text,
            f"{at}_issuer": certificate.issuer_text,
            f"{at}_serial": f"{certificate.serial:x}",
            f"{at}_valid": f"{certificate.not_before} to {certificate.not_after}",
            f"{at}_ca": certificate.ca,
            f"{at}_sha256": certificate.sha256,
        }
    return facts


def _crl(data: bytes) -> Facts:
    from hwtrust.verify.certificates import read_crl  # noqa: PLC0415
    from hwtrust.verify.enclaves.kinds_trust import elements  # noqa: PLC0415

    found = [read_crl(element) for element in elements(data, b"X509 CRL")]
    facts: Facts = {"lists": len(found)}
    for at, crl in enumerate(found, 1):
        facts |= {
            f"{at}_issuer": crl.issuer.rfc4514_string(),
            f"{at}_revoked": [f"{serial:x}" for serial in sorted(crl.serials)],
            f"{at}_issued": str(crl.source.last_update_utc),
        }
    return facts


def _collateral(data: bytes) -> Facts:
    from hwtrust.wire.enclaves.dcap import Collateral  # noqa: PLC0415

    return Collateral.decode(data).facts()


_DECODERS: Final[Mapping[Form, Callable[[bytes], Facts]]] = MappingProxyType(
    {
        Form.SNP: _snp,
        Form.TDX: _dcap,
        Form.SGX: _dcap,
        Form.NITRO: _nitro,
        Form.CCA: _cca,
        Form.AZURE: _azure,
        Form.NVIDIA: _nvidia,
        Form.TPM_QUOTE: _attest,
        Form.FIRMWARE_LOG: _firmware_log,
        Form.IMA_LOG: _ima_log,
        Form.CERTIFICATES: _certificates,
        Form.CRL: _crl,
        Form.COLLATERAL: _collateral,
    }
)
