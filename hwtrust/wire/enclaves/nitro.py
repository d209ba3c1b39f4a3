"""What a Nitro security module signs: the attestation document of an enclave.

    bytes ── NitroDocument.decode ──▶ COSE_Sign1 { module, time, PCRs, certificates, nonce … }

Decoding believes nothing: only `hwtrust.verify.enclaves.nitro` does. Rules:

1. A COSE_Sign1 message without a tag, whose payload is a map of the fields below
   and of no others.
2. Sizes and counts are those of AWS's specification. It gives two limits for
   nonce and user data, 512 and 1024 bytes; the larger one is taken.
3. The digest is SHA384, and PCRs, 0 to 31, have its length, every one.

AWS Nitro Enclaves, Verifying the root of trust: attestation document specification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import msgspec

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.wire.enclaves import cbor
from hwtrust.wire.enclaves.cose import MAX_SIZE, CoseSign1

if TYPE_CHECKING:
    from collections.abc import Mapping

DIGEST: Final = "SHA384"
PCR_SIZE: Final = 48
PCRS: Final = range(32)
MAX_CERTIFICATES: Final = 8
"""In the cabundle; in the field there are four."""

_CERTIFICATE_SIZES: Final = range(1, 1024 + 1)
_DATA_SIZES: Final = range(1024 + 1)
_LONGEST_MODULE_ID: Final = 256
_TIMES: Final = range(1, 2**63)
_DEPTH: Final = 2

Facts = dict[str, str | int | bool | list[str]]


class NitroDocument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An attestation document as it was received."""

    message: CoseSign1
    module_id: str
    """The enclave: the instance it runs on, and a number of its own."""
    timestamp: int
    """When the document was made, UTC milliseconds."""
    pcrs: dict[int, bytes]
    certificate: bytes
    """Of the key that has signed the document; DER."""
    cabundle: tuple[bytes, ...]
    """Its issuers, the root first; DER."""
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole document.

        Raises:
            MalformedError: it is none, cut short, too large, or followed by something.
            UnsupportedError: its digest or its signature algorithm is not known.
        """
        # (1): message and fields.
        message = CoseSign1.decode(raw, tagged=False)
        what = "the attestation document"
        fields = cbor.Fields(cbor.decode(message.payload, what, most=MAX_SIZE, depth=_DEPTH), what)
        # (3): digest.
        digest = fields.text("digest", len(DIGEST))
        if digest != DIGEST:
            raise UnsupportedError("the attestation document has PCRs of another hash than SHA384")
        document = cls(
            message=message,
            module_id=fields.text("module_id", _LONGEST_MODULE_ID),
            timestamp=fields.number("timestamp", _TIMES),
            pcrs=_pcrs(fields.mapping("pcrs", range(1, len(PCRS) + 1))),
            certificate=fields.octets("certificate", _CERTIFICATE_SIZES),
            cabundle=_bundle(fields.items("cabundle", range(1, MAX_CERTIFICATES + 1))),
            public_key=fields.octets_or_none("public_key", _DATA_SIZES),
            user_data=fields.octets_or_none("user_data", _DATA_SIZES),
            nonce=fields.octets_or_none("nonce", _DATA_SIZES),
        )
        fields.end()
        return document

    def facts(self) -> Facts:
        """What the document says, for people and programs."""
        return facts_of(
            module_id=self.module_id,
            timestamp=self.timestamp,
            pcrs=self.pcrs,
            public_key=self.public_key,
            user_data=self.user_data,
            nonce=self.nonce,
        )


def facts_of(
    *,
    module_id: str,
    timestamp: int,
    pcrs: Mapping[int, bytes],
    public_key: bytes | None,
    user_data: bytes | None,
    nonce: bytes | None,
) -> Facts:
    """The same of a document that was read, and of one that was verified."""
    data = {"public_key": public_key, "user_data": user_data, "nonce": nonce}
    return {
        "module_id": module_id,
        "timestamp": timestamp,
        "debug": is_debug(pcrs),
        **{f"pcr{number}": value.hex() for number, value in sorted(pcrs.items())},
        **{name: value.hex() for name, value in data.items() if value is not None},
    }


def is_debug(pcrs: Mapping[int, bytes]) -> bool:
    """Whether the enclave's image is not measured: any of PCR 0 to 2 is zero or missing.

    An enclave in debug mode has zeros there: its memory and its console are open
    to the instance on which it runs.
    """
    return not all(any(pcrs.get(number, b"")) for number in range(3))


def _pcrs(values: dict[object, object]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for number, value in values.items():
        if type(number) is not int or number not in PCRS:
            raise MalformedError("the attestation document has a PCR that is none of 0 to 31")
        if type(value) is not bytes or len(value) != PCR_SIZE:
            raise MalformedError(f"PCR {number} is not of {PCR_SIZE} bytes", pcr=number)
        found[number] = value
    return found


def _bundle(items: list[object]) -> tuple[bytes, ...]:
    found = []
    for item in items:
        if type(item) is not bytes or len(item) not in _CERTIFICATE_SIZES:
            raise MalformedError("the cabundle has a certificate of no or too many bytes")
        found.append(item)
    return tuple(found)
