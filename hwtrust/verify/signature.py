"""Does this TPM signature verify under this key?

Pure arithmetic over received bytes: says nothing about who holds the key or
what was signed. Rules:

1. The key is strong: P-256, P-384, or RSA of 2048 to 4096 bits.
2. The signature's algorithm is one that the key can make. Where the key is a
   `Public` that names a scheme, scheme and hash are exactly that scheme's: a
   signer does not get to choose another hash.
3. SHA-1 is refused, unless the caller says `unsafe_allow_sha1`.
4. ECDSA: 0 < r, s < n, checked here and not left to a backend. High s is taken:
   TPMs do not normalise, and nothing here is identified by its signature.
5. RSAPSS: the salt is as long as the digest, or as long as fits. TPM 2.0 Part 1
   §B.7 has TPMs use the longest that fits, FIPS 186 the digest's length; TPMs of
   both kinds exist. Accepting any length at all would add nothing but doubt.
"""

from __future__ import annotations

from typing import Final, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hwtrust.errors import SignatureAlgorithmError, SignatureError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.structures import (
    EccParams,
    Public,
    PublicKey,
    RsaParams,
    Signature,
    require_strong,
)

_HASHES: Final[dict[Alg, hashes.HashAlgorithm]] = {
    Alg.SHA1: hashes.SHA1(),  # noqa: S303  only for who says unsafe_allow_sha1
    Alg.SHA256: hashes.SHA256(),
    Alg.SHA384: hashes.SHA384(),
    Alg.SHA512: hashes.SHA512(),
}
_ECDSA: Final = {alg: ec.ECDSA(hash_) for alg, hash_ in _HASHES.items()}
_PKCS1: Final = padding.PKCS1v15()

# The look-up of an enum's member through its class costs a Python call.
_NULL: Final = Alg.NULL
_SHA1: Final = Alg.SHA1
_ECC: Final = Alg.ECC
_RSASSA: Final = Alg.RSASSA

_ORDERS: Final = {
    "secp256r1": 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551,
    "secp384r1": 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_C7634D81_F4372DDF_581A0DB2_48B0A77A_ECEC196A_CCC52973,  # noqa: E501
}


def verify_signature(
    key: Public | PublicKey,
    signature: Signature,
    message: bytes,
    *,
    unsafe_allow_sha1: bool = False,
) -> None:
    """Check that `key` made `signature` over `message`, the bytes as received.

    Raises:
        WeakKeyError: the key is none that hwtrust believes.
        SignatureAlgorithmError: the key does not make signatures of that kind.
        SignatureError: the signature is not of this key over this message.
    """
    # (1) and (2): the key of a `Public` is strong, or it is refused there; and
    # whether it is an ECC key its type says, which costs less than to ask the key.
    if isinstance(key, Public):
        _require_scheme(key, signature)
        public_key = key.key()
        is_ecc = key.type is _ECC
    else:
        require_strong(key)
        public_key = key
        is_ecc = isinstance(key, ec.EllipticCurvePublicKey)
    # (3): SHA-1.
    hash_ = _hash(signature.hash, unsafe_allow_sha1=unsafe_allow_sha1)
    try:
        if is_ecc:
            _verify_ecdsa(cast("ec.EllipticCurvePublicKey", public_key), signature, message)
        else:
            _verify_rsa(cast("rsa.RSAPublicKey", public_key), signature, message, hash_)
    except InvalidSignature:
        raise SignatureError("the signature does not verify under the key") from None
    except UnsupportedAlgorithm:
        raise SignatureAlgorithmError(
            f"OpenSSL does not verify {signature.alg.name} with {signature.hash.name} here"
        ) from None


def _require_scheme(key: Public, signature: Signature) -> None:
    params = key.params
    if not isinstance(params, (EccParams, RsaParams)):
        raise SignatureAlgorithmError(f"an object of type {key.type.name} makes no signatures")
    scheme = params.scheme
    if scheme is _NULL:
        return
    if scheme is not signature.alg or params.scheme_hash is not signature.hash:
        hash_name = "no hash" if params.scheme_hash is None else params.scheme_hash.name
        raise SignatureAlgorithmError(
            f"the signature is {signature.alg.name} with {signature.hash.name}, "
            f"the key makes {scheme.name} with {hash_name}"
        )


def _hash(alg: Alg, *, unsafe_allow_sha1: bool) -> hashes.HashAlgorithm:
    hash_ = _HASHES.get(alg)
    if hash_ is None:
        raise SignatureAlgorithmError(f"signatures over {alg.name} are not accepted")
    if alg is _SHA1 and not unsafe_allow_sha1:
        raise SignatureAlgorithmError("signatures over SHA-1 prove nothing and are not accepted")
    return hash_


def _verify_ecdsa(key: ec.EllipticCurvePublicKey, signature: Signature, message: bytes) -> None:
    if isinstance(signature.value, bytes):
        raise SignatureAlgorithmError(f"the key is an ECC key, the signature {signature.alg.name}")
    r, s = signature.value
    order = _ORDERS[key.curve.name]
    # (4): range.
    if not (0 < r < order and 0 < s < order):
        raise SignatureError("the signature's numbers are out of the curve's range")
    key.verify(encode_dss_signature(r, s), message, _ECDSA[signature.hash])


def _verify_rsa(
    key: rsa.RSAPublicKey, signature: Signature, message: bytes, hash_: hashes.HashAlgorithm
) -> None:
    if not isinstance(signature.value, bytes):
        raise SignatureAlgorithmError(f"the key is an RSA key, the signature {signature.alg.name}")
    if signature.alg is _RSASSA:
        key.verify(signature.value, message, _PKCS1, hash_)
        return
    # (5): salt.
    # As numbers: cryptography takes PSS.MAX_LENGTH for any length when verifying.
    encoded = (key.key_size - 1 + 7) // 8
    as_digest, longest = hash_.digest_size, encoded - hash_.digest_size - 2
    mask = padding.MGF1(hash_)
    try:
        key.verify(signature.value, message, padding.PSS(mask, as_digest), hash_)
    except InvalidSignature:
        key.verify(signature.value, message, padding.PSS(mask, longest), hash_)
