"""The two key derivation functions of TPM 2.0, TPM 2.0 Part 1 §11.4.10.

They give what both sides of a secret exchange with a TPM must agree on: the
seed of an encapsulation (KDFe) and the keys that are made from it (KDFa).

Rules:
1. `label` comes without its terminating zero byte; it is added here, once.
2. `bits` need not be a multiple of eight: the unused bits are the uppermost of
   the first byte, and are zero.
3. Nothing here checks whether a hash or a size is strong enough for a purpose:
   a TPM may name any key with any hash that it has, and zero bits are none.
   Whoever accepts the key decides.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from hwtrust.errors import UnsupportedError
from hwtrust.wire.algorithms import Alg, alg_name, digest_size, new_hash
from hwtrust.wire.codec import u32

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BITS: Final = 8 * 1024


def mac(alg: Alg, key: bytes, data: bytes) -> bytes:
    """HMAC of `data` under `key`, with the hash `alg`.

    Raises:
        UnsupportedError: `alg` is no hash, or none that this Python can compute.
    """
    name = "sm3" if alg is Alg.SM3_256 else alg_name(alg)
    try:
        return hmac.digest(key, data, name)
    except ValueError:
        raise UnsupportedError(
            f"this Python cannot compute HMAC with {alg_name(alg)}", alg=int(alg)
        ) from None


def kdf_a(
    alg: Alg, key: bytes, label: bytes, context_u: bytes, context_v: bytes, *, bits: int
) -> bytes:
    """KDFa: `bits` bits from a secret key, SP800-108 in counter mode with HMAC.

    TPM 2.0 Part 1 §11.4.10.2.

    Raises:
        UnsupportedError: `alg` is no hash, or `bits` is out of range.
    """
    fixed = label + b"\0" + context_u + context_v + u32(bits)
    return _counted(alg, lambda counter: mac(alg, key, counter + fixed), bits)


def kdf_e(alg: Alg, z: bytes, label: bytes, party_u: bytes, party_v: bytes, *, bits: int) -> bytes:
    """KDFe: `bits` bits from `z`, the x-coordinate of an ECDH secret, SP800-56A.

    `party_u` and `party_v` are the x-coordinates of the two public points.
    TPM 2.0 Part 1 §11.4.10.3.

    Raises:
        UnsupportedError: `alg` is no hash, or `bits` is out of range.
    """
    fixed = z + label + b"\0" + party_u + party_v
    return _counted(alg, lambda counter: new_hash(alg, counter + fixed), bits)


def _counted(alg: Alg, block: Callable[[bytes], bytes], bits: int) -> bytes:
    """The blocks 1, 2, … end to end, cut to `bits` bits."""
    if not 0 <= bits <= MAX_BITS:
        raise UnsupportedError(f"a TPM derives 0 to {MAX_BITS} bits at once, not {bits}", bits=bits)
    size = (bits + 7) // 8
    rounds = -(-size // digest_size(alg))
    derived = bytearray(b"".join(block(u32(i)) for i in range(1, rounds + 1))[:size])
    if bits % 8:
        derived[0] &= (1 << bits % 8) - 1
    return bytes(derived)
