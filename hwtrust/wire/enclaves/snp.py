"""What the AMD-SP signs for an SEV-SNP guest, and the certificates beside it.

    outblob ──▶ SnpReport        ATTESTATION_REPORT, SEV-SNP firmware ABI (56860) §7.3
    auxblob ──▶ CertificateTable GHCB specification (56421) §4.1.8.1

Decoding believes nothing: only `hwtrust.verify.enclaves.snp` turns a report into
claims. Rules:

1. `raw` is what was received; the signature is checked over `signed`, its first
   0x2A0 bytes, never over a re-encoding.
2. Versions 2 to 5, 1184 bytes each, all numbers little-endian. What must be zero
   in a version is refused otherwise: it would mean something that is not known here.
3. A TCB version is eight bytes whose order depends on the product, which a report
   of version 2 does not tell: they are components only once the product is known.
4. Bits of PLATFORM_INFO that are not known are kept: they say what the platform has.
"""

from __future__ import annotations

import struct
from enum import IntEnum, StrEnum
from struct import Struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self
from uuid import UUID

import msgspec

from hwtrust.errors import MalformedError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZE: Final = 0x4A0
SIGNED_SIZE: Final = 0x2A0
VERSIONS: Final = range(2, 6)
REPORT_DATA_SIZE: Final = 64
CHIP_ID_SIZE: Final = 64
ECDSA_P384_SHA384: Final = 1
HOST: Final = 0xFFFF_FFFF
"""In the place of a VMPL: the host asked for the report, not the guest."""

_REPORT: Final = Struct(
    "<IIQ16s16sII8sQII64s48s32s48s48s32s32s8sBBB21s64s8sBBBBBBBB8sQQ152s72s72s368s"
)
_NO_MITIGATIONS: Final = bytes(16)
_CPUID_SINCE: Final = 3
_MITIGATIONS_SINCE: Final = 5

POLICY_BITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "smt": 16,
        "migrate_ma": 18,
        "debug": 19,
        "single_socket": 20,
        "cxl_allow": 21,
        "mem_aes_256_xts": 22,
        "rapl_dis": 23,
        "ciphertext_hiding_dram": 24,
        "page_swap_disable": 25,
    }
)
"""The bits of POLICY by their names in the ABI."""
_POLICY_ONE: Final = 1 << 17
_POLICY_UNKNOWN: Final = ~(0xFFFF | _POLICY_ONE | sum(1 << bit for bit in POLICY_BITS.values()))

PLATFORM_BITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "smt_en": 0,
        "tsme_en": 1,
        "ecc_en": 2,
        "rapl_dis": 3,
        "ciphertext_hiding_dram_en": 4,
        "alias_check_complete": 5,
        "iommu_write_safe": 6,
        "tio_en": 7,
    }
)
"""The bits of PLATFORM_INFO by their names in the ABI."""
PLATFORM_UNKNOWN: Final = ~sum(1 << bit for bit in PLATFORM_BITS.values())

_AUTHOR_KEY: Final = 0b1
_MASK_CHIP_KEY: Final = 0b10
_SIGNING_KEY_SHIFT: Final = 2
_KEY_INFO_SIZE: Final = 5


class Product(StrEnum):
    """A line of processors with its own root; Siena and Bergamo are of Genoa's."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


_MODELS: Final = (
    (0x19, range(0x10), Product.MILAN),
    (0x19, range(0x10, 0x20), Product.GENOA),
    (0x19, range(0xA0, 0xB0), Product.GENOA),  # Siena, Bergamo
    (0x1A, range(0x12), Product.TURIN),
)
"""CPUID family, models, product."""


class SigningKey(IntEnum):
    """SIGNING_KEY of the report's key info: what signed it."""

    __hash__ = int.__hash__

    VCEK = 0
    VLEK = 1
    NONE = 7


