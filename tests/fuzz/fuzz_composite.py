"""Decoders of composite evidence, GPUs, and of what other agents send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fuzz.target import Target
from hwtrust.verify.agent_files import read_credential, read_keylime_quote, write_credential
from hwtrust.verify.attestation import Unsafe
from hwtrust.verify.enclaves.nvidia import verify_nvidia
from hwtrust.wire.cmw import (
    COMPOSITE,
    Collection,
    Indicator,
    MediaType,
    Record,
    encode_cbor,
    encode_json,
)
from hwtrust.wire.cmw import decode as decode_cmw
from hwtrust.wire.creation import CreationData
from hwtrust.wire.enclaves.azure import HclReport, RuntimeData, TeeKind
from hwtrust.wire.enclaves.nvidia import GpuReport
from hwtrust.wire.protect import Credential
from simulators.azure_vtpm import AzureVm
from simulators.nvidia_signer import NOW, GpuSigner

GPU: Final = GpuSigner()
NONCE: Final = bytes(range(32))


def cmws() -> Iterable[bytes]:
    """A record and a nested collection, in both encodings."""
    record = Record(MediaType.NVIDIA, GPU.report(NONCE), Indicator.EVIDENCE)
    parts = Collection({"gpu": record, "more": Collection({"x": Record(60, b"x")})}, COMPOSITE)
    for wrapped in (record, parts):
        yield encode_json(wrapped)
        yield encode_cbor(wrapped)


def gpu_chain(data: bytes) -> object:
    """A GPU's certificates, behind a report that is good."""
    return verify_nvidia(
        GPU.report(NONCE), certificates=[data], nonce=Unsafe.NO_NONCE, now=NOW, trust=GPU.trust
    )


def hcl_reports() -> Iterable[bytes]:
    """One of each TEE."""
    return [AzureVm(kind=kind).hcl_report() for kind in TeeKind]


def creations() -> Iterable[bytes]:
    """A creation under no PCR, as go-attestation's agents have it."""
    return [bytes.fromhex("000000000000010010000440000001000440000001 0000")]


def keylime_quote(data: bytes) -> object:
    """The quote field of keylime's REST API, of any bytes."""
    return read_keylime_quote(data.decode("latin-1"))


TARGETS: Final[dict[str, Target]] = {
    "cmw": Target(decode_cmw, cmws),
    "nvidia-report": Target(GpuReport.decode, lambda: [GPU.report(NONCE)]),
    "nvidia-chain": Target(gpu_chain, lambda: [b"".join(GPU.chain)]),
    "azure-hcl": Target(lambda data: HclReport.decode(data).facts(), hcl_reports),
    "azure-runtime-data": Target(RuntimeData.decode, lambda: [AzureVm().runtime_data()]),
    "creation-data": Target(CreationData.decode, creations),
    "keylime-quote": Target(keylime_quote, lambda: [b"r/1RDRw==:AA==:AA=="]),
    "credential-file": Target(
        read_credential, lambda: [write_credential(Credential(b"id", b"secret"))]
    ),
}
