"""What enclaves and backends say travels whole; a root opens for whom it is sealed."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from hwtrust.errors import MalformedError, RootObjectError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import (
    EVIDENCE_LIMIT,
    ROOT_SIZE,
    EnclaveAttest,
    EnclaveChallengeRequest,
    EnclaveEnrol,
    EnclaveEnrolled,
    EnclaveEvidence,
    EnclaveKind,
    EnclaveReply,
    EnclaveRoot,
    EnclaveRootMetadata,
    enclave_name,
    open_root,
    seal_root,
)
from hwtrust.wire.envelope import Envelope, EnvelopeSignature
from hwtrust.wire.messages import RELEASE_KEY_SIZE, Binding, Finding, Severity, Standing

if TYPE_CHECKING:
    from collections.abc import Callable

KEY: Final = X25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY: Final = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC: Final = KEY.public_key().public_bytes_raw()
SECRET: Final = bytes(range(100, 132))
TLS_KEY: Final = b"a key"


def envelope(payload: bytes = b"{}") -> Envelope:
    """A signed message, as far as its form goes."""
    return Envelope(
        payload_type="test", payload=payload, signatures=(EnvelopeSignature(sig=b"sig"),)
    )


METADATA: Final = envelope(
    msgspec.json.encode(
        EnclaveRootMetadata(
            device=enclave_name(EnclaveKind.SNP, TLS_KEY),
            epoch=7,
            release="1.0",
            not_before=1,
            not_after=2,
            release_key=PUBLIC,
        )
    )
)
BINDING: Final = Binding(
    purpose=Purpose.ATTEST,
    nonce=bytes(40),
    tls_key=TLS_KEY,
    epoch=7,
    release="1.0",
    log_digest=bytes(32),
    release_key=PUBLIC,
)
EVIDENCE: Final = EnclaveEvidence(
    kind=EnclaveKind.SNP, binding=BINDING, log=b"log", evidence='["a/b","QQ"]'
)
ROOT: Final = EnclaveRoot(metadata=METADATA, sealed=b"sealed")
REQUESTS: Final[tuple[msgspec.Struct, ...]] = (
    EnclaveChallengeRequest(kind=EnclaveKind.TDX, tls_key=TLS_KEY, purpose=Purpose.ENROL),
    EnclaveEnrol(evidence=EVIDENCE, csr=b"csr", token="token"),
    EnclaveAttest(device=b"device", evidence=EVIDENCE, csr=b"csr"),
    EVIDENCE,
)
REPLIES: Final[tuple[msgspec.Struct, ...]] = (
    EnclaveEnrolled(
        device=b"device", certificate="PEM", root=ROOT, challenge=b"nonce", time=envelope()
    ),
    EnclaveReply(
        standing=Standing.TRUSTED,
        findings=(Finding(code="snp:tcb", severity=Severity.FAIL, message="old"),),
        time=envelope(),
        challenge=b"nonce",
        root=ROOT,
    ),
)


def named(message: msgspec.Struct) -> str:
    """The message's name, for the names of tests."""
    return type(message).__name__


# --- messages ------------------------------------------------------------------------


@pytest.mark.parametrize("message", [*REQUESTS, *REPLIES], ids=named)
def test_a_message_travels_as_json(message: msgspec.Struct) -> None:
    """What one side sends is what the other reads."""
    assert msgspec.json.decode(msgspec.json.encode(message), type=type(message)) == message


def test_requests_of_enclaves_refuse_what_they_do_not_know_and_replies_do_not() -> None:
    """A newer backend serves older enclaves; an enclave says nothing that is not looked at."""
    for message in (*REQUESTS, *REPLIES):
        raw = msgspec.json.encode(msgspec.to_builtins(message) | {"uuid": "x"})
        if message in REPLIES:
            assert msgspec.json.decode(raw, type=type(message)) == message
        else:
            with pytest.raises(msgspec.ValidationError):
                msgspec.json.decode(raw, type=type(message))


