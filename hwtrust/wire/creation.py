"""Where an object was made: TPMS_CREATION_DATA, TPM 2.0 Part 2 §15.1.

The TPM hands it out with a new object, and signs its digest (TPM2_CertifyCreation).
"""

from __future__ import annotations

from typing import Self

import msgspec

from hwtrust.wire import codec
from hwtrust.wire.algorithms import MAX_DIGEST_SIZE, Alg, to_alg
from hwtrust.wire.attested import MAX_DATA, MAX_NAME
from hwtrust.wire.codec import Reader
from hwtrust.wire.selection import PcrSelection


class CreationData(msgspec.Struct, frozen=True, gc=False):
    """What the TPM notes of an object's creation."""

    selection: PcrSelection
    """The PCRs that whoever made it asked to have noted."""
    pcr_digest: bytes
    locality: int
    parent_name_alg: Alg
    """NULL where the parent is a hierarchy."""
    parent_name: bytes
    """The parent's Name; of a hierarchy, its handle."""
    parent_qualified_name: bytes
    outside_info: bytes

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole TPMS_CREATION_DATA.

        Raises:
            MalformedError: cut short, or followed by something.
            UnsupportedError: an unknown PCR bank or algorithm.
        """
        reader = Reader(raw, "TPMS_CREATION_DATA")
        found = cls(
            PcrSelection.decode(reader),
            reader.sized(MAX_DIGEST_SIZE),
            reader.u8(),
            to_alg(reader.u16()),
            reader.sized(MAX_NAME),
            reader.sized(MAX_NAME),
            reader.sized(MAX_DATA),
        )
        reader.end()
        return found

    def encode(self) -> bytes:
        """The TPMS_CREATION_DATA."""
        return (
            self.selection.encode()
            + codec.tpm2b(self.pcr_digest)
            + codec.u8(self.locality)
            + codec.u16(self.parent_name_alg)
            + codec.tpm2b(self.parent_name)
            + codec.tpm2b(self.parent_qualified_name)
            + codec.tpm2b(self.outside_info)
        )
