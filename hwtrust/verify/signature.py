"""Does this TPM signature verify under this key?

    key, signature, message ── prepare ──▶ SignatureCheck ── run ──▶ passed, or not

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
6. A check that has not been run has not passed.

Many signatures are prepared first and then run in one go: between two of them
nothing else displaces what OpenSSL has in the processor's caches, which makes all
of it a good deal faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from hwtrust.errors import SignatureAlgorithmError, SignatureError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.structures import (
    EccParams,
    Public,
    PublicKey,
    RsaParams,
    Signature,
    require_strong,
    signature_fields,
)

_HASHES: Final[dict[Alg, hashes.HashAlgorithm]] = {
    Alg.SHA1: hashes.SHA1(),  # noqa: S303  only for who says unsafe_allow_sha1
    Alg.SHA256: hashes.SHA256(),
    Alg.SHA384: hashes.SHA384(),
    Alg.SHA512: hashes.SHA512(),
}
_ECDSA_OVER: Final = {alg: ec.ECDSA(hash_) for alg, hash_ in _HASHES.items()}
_PKCS1: Final = padding.PKCS1v15()

# The look-up of an enum's member through its class costs a Python call.
_NULL: Final = Alg.NULL
_SHA1: Final = Alg.SHA1
_ECC: Final = Alg.ECC
_ECDSA: Final = Alg.ECDSA
_RSASSA: Final = Alg.RSASSA

_ORDERS: Final = {
    256: bytes.fromhex("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551"),
    384: bytes.fromhex(
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
        "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973"
    ),
}
"""Of the curves that strong keys are on, by the key's bits."""


class SignatureCheck(msgspec.Struct, eq=False, gc=False):
    """A signature of which all is decided but whether it verifies; `prepare` makes them."""

    alg: Alg
    hash: Alg
    verify: Callable[..., None]
    """Raises InvalidSignature unless the signature among `arguments` verifies."""
    arguments: tuple[object, ...]
    passed: bool = False
    unsupported: bool = False

    def require_passed(self) -> None:
        """Refuse what does not verify, and what was never run.

        Raises:
            SignatureAlgorithmError: OpenSSL does not do it here.
            SignatureError: the signature is not of this key over this message.
        """
        if self.passed:
            return
        if self.unsupported:
            raise SignatureAlgorithmError(
                f"OpenSSL does not verify {self.alg.name} with {self.hash.name} here"
            )
        raise SignatureError("the signature does not verify under the key")


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
    check = prepare(key, signature, message, unsafe_allow_sha1=unsafe_allow_sha1)
    run((check,))
    check.require_passed()


def prepare(
    key: Public | PublicKey,
    signature: bytes | Signature,
    message: bytes,
    *,
    unsafe_allow_sha1: bool = False,
) -> SignatureCheck:
    """What is left to do to check that `key` made `signature` over `message`.

    `signature` may be a TPMT_SIGNATURE as received.

    Raises:
        WeakKeyError: the key is none that hwtrust believes.
        SignatureAlgorithmError: the key does not make signatures of that kind.
        SignatureError: the signature's numbers are out of range.
        WireError: the signature is malformed.
    """
    fields = signature.fields if isinstance(signature, Signature) else signature_fields(signature)
    alg, hash_alg, first, second = fields
    # (1) and (2): the key of a `Public` is strong, or it is refused there; and
    # whether it is an ECC key its type says, which costs less than to ask the key.
    if isinstance(key, Public):
        _require_scheme(key, alg, hash_alg)
        public_key = key.key()
        is_ecc = key.type is _ECC
    else:
        require_strong(key)
        public_key = key
        is_ecc = isinstance(key, ec.EllipticCurvePublicKey)
    # (3): SHA-1.
    hash_ = _HASHES.get(hash_alg)
    if hash_ is None:
        raise SignatureAlgorithmError(f"signatures over {hash_alg.name} are not accepted")
    if hash_alg is _SHA1 and not unsafe_allow_sha1:
        raise SignatureAlgorithmError("signatures over SHA-1 prove nothing and are not accepted")
    if is_ecc is not (alg is _ECDSA):
        kind = "an ECC" if is_ecc else "an RSA"
        raise SignatureAlgorithmError(f"the key is {kind} key, the signature {alg.name}")
    if is_ecc:
        value = _ecdsa_value(first, second, _ORDERS[public_key.key_size])
        arguments = value, message, _ECDSA_OVER[hash_alg]
        return SignatureCheck(alg, hash_alg, public_key.verify, arguments)
    if alg is _RSASSA:
        return SignatureCheck(alg, hash_alg, public_key.verify, (first, message, _PKCS1, hash_))
    return SignatureCheck(alg, hash_alg, _verify_pss, (public_key, first, message, hash_))


def run(checks: Iterable[SignatureCheck]) -> None:
    """Note of each whether it passes. A loop with nothing else in it."""
    for check in checks:
        try:
            check.verify(*check.arguments)
        except InvalidSignature:
            check.passed = False
        except UnsupportedAlgorithm:
            check.unsupported = True
        else:
            check.passed = True


def _require_scheme(key: Public, alg: Alg, hash_: Alg) -> None:
    params = key.params
    if not isinstance(params, (EccParams, RsaParams)):
        raise SignatureAlgorithmError(f"an object of type {key.type.name} makes no signatures")
    scheme = params.scheme
    if scheme is _NULL:
        return
    if scheme is not alg or params.scheme_hash is not hash_:
        hash_name = "no hash" if params.scheme_hash is None else params.scheme_hash.name
        raise SignatureAlgorithmError(
            f"the signature is {alg.name} with {hash_.name}, "
            f"the key makes {scheme.name} with {hash_name}"
        )


def _ecdsa_value(r: bytes, s: bytes, order: bytes) -> bytes:
    """The ECDSA-Sig-Value, DER, of two numbers of a curve of this order.

    From the bytes as they are: by way of numbers it costs three times as much.
    """
    r, s = r.lstrip(b"\0"), s.lstrip(b"\0")
    r_size, s_size, most = len(r), len(s), len(order)
    # (4): range. Bytes of equal length compare as their numbers do.
    if (
        not (0 < r_size <= most and 0 < s_size <= most)
        or (r_size == most and r >= order)
        or (s_size == most and s >= order)
    ):
        raise SignatureError("the signature's numbers are out of the curve's range")
    # A number whose first bit is set would be negative in DER.
    if r[0] & 0x80:
        r, r_size = b"\0" + r, r_size + 1
    if s[0] & 0x80:
        s, s_size = b"\0" + s, s_size + 1
    # SEQUENCE of two INTEGERs; all lengths are below 128.
    return b"\x30%c\x02%c%b\x02%c%b" % (r_size + s_size + 4, r_size, r, s_size, s)


def _verify_pss(
    key: rsa.RSAPublicKey, value: bytes, message: bytes, hash_: hashes.HashAlgorithm
) -> None:
    # (5): salt.
    # As numbers: cryptography takes PSS.MAX_LENGTH for any length when verifying.
    encoded = (key.key_size - 1 + 7) // 8
    as_digest, longest = hash_.digest_size, encoded - hash_.digest_size - 2
    mask = padding.MGF1(hash_)
    try:
        key.verify(value, message, padding.PSS(mask, as_digest), hash_)
    except InvalidSignature:
        key.verify(value, message, padding.PSS(mask, longest), hash_)