def test_a_request_without_a_field_that_has_to_be_there_is_refused() -> None:
    """What an enclave wants, and for which key, is never guessed."""
    for message in REQUESTS:
        whole = msgspec.to_builtins(message)
        for field in msgspec.structs.fields(message):
            if field.required:
                rest = {name: value for name, value in whole.items() if name != field.name}
                with pytest.raises(msgspec.ValidationError):
                    msgspec.convert(rest, type(message))
    required = {field.name for field in msgspec.structs.fields(REQUESTS[0]) if field.required}
    assert required == {"kind", "tls_key", "purpose"}


TOO_MUCH: Final[dict[str, tuple[msgspec.Struct, dict[str, str]]]] = {
    "wrapped evidence": (EVIDENCE, {"evidence": "x" * (EVIDENCE_LIMIT + 1)}),
    "an event log": (EVIDENCE, {"log": "AAAA" * (4 * 1024 * 1024 // 3 + 1)}),
    "a request for a certificate": (REQUESTS[1], {"csr": "AAAA" * 2731}),
    "a token": (REQUESTS[1], {"token": "x" * 201}),
    "a TLS key": (REQUESTS[0], {"tls_key": "AAAA" * 2731}),
    "a device": (REQUESTS[2], {"device": "AAAA" * 2731}),
    "a key to seal roots to": (BINDING, {"release_key": "AAAA" * 11}),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_more_than_any_enclave_sends_is_refused(case: str) -> None:
    """Adversary 5: before anybody looks at it."""
    message, changes = TOO_MUCH[case]
    raw = msgspec.json.encode(msgspec.to_builtins(message) | changes)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(raw, type=type(message))


# --- names ---------------------------------------------------------------------------


def test_an_enclave_is_named_by_its_kind_and_its_key() -> None:
    """In the form of a TPM Name; the boundary between the two cannot be moved."""
    fields = (b"hwtrust enclave v1", b"snp", TLS_KEY)
    prefixed = b"".join(struct.pack(">H", len(field)) + field for field in fields)
    name = enclave_name(EnclaveKind.SNP, TLS_KEY)
    assert name == b"\0\x0b" + hashlib.sha256(prefixed).digest()
    assert len({enclave_name(kind, TLS_KEY) for kind in EnclaveKind}) == len(EnclaveKind)
    assert enclave_name(EnclaveKind.SNP, TLS_KEY + b"\0") != name


# --- bindings ------------------------------------------------------------------------


def data(**changes: object) -> bytes:
    """The report data of the binding with `changes`."""
    return msgspec.structs.replace(BINDING, **changes).report_data()


def test_report_data_is_a_hash_of_all_length_prefixed_fields() -> None:
    """64 bytes, calculated without hwtrust; an empty statement keeps its place."""
    fields = (
        b"hwtrust binding v1",
        b"attest",
        bytes(40),
        TLS_KEY,
        struct.pack(">Q", 7),
        b"1.0",
        bytes(32),
        b"",
        PUBLIC,
    )
    prefixed = b"".join(struct.pack(">H", len(field)) + field for field in fields)
    assert data() == hashlib.sha512(prefixed).digest()


CHANGES: Final[dict[str, dict[str, object]]] = {
    "purpose": {"purpose": Purpose.SESSION},
    "nonce": {"nonce": bytes(39) + b"\1"},
    "TLS key": {"tls_key": b"another key"},
    "epoch": {"epoch": 0},
    "release": {"release": "1.1"},
    "log digest": {"log_digest": b"\1" * 32},
    "statement": {"statement": b"{}"},
    "key to seal roots to": {"release_key": OTHER_KEY.public_key().public_bytes_raw()},
    "absence of a key to seal roots to": {"release_key": b""},
}


@pytest.mark.parametrize("case", CHANGES)
def test_report_data_binds_the(case: str) -> None:
    """Adversaries 19, 85: with any field changed the evidence is over something else."""
    assert data(**CHANGES[case]) != data()


def test_a_field_whose_size_has_no_place_is_malformed() -> None:
    """Two bytes tell the size."""
    with pytest.raises(MalformedError):
        data(tls_key=bytes(1 << 16))


def test_a_statement_is_never_taken_for_a_key() -> None:
    """Nor the beginning of one for the end of the other."""
    size = struct.pack(">H", RELEASE_KEY_SIZE)
    pairs = (
        {"statement": PUBLIC, "release_key": b""},
        {"statement": b"", "release_key": PUBLIC},
        {"statement": PUBLIC, "release_key": PUBLIC},
        {"statement": size + PUBLIC, "release_key": b""},
        {"statement": PUBLIC + size + PUBLIC, "release_key": b""},
        {"statement": PUBLIC[:1], "release_key": PUBLIC[1:]},
        {"statement": b"", "release_key": b""},
    )
    assert len({data(**pair) for pair in pairs}) == len(pairs)


# --- roots ---------------------------------------------------------------------------


def sealed(secret: bytes = SECRET) -> bytes:
    """`secret` under the enclave's key."""
    return seal_root(secret, release_key=PUBLIC, metadata=METADATA)


def test_a_root_opens_for_the_enclave_that_it_is_sealed_to() -> None:
    """Each sealing is another one, and none shows the root."""
    first, second = sealed(), sealed()
    assert first != second
    assert SECRET not in first
    assert open_root(first, key=KEY, metadata=METADATA) == SECRET
    assert open_root(second, key=KEY, metadata=METADATA) == SECRET


def test_a_root_is_sealed_with_the_suite_and_for_the_metadata_that_are_documented() -> None:
    """What another implementation seals by the same words opens, and the other way round."""
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    info = b"hwtrust enclave root v1" + hashlib.sha256(METADATA.payload).digest()
    assert suite.decrypt(sealed(), KEY, info=info) == SECRET
    theirs = suite.encrypt(SECRET, KEY.public_key(), info=info)
    assert open_root(theirs, key=KEY, metadata=METADATA) == SECRET


def test_who_signed_the_metadata_again_does_not_matter_to_the_root() -> None:
    """What counts is what is said; the signature was checked before."""
    again = msgspec.structs.replace(METADATA, signatures=(EnvelopeSignature(sig=b"other"),))
    assert open_root(sealed(), key=KEY, metadata=again) == SECRET


SEALED: Final = sealed()
UNOPENED: Final[dict[str, Callable[[], bytes]]] = {
    "another enclave's key": lambda: open_root(SEALED, key=OTHER_KEY, metadata=METADATA),
    "metadata of another epoch": lambda: open_root(
        SEALED, key=KEY, metadata=envelope(METADATA.payload.replace(b":7,", b":8,"))
    ),
    "no metadata": lambda: open_root(SEALED, key=KEY, metadata=envelope(b"")),
    "a changed key of the sender": lambda: open_root(
        bytes([SEALED[0] ^ 1]) + SEALED[1:], key=KEY, metadata=METADATA
    ),
    "a changed tag": lambda: open_root(
        SEALED[:-1] + bytes([SEALED[-1] ^ 1]), key=KEY, metadata=METADATA
    ),
    "cut short": lambda: open_root(SEALED[:-1], key=KEY, metadata=METADATA),
    "cut to the key of the sender": lambda: open_root(SEALED[:32], key=KEY, metadata=METADATA),
    "followed by something": lambda: open_root(SEALED + b"\0", key=KEY, metadata=METADATA),
    "nothing": lambda: open_root(b"", key=KEY, metadata=METADATA),
    "zeros": lambda: open_root(bytes(80), key=KEY, metadata=METADATA),
    "a root that is shorter": lambda: open_root(
        sealed(bytes(ROOT_SIZE - 1)), key=KEY, metadata=METADATA
    ),
    "a root that is longer": lambda: open_root(
        sealed(bytes(ROOT_SIZE + 1)), key=KEY, metadata=METADATA
    ),
    "an empty root": lambda: open_root(sealed(b""), key=KEY, metadata=METADATA),
}


@pytest.mark.parametrize("case", UNOPENED)
def test_a_root_does_not_open_with(case: str) -> None:
    """For this device, epoch and key, or not at all."""
    with pytest.raises(RootObjectError) as refused:
        UNOPENED[case]()
    assert refused.value.code == RootObjectError.code


@pytest.mark.parametrize("key", [b"", PUBLIC[:-1], PUBLIC + b"\0", bytes(32)], ids=len)
def test_a_root_is_sealed_to_no_key_that_is_none(key: bytes) -> None:
    """Of another size, or a point that leads to zeros for everybody."""
    with pytest.raises(RootObjectError):
        seal_root(SECRET, release_key=key, metadata=METADATA)