class Tcb(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """TCB_VERSION: the security patch level of each component."""

    fmc: int = 0
    """Turin alone has one."""
    bootloader: int
    tee: int
    snp: int
    microcode: int

    @classmethod
    def decode(cls, raw: bytes, product: Product) -> Self:
        """Read the eight bytes of a TCB version of that product.

        Raises:
            MalformedError: they are not eight.
            UnsupportedError: a component has a level that is not known here.
        """
        if len(raw) != len(b"TCB_VERS"):
            raise MalformedError("a TCB version does not have eight bytes", size=len(raw))
        if product is Product.TURIN:
            fmc, bootloader, tee, snp = raw[:4]
            reserved = raw[4:7]
        else:
            (bootloader, tee), fmc, snp, reserved = raw[:2], 0, raw[6], raw[2:6]
        if any(reserved):
            raise UnsupportedError(f"the TCB version {raw.hex()} has levels in reserved places")
        return cls(fmc=fmc, bootloader=bootloader, tee=tee, snp=snp, microcode=raw[7])

    def encode(self, product: Product) -> bytes:
        """The eight bytes, in the order of that product.

        Raises:
            MalformedError: a level does not fit into a byte, or the product has no such component.
        """
        if product is Product.TURIN:
            levels = (self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode)
        else:
            levels = (self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode)
        if (self.fmc and product is not Product.TURIN) or not all(
            level in range(256) for level in levels
        ):
            raise MalformedError(f"{self} is no TCB version of {product}")
        return bytes(levels)

    def below(self, floor: Tcb) -> list[str]:
        """The components that are lower than in `floor`."""
        return [name for name in COMPONENTS if getattr(self, name) < getattr(floor, name)]

    def __str__(self) -> str:
        return " ".join(f"{name}={getattr(self, name)}" for name in COMPONENTS)


COMPONENTS: Final = Tcb.__struct_fields__


class Firmware(msgspec.Struct, frozen=True, order=True, gc=False):
    """A version of the SEV-SNP firmware; compares as major, minor, build."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


class SnpReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """ATTESTATION_REPORT; the fields bear their names in the ABI.

    `cpuid` is family, model and stepping: zeros before version 3. The mitigation
    vectors are zero before version 5. TCB versions are as they stand there (rule 3).
    """

    raw: bytes
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    author_key_en: bool
    mask_chip_key: bool
    signing_key: SigningKey
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int]
    chip_id: bytes
    committed_tcb: bytes
    current_firmware: Firmware
    committed_firmware: Firmware
    launch_tcb: bytes
    launch_mit_vector: int
    current_mit_vector: int
    signature_r: bytes
    signature_s: bytes

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole report.

        Raises:
            MalformedError: not 1184 bytes, or something where zeros must be.
            UnsupportedError: a version, policy or way of signing that is not known here.
        """
        raw = bytes(raw)
        if len(raw) != SIZE:
            raise MalformedError(
                f"an SEV-SNP report has {SIZE} bytes, and these are {len(raw)}", size=len(raw)
            )
        fields = _REPORT.unpack(raw)
        (version, guest_svn, policy, family_id, image_id, vmpl, algorithm) = fields[:7]
        (current_tcb, platform_info, key_info, after_key_info) = fields[7:11]
        # (2): the version comes first, since it says what else there is.
        if version not in VERSIONS:
            raise UnsupportedError(
                f"SEV-SNP reports of version {version} are not known", version=version
            )
        _require_policy(policy)
        if algorithm != ECDSA_P384_SHA384:
            raise UnsupportedError(f"the report is signed with the unknown algorithm {algorithm}")
        signing_key = _signing_key(key_info)
        cpuid, after_cpuid = fields[19:22], fields[22]
        reserved = [after_key_info, any(after_cpuid), fields[28], fields[32], any(fields[36])]
        if version < _CPUID_SINCE:
            reserved.append(any(cpuid))
        if version < _MITIGATIONS_SINCE:
            reserved += fields[34:36]
        if any(reserved) or any(fields[39]):
            raise MalformedError("an SEV-SNP report has something where zeros must be")
        return cls(
            raw=raw,
            version=version,
            guest_svn=guest_svn,
            policy=policy,
            family_id=family_id,
            image_id=image_id,
            vmpl=vmpl,
            current_tcb=current_tcb,
            platform_info=platform_info,
            author_key_en=bool(key_info & _AUTHOR_KEY),
            mask_chip_key=bool(key_info & _MASK_CHIP_KEY),
            signing_key=signing_key,
            report_data=fields[11],
            measurement=fields[12],
            host_data=fields[13],
            id_key_digest=fields[14],
            author_key_digest=fields[15],
            report_id=fields[16],
            report_id_ma=fields[17],
            reported_tcb=fields[18],
            cpuid=cpuid,
            chip_id=fields[23],
            committed_tcb=fields[24],
            current_firmware=Firmware(fields[27], fields[26], fields[25]),
            committed_firmware=Firmware(fields[31], fields[30], fields[29]),
            launch_tcb=fields[33],
            launch_mit_vector=fields[34],
            current_mit_vector=fields[35],
            signature_r=fields[37],
            signature_s=fields[38],
        )

    def encode(self) -> bytes:
        """The report, from the fields; equal to `raw` after `decode`.

        Raises:
            MalformedError: a number does not fit into its place.
        """
        key_info = self.author_key_en * _AUTHOR_KEY | self.mask_chip_key * _MASK_CHIP_KEY
        current, committed = self.current_firmware, self.committed_firmware
        try:
            return _REPORT.pack(
                self.version,
                self.guest_svn,
                self.policy,
                self.family_id,
                self.image_id,
                self.vmpl,
                ECDSA_P384_SHA384,
                self.current_tcb,
                self.platform_info,
                key_info | self.signing_key << _SIGNING_KEY_SHIFT,
                0,
                self.report_data,
                self.measurement,
                self.host_data,
                self.id_key_digest,
                self.author_key_digest,
                self.report_id,
                self.report_id_ma,
                self.reported_tcb,
                *self.cpuid,
                b"",
                self.chip_id,
                self.committed_tcb,
                *(current.build, current.minor, current.major, 0),
                *(committed.build, committed.minor, committed.major, 0),
                self.launch_tcb,
                self.launch_mit_vector,
                self.current_mit_vector,
                b"",
                self.signature_r,
                self.signature_s,
                b"",
            )
        except struct.error:
            raise MalformedError("a field of an SEV-SNP report does not fit") from None

    @property
    def signed(self) -> bytes:
        """The part that the signature covers, as received."""
        return self.raw[:SIGNED_SIZE]

    @property
    def product(self) -> Product | None:
        """The line of processors that CPUID tells; None before version 3.

        Raises:
            UnsupportedError: it is none that is known here.
        """
        if self.version < _CPUID_SINCE:
            return None
        family, model, _ = self.cpuid
        for known, models, product in _MODELS:
            if family == known and model in models:
                return product
        raise UnsupportedError(f"the processor 0x{family:02x}/0x{model:02x} is not known")

    @property
    def debug(self) -> bool:
        """Whether the host may read and write the guest's memory."""
        return bool(self.policy >> POLICY_BITS["debug"] & 1)

    @property
    def abi_minimum(self) -> tuple[int, int]:
        """The firmware ABI, major and minor, that the guest's policy asks for."""
        return self.policy >> 8 & 0xFF, self.policy & 0xFF

    @property
    def policy_names(self) -> frozenset[str]:
        """The bits of POLICY that are set."""
        return _names(self.policy, POLICY_BITS)

    @property
    def platform_names(self) -> frozenset[str]:
        """The bits of PLATFORM_INFO that are set, of those that are known."""
        return _names(self.platform_info, PLATFORM_BITS)

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """What the report says, for people and programs; nothing of it is verified."""
        major, minor = self.abi_minimum
        return {
            "version": self.version,
            "guest_svn": self.guest_svn,
            "policy": f"0x{self.policy:x}",
            "policy_bits": sorted(self.policy_names),
            "abi_minimum": f"{major}.{minor}",
            "debug": self.debug,
            "family_id": self.family_id.hex(),
            "image_id": self.image_id.hex(),
            "vmpl": self.vmpl,
            "current_tcb": self.current_tcb.hex(),
            "platform_info": f"0x{self.platform_info:x}",
            "platform_bits": sorted(self.platform_names),
            "author_key_en": self.author_key_en,
            "mask_chip_key": self.mask_chip_key,
            "signing_key": self.signing_key.name.lower(),
            "report_data": self.report_data.hex(),
            "measurement": self.measurement.hex(),
            "host_data": self.host_data.hex(),
            "id_key_digest": self.id_key_digest.hex(),
            "author_key_digest": self.author_key_digest.hex(),
            "report_id": self.report_id.hex(),
            "report_id_ma": self.report_id_ma.hex(),
            "reported_tcb": self.reported_tcb.hex(),
            "cpuid": " ".join(f"0x{number:02x}" for number in self.cpuid),
            "chip_id": self.chip_id.hex(),
            "committed_tcb": self.committed_tcb.hex(),
            "current_firmware": str(self.current_firmware),
            "committed_firmware": str(self.committed_firmware),
            "launch_tcb": self.launch_tcb.hex(),
            "launch_mit_vector": f"0x{self.launch_mit_vector:x}",
            "current_mit_vector": f"0x{self.current_mit_vector:x}",
        }


def _names(bits: int, table: Mapping[str, int]) -> frozenset[str]:
    return frozenset(name for name, bit in table.items() if bits >> bit & 1)


def _require_policy(policy: int) -> None:
    if policy & _POLICY_UNKNOWN:
        raise UnsupportedError(f"the guest's policy 0x{policy:x} has bits that are not known")
    if not policy & _POLICY_ONE:
        raise MalformedError(f"the guest's policy 0x{policy:x} lacks the bit that is always set")


def _signing_key(key_info: int) -> SigningKey:
    if key_info >> _KEY_INFO_SIZE:
        raise MalformedError("the report's key info has something where zeros must be")
    try:
        return SigningKey(key_info >> _SIGNING_KEY_SHIFT)
    except ValueError:
        raise UnsupportedError("the report is signed with an unknown kind of key") from None


# --- the certificates beside a report -------------------------------------------------

VCEK: Final = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK: Final = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK: Final = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
"""The ASK, or the ASVK beside a VLEK."""
ARK: Final = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")
CRL: Final = UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")

TABLE_LIMIT: Final = 64 * 1024
ENTRIES_LIMIT: Final = 32

_ENTRY: Final = Struct("<16sII")
_END: Final = bytes(_ENTRY.size)
_NAMES: Final = MappingProxyType({VCEK: "vcek", VLEK: "vlek", ASK: "ask", ARK: "ark", CRL: "crl"})

_CHAIN: Final = frozenset({VCEK, VLEK, ASK, ARK})


class CertificateTable(msgspec.Struct, frozen=True):
    """What the host puts beside a report: contents by GUID, in their order.

    The host is not trusted: these are hints, as certificates always are. An empty
    table is the common one, and an empty blob stands for it.
    """

    entries: tuple[tuple[UUID, bytes], ...]

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a table; what no entry names, such as padding to a page, is left out.

        Raises:
            MalformedError: too large, without an end, or an entry lies outside.
        """
        raw = bytes(raw)
        if len(raw) > TABLE_LIMIT:
            raise MalformedError(
                f"a certificate table has {len(raw)} bytes, {TABLE_LIMIT} at most", size=len(raw)
            )
        if not raw:
            return cls(())
        heads: list[tuple[bytes, int, int]] = []
        for at in range(0, len(raw) - _ENTRY.size + 1, _ENTRY.size):
            if raw[at : at + _ENTRY.size] == _END:
                break
            if len(heads) == ENTRIES_LIMIT:
                raise MalformedError(f"a certificate table has more than {ENTRIES_LIMIT} entries")
            heads.append(_ENTRY.unpack_from(raw, at))
        else:
            raise MalformedError("a certificate table has no end")
        first = _ENTRY.size * (len(heads) + 1)
        for guid, offset, size in heads:
            if offset < first or offset + size > len(raw):
                raise MalformedError(
                    f"the entry {UUID(bytes=guid)} lies outside of its certificate table",
                    offset=offset,
                )
        return cls(
            tuple((UUID(bytes=guid), raw[offset : offset + size]) for guid, offset, size in heads)
        )

    def encode(self) -> bytes:
        """The table, its contents one behind the other; nothing for an empty one."""
        if not self.entries:
            return b""
        at = _ENTRY.size * (len(self.entries) + 1)
        heads = []
        for guid, content in self.entries:
            heads.append(_ENTRY.pack(guid.bytes, at, len(content)))
            at += len(content)
        return b"".join(heads) + _END + b"".join(content for _, content in self.entries)

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """The contents of the entries that are certificates of a report's chain."""
        return tuple(content for guid, content in self.entries if guid in _CHAIN and content)

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """What is in it, for people and programs."""
        return {
            "entries": [
                f"{_NAMES.get(guid, str(guid))} ({len(content)} bytes)"
                for guid, content in self.entries
            ]
        }
