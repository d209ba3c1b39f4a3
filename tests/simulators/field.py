"""A device in the hands of an adversary, who is root on it; with what its surroundings tell.

    with enrolled(site) as field:
        field.send(evidence)        # past the library, over the device's own channel

Everything is real; only the client is modified.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwtrust.device.attest import bound_evidence
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm import commands, provision
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import (
    AttestReply,
    AttestRequest,
    ChallengeReply,
    ChallengeRequest,
    Evidence,
    Standing,
)
from hwtrust.wire.structures import NvAttributes, NvPublic
from hwtrust_backend.audit import trail, verify_log
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.testing import BackendServer
from simulators.backend_clients import BackendDevice, HttpApi
from simulators.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust.device import Device
    from hwtrust.device.context import DeviceContext
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.tpm.connection import Pinned

OTHER_AK, OTHER_COUNTER = 0x81018077, 0x01804877


@dataclass
class Field:
    """An enrolled, booted and open device with its surroundings."""

    site: Site
    device: Device
    name: bytes

    @property
    def context(self) -> DeviceContext:
        """What is inside the device: the adversary is root on it."""
        return self.device._context

    def nonce(self, purpose: Purpose = Purpose.ATTEST) -> bytes:
        """A fresh challenge."""
        asked = ChallengeRequest(device=self.name, purpose=purpose)
        return self.context.channel.post("/v1/challenges", asked, ChallengeReply).nonce

    def evidence(self, nonce: bytes | None = None) -> Evidence:
        """Evidence as the device makes it."""
        key = self.context.client_key
        assert key is not None
        fresh = self.nonce() if nonce is None else nonce
        return bound_evidence(self.context, purpose=Purpose.ATTEST, nonce=fresh, key=key)

    def send(self, evidence: Evidence, *, name: bytes | None = None) -> AttestReply:
        """Bring evidence to the backend, over the device's own channel."""
        request = AttestRequest(device=name or self.name, evidence=evidence)
        return self.context.channel.post("/v1/attest", request, AttestReply)


def newest(site: Site, name: bytes) -> tuple[str, str]:
    """Event and reason of a device's newest audit record; the trail is whole."""
    key = site.backend.backend.vault.signer(KeyRole.AUDIT).public_key
    with site.backend.session() as session:
        verify_log(session, key=key, kept=())
        record = trail(session, name.hex(), limit=1)[0]
        return record.event, record.reason


def counter_of(device: Device) -> int:
    """What the epoch counter shows."""
    return provision.read_counter(device._context.tpm, device._context.known().counter)


@contextmanager
def enrolled(site: Site) -> Iterator[Field]:
    """Enrol, boot, attest; the device stays open."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        device.attest()
        yield Field(site, device, name)


@contextmanager
def ground(home: Path, vendor: Vendor) -> Iterator[Site]:
    """A site with a TPM and a backend of its own."""
    with Swtpm.start() as tpm, BackendServer() as backend:
        vendor.manufacture(tpm, algorithm="ecc256")
        yield Site(home, tpm, backend, vendor)


def neighbour(site: Site) -> BackendDevice:
    """Another device of the same backend."""
    other = BackendDevice(site.backend.backend)
    site.backend.allow_ek(other.name)
    other.enrol(HttpApi(site.backend))
    return other


def codes_of(device: Device) -> tuple[Standing, set[str]]:
    """What the backend makes of the device: its standing, and the findings' codes."""
    result = device.attest()
    return result.standing, {finding.code for finding in result.findings}


@contextmanager
def other_ak(context: DeviceContext) -> Iterator[Pinned]:
    """A second attestation key in the device's TPM, as good as the first."""
    tpm = context.tpm
    ak, _ = provision.make_attestation_key(tpm, OTHER_AK, unique=bytes(32))
    try:
        yield ak
    finally:
        commands.evict_control(tpm, tpm.at(ak), OTHER_AK)
        tpm.unpin(OTHER_AK)


@contextmanager
def other_counter(context: DeviceContext) -> Iterator[Pinned]:
    """A counter of the adversary's own, which anybody may count."""
    tpm = context.tpm
    attributes = (
        NvAttributes.COUNTER | NvAttributes.AUTHWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA
    )
    index = commands.nv_define(tpm, NvPublic(OTHER_COUNTER, Alg.SHA256, attributes, b"", 8))
    try:
        tpm.call("TPM2_NV_Increment", tpm.esapi.nv_increment, index)
        yield tpm.pin(OTHER_COUNTER, index)
    finally:
        commands.nv_undefine(tpm, OTHER_COUNTER)
