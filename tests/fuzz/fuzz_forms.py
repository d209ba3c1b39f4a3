"""Of what form evidence is, what it says of itself, and a log cut for a message."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Final

from fuzz.target import Target
from hwtrust.verify.agent_files import read_azure_evidence
from hwtrust.verify.forms import recognise
from hwtrust.verify.shown import show
from hwtrust.wire.cmw import Collection, MediaType, Record, encode_cbor, encode_json
from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.logs.ima import ImaLog
from hwtrust.wire.logs.ima_part import part_of
from simulators.azure_vtpm import CHIP, AzureVm
from simulators.enclaves import GPU, INTEL, REPORT_DATA, Machine
from simulators.firmware_log import booted
from simulators.good_quote import GOOD
from simulators.ima_log import ImaKernel

_PCR: Final = 10
_ROOMS: Final = (0, 1, 100, 1 << 20)


def azure_evidence() -> Iterable[bytes]:
    """As Confidential Containers sends it, of both TEEs."""
    for more in ({"vcek": CHIP.certificates()[0]}, {"td_quote": INTEL.tdx()}):
        quote = AzureVm().bare_quote(REPORT_DATA)
        told = {name: base64.urlsafe_b64encode(value).decode() for name, value in more.items()}
        told["hcl_report"] = base64.urlsafe_b64encode(AzureVm().hcl_report()).decode()
        signed = {"message": quote.message.hex(), "signature": quote.signature.hex()}
        yield json.dumps(
            {"version": 1, "tpm_quote": signed | {"pcrs": ["00" * 32]}} | told
        ).encode()


def evidence() -> Iterable[bytes]:
    """One of every form, bare, in text, and wrapped."""
    for kind in EnclaveKind:
        machine = Machine(kind)
        yield machine.parts().tee
        yield machine.evidence().encode()
    record = Record(MediaType.SNP, Machine(EnclaveKind.SNP).parts().tee)
    yield encode_cbor(record)
    yield encode_json(Collection({"a": Collection({"b": record})}))
    yield record.value.hex().encode()
    yield base64.urlsafe_b64encode(record.value)
    yield GPU.report(bytes(32))
    yield GOOD.message
    yield booted("sha256").raw
    yield _kernel().log()
    yield _kernel().text()
    yield CHIP.certificates()[0]
    yield CHIP.authority.ark.revoke(7)
    yield INTEL.collateral("tdx")
    yield from azure_evidence()


def _kernel() -> ImaKernel:
    return ImaKernel().file("boot_aggregate").file("/bin/a", b"a").buffer(".ima", b"key")


def shown(data: bytes) -> object:
    """All of it, and of its parts."""
    return list(show(data).problems())


def parts(data: bytes) -> object:
    """Whatever is cut follows what was cut before, and all of it is the log."""
    log = ImaLog.decode(data)
    found = []
    for size in _ROOMS:
        cut, more = part_of(log, pcr=_PCR, start=0, size=size)
        assert not more or cut
        assert log.raw.endswith(cut) or more
        found.append(cut)
    return found


TARGETS: Final[dict[str, Target]] = {
    "forms_recognise": Target(recognise, evidence),
    "forms_show": Target(shown, evidence),
    "forms_azure": Target(read_azure_evidence, azure_evidence),
    "ima_part": Target(parts, lambda: [_kernel().log()]),
}
