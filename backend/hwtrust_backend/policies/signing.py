"""Who stands for a policy: signatures over documents, made away from the backend.

    document ── sign_policy (signer's own key) ──▶ envelope ── check_signature ──▶ signer's name

Rules:
1. Where signers are configured, no version is put into force without the
   signature of one of them: an administrator's token, or the command line with
   these settings, does not change what a policy says. It is no defence against
   who can write the database or the settings. What is in force stays so.
2. A signature is over the policy's name and the digest of its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import ConfigError, EnvelopeError, MalformedError, PolicySignatureError
from hwtrust.wire.envelope import Envelope, seal, unseal
from hwtrust_backend.policies.models import StoredPolicy

Signers = Mapping[str, ec.EllipticCurvePublicKey]
"""Who may sign policies, by name; where there is nobody, signatures are not asked for."""


class SignedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a signer signs."""

    name: str
    sha256: bytes


def load_signers(files: Mapping[str, str]) -> dict[str, ec.EllipticCurvePublicKey]:
    """The signers' public keys, from PEM files.

    Raises:
        ConfigError: a file cannot be read, or holds no P-256 public key.
    """
    return {name: _public_key(Path(file)) for name, file in files.items()}


def sign_policy(name: str, digest: bytes, *, key: ec.EllipticCurvePrivateKey) -> Envelope:
    """Sign a policy's document by its SHA-256."""
    return seal(
        SignedPolicy(name=name, sha256=digest),
        sign=lambda message: key.sign(message, ec.ECDSA(hashes.SHA256())),
    )


def check_signature(stored: StoredPolicy, envelope: Envelope, *, signers: Signers) -> str:
    """Who has signed this version; the name by which `signers` know the key.

    Raises:
        PolicySignatureError: none of them, or another document.
    """
    for name, key in signers.items():
        try:
            signed = unseal(envelope, SignedPolicy, key=key)
        except (EnvelopeError, MalformedError):
            continue
        if (signed.name, signed.sha256) != (stored.name, stored.digest):
            raise PolicySignatureError("the signature is over another policy or document")
        return name
    message = "the signature is by none of the configured policy signers"
    raise PolicySignatureError(message if signers else "no policy signers are configured")


def require_signed(stored: StoredPolicy, *, signers: Signers) -> None:
    """Refuse a version that no signer stands for, where there are signers.

    Raises:
        PolicySignatureError: it is not signed, or not by them.
    """
    if not signers:
        return
    if stored.signature is None:
        message = f"version {stored.version} of the policy {stored.name!r} is not signed"
        raise PolicySignatureError(message)
    envelope = msgspec.json.decode(stored.signature, type=Envelope)
    check_signature(stored, envelope, signers=signers)


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} holds no public key in PEM", path=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path} holds no P-256 key", path=str(path))
    return key
