"""The kernel's side of IMA: entries with real hashes and signatures, and the PCR they come to.

`ImaKernel` measures; `log()` is what it shows, `pcr(bank)` what the TPM would hold.
Whatever a test changes before `log()` is asked for is hashed as it was changed.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from hwtrust.wire.algorithms import Alg, digest_size, new_hash
from hwtrust.wire.logs.ima_template import TEMPLATES, old_data

SHA256_NUMBER: Final = 4
"""HASH_ALGO_SHA256 of the kernel."""
Way = Literal["hashed", "padded", "padded-ones"]


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    """A key that signs files, always the same."""
    return ec.derive_private_key(0x1A5160, ec.SECP256R1())


@cache
def other_key() -> ec.EllipticCurvePrivateKey:
    """A key that nobody trusts."""
    return ec.derive_private_key(0xBAD, ec.SECP256R1())


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    """An RSA key, new in each run."""
    return rsa.generate_private_key(65537, 2048)


def public_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    """The public part, as rules have it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def sign(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    digest: bytes,
    *,
    version: int = 2,
    kind: int = 3,
    number: int = SHA256_NUMBER,
    key_id: bytes | None = None,
) -> bytes:
    """security.ima as `evmctl ima_sign` makes it, over a SHA-256 digest."""
    signed = digest
    if version == 3:
        signed = hashlib.sha256(bytes((kind, number)) + digest).digest()
    if isinstance(key, rsa.RSAPrivateKey):
        made = key.sign(signed, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    else:
        algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()), deterministic_signing=True)
        made = key.sign(signed, algorithm)
    if key_id is None:
        key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest[-4:]
    return struct.pack(">BBB4sH", kind, version, number, key_id, len(made)) + made


@dataclass(slots=True)
class Measured:
    """One entry, before it is written."""

    template: str
    fields: list[bytes]
    pcr: int = 10
    violation: bool = False

    @property
    def data(self) -> bytes:
        """What is hashed."""
        if self.template == "ima":
            return old_data(*self.fields)
        return b"".join(struct.pack("<I", len(one)) + one for one in self.fields)


@dataclass(slots=True)
class ImaKernel:
    """A kernel that measures into PCR 10 of every bank, by one of the ways of the real one."""

    way: Way = "hashed"
    entries: list[Measured] = field(default_factory=list)

    def boot(self, pcrs: dict[int, bytes], *, last: int = 9) -> ImaKernel:
        """Measure boot_aggregate, SHA-256 over PCRs 0 to `last`."""
        joined = b"".join(pcrs[number] for number in range(last + 1))
        return self.file("boot_aggregate", digest=hashlib.sha256(joined).digest())

    def file(
        self,
        path: str | bytes,
        content: bytes = b"",
        *,
        template: str = "ima-ng",
        algorithm: str = "sha256",
        digest: bytes | None = None,
        signature: bytes = b"",
        pcr: int = 10,
        violation: bool = False,
    ) -> ImaKernel:
        """Measure a file."""
        name = path if isinstance(path, bytes) else path.encode()
        if digest is None:
            digest = hashlib.new(algorithm, content).digest()
        if violation:
            digest = bytes(len(digest))
        parts = {
            "d": digest,
            "n": name,
            "d-ng": f"{algorithm}:\0".encode() + digest,
            "d-ngv2": f"ima:{algorithm}:\0".encode() + digest,
            "n-ng": name + b"\0",
            "sig": signature,
        }
        fields = [parts[one] for one in TEMPLATES.get(template, tuple(template.split("|")))]
        self.entries.append(Measured(template, fields, pcr, violation))
        return self

    def verity(self, path: str, digest: bytes, signature: bytes) -> ImaKernel:
        """Measure a file by its fs-verity digest, as `ima-sigv2`."""
        fields = [b"verity:sha256:\0" + digest, path.encode() + b"\0", signature]
        self.entries.append(Measured("ima-sigv2", fields))
        return self

    def buffer(self, name: str, content: bytes) -> ImaKernel:
        """Measure data that is no file, such as a key or a command line."""
        digest = hashlib.sha256(content).digest()
        fields = [b"sha256:\0" + digest, name.encode() + b"\0", content]
        self.entries.append(Measured("ima-buf", fields))
        return self

    def pcr(self, bank: Alg, *, pcr: int = 10, entries: int | None = None) -> bytes:
        """What the PCR holds after so many entries; after all, unless it is told."""
        size = digest_size(bank)
        value = bytes(size)
        mine = [entry for entry in self.entries if entry.pcr == pcr]
        for entry in mine[:entries]:
            value = new_hash(bank, value + self._added(entry, bank, size))
        return value

    def _added(self, entry: Measured, bank: Alg, size: int) -> bytes:
        if entry.violation:
            short = self.way == "padded-ones" and bank is not Alg.SHA1
            return b"\xff" * 20 + bytes(size - 20) if short else b"\xff" * size
        if self.way == "hashed":
            return new_hash(bank, entry.data)
        return hashlib.sha1(entry.data, usedforsecurity=False).digest().ljust(size, b"\0")

    def log(self, *, begin: int = 0, bank: Alg = Alg.SHA1, order: str = "<") -> bytes:
        """binary_runtime_measurements from entry `begin` on; of a bank's own file if it is told."""
        return b"".join(self._record(entry, bank, order) for entry in self.entries[begin:])

    @staticmethod
    def _record(entry: Measured, bank: Alg, order: str) -> bytes:
        name = entry.template.encode()
        template_hash = new_hash(bank, entry.data)
        if entry.violation:
            template_hash = bytes(len(template_hash))
        head = struct.pack(f"{order}I", entry.pcr) + template_hash
        head += struct.pack(f"{order}I", len(name)) + name
        if entry.template == "ima":
            digest, path = entry.fields
            return head + digest + struct.pack(f"{order}I", len(path)) + path
        return head + struct.pack(f"{order}I", len(entry.data)) + entry.data

    def text(self) -> bytes:
        """ascii_runtime_measurements."""
        return b"".join(map(self._line, self.entries))

    @staticmethod
    def _line(entry: Measured) -> bytes:
        template_hash = hashlib.sha1(entry.data, usedforsecurity=False).hexdigest()
        if entry.violation:
            template_hash = "0" * 40
        texts = []
        names = TEMPLATES.get(entry.template, tuple(entry.template.split("|")))
        for name, value in zip(names, entry.fields, strict=True):
            if name in {"d-ng", "d-ngv2"}:
                label, _, digest = value.partition(b"\0")
                texts.append(label + digest.hex().encode())
            elif name in {"n", "n-ng"}:
                texts.append(value.removesuffix(b"\0"))
            else:
                texts.append(value.hex().encode())
        head = f"{entry.pcr:2d} {template_hash} {entry.template} ".encode()
        return head + b" ".join(texts) + b"\n"
