"""A device as its backend sees it: a `SoftwareTpm`, an event log, an epoch counter.

    device = Attester()
    device.load(release)
    evidence = device.evidence(nonce, purpose=Purpose.ATTEST)
    verify_evidence(evidence, device=device.known, nonce=nonce, …)

It is honest unless a test tells it otherwise: every argument of `evidence` and
`finish` replaces one honest part, and what signs over it signs over the
replacement, as an attacker with the machine (but not inside the TPM) would do.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from hwtrust.verify.evidence import KnownDevice
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import CAP, RELOAD, Event, EventLog
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.codec import u64
from hwtrust.wire.messages import (
    Binding,
    EnrolFinish,
    Evidence,
    LayerReference,
    Release,
    Signed,
    TlsKeyKind,
)
from hwtrust.wire.policy import fold
from hwtrust.wire.root import counter_policy, policy_key_public
from hwtrust.wire.statement import NOTHING_SAID, encode_statement
from hwtrust.wire.states import layer_events
from hwtrust.wire.structures import PcrSelection
from simulators.software_tpm import SoftwareTpm, counter_public

if TYPE_CHECKING:
    from simulators.software_tpm import Signed as SignedByTpm

BANKS: Final = (Alg.SHA1, Alg.SHA256)


def make_release(name: str = "1.0", *layers: str) -> Release:
    """A release whose layers have digests that follow from their names and the release's."""
    return Release(
        name=name,
        layers=tuple(
            LayerReference(
                name=layer,
                version=name,
                digest=hashlib.sha256(f"{name} {layer}".encode()).digest(),
            )
            for layer in layers or ("root-of-trust", "kernel", "frontend")
        ),
    )


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The SubjectPublicKeyInfo of a key pair, DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate request that `key` signs for itself, DER."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def carried(signed: SignedByTpm) -> Signed:
    """What a TPM signed, as messages carry it."""
    return Signed(message=signed.message, signature=signed.signature)


class Attester:
    """A device with one TPM; change its attributes to change what it says."""

    def __init__(
        self,
        tpm: SoftwareTpm | None = None,
        *,
        policy_key: ec.EllipticCurvePrivateKey | None = None,
        selection: str = "sha256:0,7,12",
        pcr: int = 12,
        counter: int = 7,
        release: str = "1.0",
    ) -> None:
        self.tpm = tpm or SoftwareTpm()
        self.policy_key = policy_key or ec.generate_private_key(ec.SECP256R1())
        self.policy_public = policy_key_public(self.policy_key.public_key())
        self.selection = PcrSelection.parse(selection)
        self.pcr = pcr
        self.counter = counter
        self.release = release
        self.statement = NOTHING_SAID
        self.log = EventLog()
        self.platform = {number: bytes([number + 1]) * 32 for number in range(24)}
        self.index = counter_public(fold(counter_policy(self.policy_public, self.tpm.ek.name)))

    # --- what it does -----------------------------------------------------------

    def append(self, *events: Event) -> None:
        """Extend events into the application PCR, and write them down."""
        for event in events:
            self.log = self.log.appended(event, pcr=self.pcr, banks=BANKS)

    def load(self, release: Release, *, cap: bool = True) -> None:
        """Load a release as a device does: after a reset, or by a reload."""
        if self.log.records:
            self.append(RELOAD)
        self.append(*layer_events(release))
        if cap:
            self.append(CAP)
        self.release = release.name

    def reset(self) -> None:
        """Reboot."""
        self.tpm.reset()
        self.log = EventLog()

    # --- what it is --------------------------------------------------------------

    @property
    def known(self) -> KnownDevice:
        """What its backend keeps of it."""
        return KnownDevice(
            name=self.tpm.ek.name,
            ak=self.tpm.ak,
            selection=self.selection,
            pcr=self.pcr,
            counter_name=self.index.name,
        )

    @property
    def tls_key(self) -> bytes:
        """The SubjectPublicKeyInfo of its TLS key."""
        return spki(self.tpm.tls_key)

    @property
    def values(self) -> dict[int, bytes]:
        """What the quoted PCRs of the SHA-256 bank hold."""
        ((_, numbers),) = self.selection.banks
        held = {**self.platform, self.pcr: self.log.value()}
        return {number: held[number] for number in numbers}

    # --- what it says --------------------------------------------------------------

    def binding(
        self,
        nonce: bytes,
        *,
        purpose: Purpose,
        log: bytes | None = None,
        epoch: int | None = None,
    ) -> Binding:
        """What its quote binds."""
        return Binding(
            purpose=purpose,
            nonce=nonce,
            tls_key=self.tls_key,
            epoch=self.counter if epoch is None else epoch,
            release=self.release,
            log_digest=hashlib.sha256(self.log.encode() if log is None else log).digest(),
            statement=encode_statement(self.statement),
        )

    def evidence(
        self,
        nonce: bytes,
        *,
        purpose: Purpose = Purpose.ATTEST,
        binding: Binding | None = None,
        log: bytes | None = None,
        epoch: int | None = None,
        pcrs: dict[int, bytes] | None = None,
        selection: PcrSelection | None = None,
    ) -> Evidence:
        """Quote and certify."""
        if binding is None:
            binding = self.binding(nonce, purpose=purpose, log=log, epoch=epoch)
        values = self.values if pcrs is None else pcrs
        digest = binding.digest()
        quote = self.tpm.quote(
            digest,
            {Alg.SHA256: values},
            selection=self.selection if selection is None else selection,
        )
        counter = self.tpm.nv_certify(self.index, u64(self.counter), digest)
        return Evidence(
            binding=binding,
            quote=carried(quote),
            pcrs=values,
            log=self.log.encode() if log is None else log,
            counter=carried(counter),
        )

    def finish(
        self,
        nonce: bytes,
        *,
        kind: TlsKeyKind = TlsKeyKind.TPM,
        secret: bytes = b"",
        csr: bytes | None = None,
        evidence: Evidence | None = None,
    ) -> EnrolFinish:
        """The last message of its enrolment."""
        csr = make_csr(self.tpm.tls_key) if csr is None else csr
        in_tpm = kind is TlsKeyKind.TPM
        bound = hashlib.sha256(nonce + csr).digest()
        return EnrolFinish(
            secret=secret,
            storage_public=self.tpm.storage.encode_sized(),
            storage_certify=carried(self.tpm.certify(self.tpm.storage, nonce)),
            counter_public=self.index.encode(),
            selection=str(self.selection),
            tls_kind=kind,
            csr=csr,
            tls_public=self.tpm.tls.encode_sized() if in_tpm else b"",
            tls_certify=carried(self.tpm.certify(self.tpm.tls, bound)) if in_tpm else None,
            evidence=self.evidence(nonce, purpose=Purpose.ENROL) if evidence is None else evidence,
        )
