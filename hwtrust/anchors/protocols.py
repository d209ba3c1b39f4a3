"""What an anchor can do: measure, attest, seal.

    Anchor ─┬─ Measurer  extend, read      TDX RTMRs, Nitro PCRs
            ├─ Attester  report data in, evidence out
            └─ Sealer    secret in, blob out, and back

Rules:
1. A capability that the hardware lacks is absent (None). Nothing stands in for it.
2. A capability that the hardware has and this process cannot use is absent too, and
   `problems` says why.
3. Evidence is a claim, not a fact: only `hwtrust.verify` may believe it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwtrust.errors.base import HwTrustError

REPORT_DATA_SIZE: Final = 64
"""Bytes that the evidence of every kind binds."""

Fact = str | int | bool | list[str]


class Kind(StrEnum):
    """The kinds of anchors."""

    TPM = "tpm"
    SNP = "snp"
    TDX = "tdx"
    SGX = "sgx"
    NITRO = "nitro"
    CCA = "cca"
    UNKNOWN = "unknown"
    """The kernel has a provider of reports that hwtrust does not know, or may not look at."""


class Capability(StrEnum):
    """What an anchor may be able to do."""

    MEASURE = "measure"
    ATTEST = "attest"
    SEAL = "seal"


@dataclass(frozen=True, slots=True)
class RawEvidence:
    """What an attester made, as it came from the hardware: nothing of it is verified.

    `certificates` is what the host gave along (SNP: the GHCB certificate table), and
    `manifest` what a service below the kernel bound in (SVSM); empty where there is none.
    """

    kind: Kind
    media_type: str
    evidence: bytes = field(repr=False)
    certificates: bytes = field(default=b"", repr=False)
    manifest: bytes = field(default=b"", repr=False)


class Measurer(Protocol):
    """Registers that only grow: a digest is added, nothing is taken away."""

    @property
    def registers(self) -> tuple[str, ...]:
        """The names of those that can be extended."""

    def read(self, register: str) -> bytes:
        """The value of a register.

        Raises:
            AnchorError: there is no such register, or it cannot be read.
        """

    def extend(self, register: str, digest: bytes) -> bytes:
        """Add a SHA-384 digest, 48 bytes, to a register; gives its new value.

        Raises:
            AnchorRegisterError: the register cannot be extended.
            AnchorError: the hardware refused; whether it has extended is not known.
        """


class Attester(Protocol):
    """Makes evidence that binds report data."""

    @property
    def kind(self) -> Kind:
        """The kind of its evidence."""

    def attest(self, report_data: bytes) -> RawEvidence:
        """Evidence that binds `report_data`, 64 bytes.

        Raises:
            ReportDataError: it is of another size.
            AnchorError: no evidence could be had, or none that answers this request.
        """


class Sealer(Protocol):
    """Encrypts under a key that only this software on this machine gets from the hardware."""

    def seal(self, secret: bytes) -> bytes:
        """A blob that `unseal` opens, here and in this state alone.

        Raises:
            AnchorError: the hardware gave no key, or the secret is too long.
        """

    def unseal(self, blob: bytes) -> bytes:
        """The secret in a blob.

        Raises:
            SealedBlobError: it is no blob, or not for this software, machine and state.
            AnchorError: the hardware gave no key.
        """

    def needs_reseal(self, blob: bytes) -> bool:
        """Whether the blob opens with a key of older firmware, and should be sealed anew.

        Raises:
            SealedBlobError: it is no blob of this sealer.
            AnchorError: the hardware does not say under which firmware it runs.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """One anchor of this machine, and what it can do.

    `served` are capabilities that hwtrust uses elsewhere than through this object: the TPM's.
    """

    kind: Kind
    name: str
    path: str
    measurer: Measurer | None = None
    attester: Attester | None = None
    sealer: Sealer | None = None
    served: frozenset[Capability] = frozenset()
    registers: tuple[str, ...] = ()
    """Names of the registers that can be extended."""
    problems: Mapping[Capability, HwTrustError] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """Why this process cannot use what the hardware has."""
    notes: tuple[str, ...] = ()

    def can(self, capability: Capability) -> bool:
        """Whether this process can use the capability."""
        own = {
            Capability.MEASURE: self.measurer,
            Capability.ATTEST: self.attester,
            Capability.SEAL: self.sealer,
        }[capability]
        return own is not None or capability in self.served

    def facts(self) -> dict[str, Fact]:
        """What there is to say of it, for people and programs."""
        told: dict[str, Fact] = {"kind": self.kind.value, "name": self.name, "path": self.path}
        told |= {capability.value: self.can(capability) for capability in Capability}
        told["registers"] = list(self.registers)
        told["problems"] = [
            f"{capability}: {problem.message} [{problem.code}]"
            for capability, problem in self.problems.items()
        ]
        told["notes"] = list(self.notes)
        return told
