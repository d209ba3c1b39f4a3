"""A TLS key that lives in the TPM: made under the storage key, kept as TSS2 PEM.

OpenSSL reads the PEM through the tpm2-openssl provider and asks the TPM for
each signature; the certificate request is signed here, by TPM2_Sign.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NoReturn, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss.tsskey import TSSPrivKey

from hwtrust.errors import TlsKeyError
from hwtrust.tpm import commands
from hwtrust.tpm.provision import has_p256
from hwtrust.tpm.stack import TPM2B_PRIVATE, TPM2B_PUBLIC, TPMT_PUBLIC
from hwtrust.tpm.templates import TLS_KEY
from hwtrust.wire.codec import tpm2b
from hwtrust.wire.structures import Public, Signature

if TYPE_CHECKING:
    from hwtrust.tpm.commands import SignedAttest
    from hwtrust.tpm.connection import Pinned, Tpm
    from hwtrust.tpm.stack import ESYS_TR


class TpmTlsKey:
    """A signing key of this TPM. Its private part is wrapped and useless elsewhere."""

    def __init__(self, tpm: Tpm, storage_key: Pinned, *, private: bytes, public: Public) -> None:
        self._tpm = tpm
        self._storage_key = storage_key
        self._private = private
        self.public = public

    @classmethod
    def create(cls, tpm: Tpm, storage_key: Pinned) -> TpmTlsKey:
        """A new key. TPM2_Create, Part 3 §12.1.

        Raises:
            TlsKeyError: the TPM has no P-256. An RSA key would not do: its scheme is
                PKCS #1 v1.5, which TLS 1.3 does not sign with.
        """
        if not has_p256(tpm):
            raise TlsKeyError("the TPM has no P-256, on which its TLS key would be")
        private, public = commands.create(tpm, storage_key, TLS_KEY)
        return cls(tpm, storage_key, private=private, public=public)

    @classmethod
    def from_pem(cls, tpm: Tpm, storage_key: Pinned, pem: bytes) -> TpmTlsKey:
        """The key that `pem` wrapped.

        Raises:
            TlsKeyError: not a TSS2 key, or not one that `create` has made.
        """
        try:
            key = TSSPrivKey.from_pem(pem)
            public = Public.decode(key.public.publicArea.marshal())
            public.key()
            ours = replace(TLS_KEY, unique=public.unique)
        except Exception as error:
            raise TlsKeyError("the TLS key on disk is not a TSS2 private key") from error
        if public != ours:
            raise TlsKeyError("the TLS key on disk is not one of hwtrust's")
        return cls(tpm, storage_key, private=bytes(key.private), public=public)

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self._verifying_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def key_pem(self) -> bytes:
        """TSS2 PRIVATE KEY, PEM: what the tpm2-openssl provider loads."""
        area, _ = TPMT_PUBLIC.unmarshal(self.public.encode())
        private, _ = TPM2B_PRIVATE.unmarshal(tpm2b(self._private))
        key = TSSPrivKey(
            private, TPM2B_PUBLIC(publicArea=area), empty_auth=True, parent=self._storage_key.handle
        )
        return bytes(key.to_pem())

    def csr(self) -> bytes:
        """A certificate request, DER, signed by the key: proof of possession."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        request = builder.sign(_Signer(self), hashes.SHA256())
        return request.public_bytes(serialization.Encoding.DER)

    def self_signed(self) -> str:
        """A throw-away certificate, PEM, to try whether a TLS library can use the key."""
        now = datetime.now(UTC)
        nobody = x509.Name([])
        builder = (
            x509.CertificateBuilder()
            .subject_name(nobody)
            .issuer_name(nobody)
            .public_key(self._verifying_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(minutes=1))
        )
        certificate = builder.sign(_Signer(self), hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def certify(self, ak: Pinned, *, qualifying: bytes) -> SignedAttest:
        """The attestation key's word that this key is in this TPM. TPM2_Certify."""
        tpm = self._tpm
        with tpm.flushing(self._load()) as handle:
            return commands.certify(tpm, handle, ak, qualifying=qualifying)

    def sign(self, data: bytes) -> bytes:
        """A DER ECDSA signature over SHA-256 of `data`. TPM2_Sign."""
        with self._tpm.flushing(self._load()) as handle:
            signature = commands.sign(self._tpm, handle, hashlib.sha256(data).digest())
        value = Signature.decode(signature).value
        assert isinstance(value, tuple)  # noqa: S101 - every key here follows the template
        return encode_dss_signature(*value)

    def _verifying_key(self) -> ec.EllipticCurvePublicKey:
        key = self.public.key()
        assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - as above
        return key

    def _load(self) -> ESYS_TR:
        return commands.load(
            self._tpm, self._storage_key, private=self._private, public=self.public
        )


class _Signer(ec.EllipticCurvePrivateKey):
    """The face of a private key that `cryptography` needs to sign a request."""

    def __init__(self, key: TpmTlsKey) -> None:
        self._key = key

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256, as the template says."""
        return ec.SECP256R1()

    @property
    def key_size(self) -> int:
        """In bits."""
        return 256

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public key."""
        return self._key._verifying_key()  # noqa: SLF001 - its own face

    def sign(
        self,
        data: bytes | bytearray | memoryview,
        signature_algorithm: ec.EllipticCurveSignatureAlgorithm,
    ) -> bytes:
        """Sign by ECDSA with SHA-256, which is what the template fixes."""
        del signature_algorithm
        return self._key.sign(bytes(data))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Not with this key."""
        del algorithm, peer_public_key
        raise _only_signs()

    def private_numbers(self) -> NoReturn:
        """Not out of the TPM."""
        raise _only_signs()

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # noqa: A002 - cryptography's name
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> NoReturn:
        """Not out of the TPM."""
        del encoding, format, encryption_algorithm
        raise _only_signs()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


def _only_signs() -> TlsKeyError:
    return TlsKeyError("a TPM's TLS key only signs, and does not leave the TPM")
