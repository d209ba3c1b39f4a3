"""The seam behind which private keys stay: `Signer` and `KeyVault`.

Whoever signs asks a `Signer`; nothing but a vault ever holds a private key. A
hardware module or a cloud key service is another `KeyVault`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NoReturn, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from hwtrust_backend.observe.traces import span

_ECDSA: Final = ec.ECDSA(hashes.SHA256())
_ECDSA_OF_DIGEST: Final = ec.ECDSA(utils.Prehashed(hashes.SHA256()))


class KeyRole(StrEnum):
    """What a key is for; one key has one role."""

    POLICY = "policy"
    """Signs approvals: TPMs know its Name."""
    METADATA = "metadata"
    """Signs root metadata and the time: devices know it."""
    DEVICE_CA = "device-ca"
    """Signs the certificates of devices."""
    SERVER_CA = "server-ca"
    """Signs the backend's own TLS certificate."""
    AUDIT = "audit"
    """Signs the tree heads of the audit trail."""


class Signer(Protocol):
    """A P-256 key that signs and does not come out."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Sign SHA-256 of `message`: a DER ECDSA-Sig-Value."""
        ...

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign a SHA-256 digest, 32 bytes: a DER ECDSA-Sig-Value."""
        ...


class Secret:
    """Bytes that do not show themselves in a repr, a log or a pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The bytes; call it where they are used and keep no copy."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


class KeyVault(Protocol):
    """Where the backend's keys are."""

    def signer(self, role: KeyRole) -> Signer:
        """The key of that role."""
        ...

    def authority(self, role: KeyRole) -> x509.Certificate:
        """The CA certificate of DEVICE_CA or SERVER_CA."""
        ...

    @property
    def challenge_key(self) -> Secret:
        """The key of the challenges' MACs; replicas share it."""
        ...

    def derive(self, purpose: str) -> Secret:
        """A secret of 32 bytes for `purpose`, always the same; replicas share it."""
        ...


class SoftwareSigner:
    """A `Signer` whose key is in this process."""

    __slots__ = ("_key",)

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._key.public_key()

    def sign(self, message: bytes) -> bytes:
        """Sign SHA-256 of `message`: a DER ECDSA-Sig-Value."""
        with span("sign"):
            return self._key.sign(message, _ECDSA)

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign a SHA-256 digest, 32 bytes: a DER ECDSA-Sig-Value."""
        with span("sign"):
            return self._key.sign(digest, _ECDSA_OF_DIGEST)

    def __repr__(self) -> str:
        return "SoftwareSigner(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not pickled")


class IssuingKey(ec.EllipticCurvePrivateKey):
    """A `Signer` in the form that `cryptography.x509` builders sign with; it cannot be exported."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve of the key."""
        return self._signer.public_key.curve

    @property
    def key_size(self) -> int:
        """Bits."""
        return self._signer.public_key.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._signer.public_key

    def sign(
        self,
        data: Any,  # noqa: ANN401 - bytes, or what has their buffer
        signature_algorithm: ec.EllipticCurveSignatureAlgorithm,
    ) -> bytes:
        """Sign what a builder has put together; ECDSA over SHA-256 and nothing else."""
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise TypeError("certificates are signed with SHA-256")
        return self._signer.sign(bytes(data))

    def exchange(
        self,
        algorithm: ec.ECDH,  # noqa: ARG002 - the base class says so
        peer_public_key: ec.EllipticCurvePublicKey,  # noqa: ARG002
    ) -> NoReturn:
        """Not what a CA key is for."""
        raise TypeError("a CA key agrees on no secrets")

    def private_numbers(self) -> NoReturn:
        """The key does not come out."""
        raise TypeError("the key does not come out of its vault")

    def private_bytes(
        self,
        encoding: serialization.Encoding,  # noqa: ARG002 - the base class says so
        format: serialization.PrivateFormat,  # noqa: A002, ARG002
        encryption_algorithm: serialization.KeySerializationEncryption,  # noqa: ARG002
    ) -> NoReturn:
        """The key does not come out."""
        raise TypeError("the key does not come out of its vault")

    def __copy__(self) -> IssuingKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> IssuingKey:
        return self
