"""Signs COSE_Sign1 messages, good ones and those that a thief of the key could make.

Keys come from names, and signatures are deterministic (RFC 6979): the same test data
for ever.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHMS: Final[Mapping[str, tuple[int, hashes.HashAlgorithm]]] = {
    "secp256r1": (-7, hashes.SHA256()),
    "secp384r1": (-35, hashes.SHA384()),
    "secp521r1": (-36, hashes.SHA512()),
}
"""The COSE algorithm and the hash that go with a curve."""


def key_named(name: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """The key of this name, on P-384 unless another curve is given."""
    scalar = (
        int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 40
    )  # below the order of every curve
    return ec.derive_private_key(scalar, curve or ec.SECP384R1())


def raw_signature(key: ec.EllipticCurvePrivateKey, signed: bytes, alg: int | None = None) -> bytes:
    """Of r and s, each of the curve's length; `alg` says by which COSE algorithm."""
    own, hash_ = ALGORITHMS[key.curve.name]
    if alg not in {None, own}:
        hash_ = next(hash_ for number, hash_ in ALGORITHMS.values() if number == alg)
    der = key.sign(signed, ec.ECDSA(hash_, deterministic_signing=True))
    size = (key.key_size + 7) // 8
    return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(der))


def sign1(
    payload: bytes,
    *,
    key: ec.EllipticCurvePrivateKey,
    tagged: bool,
    protected: bytes | None = None,
    unprotected: Mapping[Any, Any] | None = None,
) -> bytes:
    """A message over `payload`, signed whatever it says."""
    alg, _ = ALGORITHMS[key.curve.name]
    if protected is None:
        protected = cbor2.dumps({1: alg})
    signature = raw_signature(key, cbor2.dumps(["Signature1", protected, b"", payload]))
    message = [protected, dict(unprotected or {}), payload, signature]
    return cbor2.dumps(cbor2.CBORTag(18, message) if tagged else message)
