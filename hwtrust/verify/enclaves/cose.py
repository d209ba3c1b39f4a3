"""Did this key make the signature of a COSE_Sign1 message?

Rules:
1. The algorithm that the message names is the one of the key's curve: a message
   cannot choose a hash that its signer does not use.
2. The signature is checked over the bytes as received, anew each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hwtrust.errors.cose import CoseAlgorithmError, CoseSignatureError
from hwtrust.wire.enclaves.cose import CoseAlg

if TYPE_CHECKING:
    from hwtrust.wire.enclaves.cose import CoseSign1

_CURVES: Final = {
    CoseAlg.ES256: (ec.SECP256R1, ec.ECDSA(hashes.SHA256())),
    CoseAlg.ES384: (ec.SECP384R1, ec.ECDSA(hashes.SHA384())),
    CoseAlg.ES512: (ec.SECP521R1, ec.ECDSA(hashes.SHA512())),
}


def require_signed(message: CoseSign1, *, key: object) -> None:
    """Require that `key` made the signature of `message`.

    Raises:
        CoseAlgorithmError: a key of this kind makes no signatures of this algorithm.
        CoseSignatureError: it did not.
    """
    # (1): algorithm.
    curve, scheme = _CURVES[message.alg]
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curve):
        raise CoseAlgorithmError(f"the key is not one for {message.alg.name}")
    # (2): signature.
    half = len(message.signature) // 2
    r = int.from_bytes(message.signature[:half], "big")
    s = int.from_bytes(message.signature[half:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message.to_be_signed, scheme)
    except InvalidSignature:
        raise CoseSignatureError("the signature of a COSE_Sign1 message is not the key's") from None
