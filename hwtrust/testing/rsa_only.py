"""A TPM that offers no elliptic curves, made of one that does.

libtpms of today's distributions has ECC compiled in. What stands on the wire
answers for it as a TPM without ECC would: the capabilities name neither curves
nor what needs them, keys of that type are refused with TPM_RC_TYPE, and the
commands of ECC alone with TPM_RC_COMMAND_CODE (TPM 2.0 Part 2 §6.6, Part 3 §5.2).

A capability that is asked for in a session is left as it is: its answer is
authenticated, and nobody on the wire can change it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hwtrust.testing.bus import (
    CREATE_PRIMARY,
    GET_CAPABILITY,
    NO_SESSIONS,
    SESSIONS,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import Reader, u8, u16, u32

if TYPE_CHECKING:
    from collections.abc import Callable

    Forward = Callable[[bytes], bytes]

RC_COMMAND_CODE: Final = 0x143
RC_TYPE_1: Final = 0x1CA
RC_TYPE_2: Final = 0x2CA
"""TPM_RC_TYPE of the first parameter, and of the second."""

CREATE: Final = 0x153
LOAD_EXTERNAL: Final = 0x167
TEST_PARMS: Final = 0x18A
CREATE_LOADED: Final = 0x191

# TPM2_ECDH_ZGen, ECDH_KeyGen, ECC_Parameters, Commit, ZGen_2Phase, EC_Ephemeral,
# ECC_Encrypt, ECC_Decrypt.
_COMMANDS: Final = frozenset({0x154, 0x163, 0x178, 0x18B, 0x18D, 0x18E, 0x199, 0x19A})
# ECDSA, ECDH, ECDAA, SM2, ECSCHNORR, ECMQV, KDF1_SP800_56A, ECC.
_ALGORITHMS: Final = frozenset({0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x20, 0x23})

_CAP_ALGS: Final = 0
_CAP_COMMANDS: Final = 2
_CAP_ECC_CURVES: Final = 8

_HEADER: Final = 10
# Handles of the commands that bring a key type along, as their second parameter.
_MAKES_KEYS: Final = {CREATE_PRIMARY: 1, CREATE: 1, CREATE_LOADED: 1, LOAD_EXTERNAL: 0}


class RsaOnly:
    """A fault of every command: the TPM knows no elliptic curves."""

    def apply(self, request: bytes, forward: Forward) -> bytes:
        """Answer as a TPM without ECC."""
        reader = Reader(request, "TPM command")
        tag = reader.u16()
        reader.u32()
        code = reader.u32()
        if code in _COMMANDS:
            return _refusal(RC_COMMAND_CODE)
        if code in _MAKES_KEYS and _key_type(reader, tag, _MAKES_KEYS[code]) == Alg.ECC:
            return _refusal(RC_TYPE_2)
        if code == TEST_PARMS and tag == NO_SESSIONS and reader.u16() == Alg.ECC:
            return _refusal(RC_TYPE_1)
        response = forward(request)
        return _without_curves(response) if code == GET_CAPABILITY else response


def _refusal(rc: int) -> bytes:
    return u16(NO_SESSIONS) + u32(_HEADER) + u32(rc)


def _key_type(reader: Reader, tag: int, handles: int) -> int:
    """The type in the public area that is the second parameter; sizes are never encrypted."""
    reader.take(4 * handles)
    if tag == SESSIONS:
        reader.take(reader.u32())
    reader.sized()
    return int.from_bytes(reader.sized()[:2], "big")


def _without_curves(response: bytes) -> bytes:
    """A TPM2_GetCapability response without all that needs ECC (Part 3 §30.2)."""
    reader = Reader(response, "TPM response")
    tag = reader.u16()
    reader.u32()
    if tag != NO_SESSIONS or reader.u32():
        return response
    more, capability = reader.u8(), reader.u32()
    widths = {_CAP_ALGS: 6, _CAP_COMMANDS: 4, _CAP_ECC_CURVES: 2}
    if capability not in widths:
        return response
    entries = [reader.take(widths[capability]) for _ in range(reader.u32())]
    kept = [entry for entry in entries if not _is_of_curves(capability, entry)]
    body = u8(more) + u32(capability) + u32(len(kept)) + b"".join(kept)
    return u16(NO_SESSIONS) + u32(_HEADER + len(body)) + u32(0) + body


def _is_of_curves(capability: int, entry: bytes) -> bool:
    if capability == _CAP_ALGS:
        return int.from_bytes(entry[:2], "big") in _ALGORITHMS
    if capability == _CAP_COMMANDS:  # TPMA_CC: the code is in the low half
        return int.from_bytes(entry[2:], "big") in _COMMANDS
    return True
