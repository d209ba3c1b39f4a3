"""Attestation documents that real enclaves made, and the repository's own.

The public ones are of three-hour certificates; each is verified within its own hours,
against AWS's root. All of a document is signed but the heads of its four parts.
"""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from hwtrust.errors import HwTrustError
from hwtrust.errors.cose import CoseSignatureError
from hwtrust.errors.nitro import NitroExpiredError, NitroRootError
from hwtrust.verify.certificates import pem_blocks
from hwtrust.verify.enclaves.nitro import AWS, NitroClaims, NitroTrust, Unsafe, verify_nitro
from hwtrust.verify.enclaves.nitro_rules import NitroRules, appraise_nitro
from hwtrust.wire.enclaves.nitro import NitroDocument
from simulators.nitro_signer import NONCE, NOW, USER_DATA
from vectors.make_nitro import make

ROOT: Final = Path(__file__).resolve().parents[2]
PUBLIC: Final = (
    Path(os.environ.get("HWTRUST_VECTORS", ROOT.parent / "shared" / "vectors")) / "nitro"
)
OWN: Final = ROOT / "tests" / "vectors" / "nitro"
SAMPLE: Final = 400

public = pytest.mark.skipif(
    not PUBLIC.exists(), reason="the test vectors are not there: set HWTRUST_VECTORS"
)

GOOD: Final[Mapping[str, tuple[str, str, bool]]] = {
    "veracruz-document.cbor": ("2022-11-09T22:51:57Z", "2022-11-10T01:52:00Z", False),
    "evervault-valid.cbor": ("2022-10-13T08:57:59Z", "2022-10-13T11:58:02Z", False),
    "evervault-debug-mode.cbor": ("2022-10-12T13:49:51Z", "2022-10-12T16:49:54Z", True),
    "evervault-valid.b64": ("2023-09-18T14:37:09Z", "2023-09-18T17:37:12Z", True),
}
"""From when to when each is valid, and whether it is of an enclave in debug mode."""
BAD: Final = "veracruz-document-bad-sig.cbor"


def content(name: str) -> bytes:
    """The document in a public file."""
    raw = (PUBLIC / name).read_bytes()
    return base64.b64decode(raw) if name.endswith(".b64") else raw


def verify(document: bytes, now: datetime, **changes: Any) -> NitroClaims:  # noqa: ANN401
    """Against AWS's root, for whatever nonce and user data."""
    asked: dict[str, Any] = {"nonce": Unsafe.NO_NONCE, "user_data": Unsafe.ANY_USER_DATA}
    return verify_nitro(document, now=now, **({"trust": AWS} | asked | changes))


def during(name: str) -> datetime:
    """A time at which the document is good: when its certificates are, after it was made."""
    return datetime.fromisoformat(GOOD[name][1]) - timedelta(seconds=1)


@public
def test_every_public_file_has_a_test() -> None:
    """None is passed over."""
    files = {file.name for file in PUBLIC.iterdir()}
    assert files == {*GOOD, BAD, "aws-nitro-root-g1.pem", "README.md"}


@public
@pytest.mark.parametrize("name", GOOD)
def test_a_public_document_is_authentic(name: str) -> None:
    """Also with the nonce and user data that it has."""
    document = content(name)
    read = NitroDocument.decode(document)
    claims = verify(document, during(name))
    assert claims.debug is GOOD[name][2]
    assert claims.facts().items() >= read.facts().items()
    assert set(claims.pcrs) == set(range(16))
    if read.nonce and read.user_data:
        again = verify(document, during(name), nonce=read.nonce, user_data=read.user_data)
        assert again.nonce == read.nonce


@public
@pytest.mark.parametrize("name", GOOD)
def test_a_public_document_in_debug_mode_is_not_accepted(name: str) -> None:
    """By the finding for it; one that is not in debug mode is accepted."""
    claims = verify(content(name), during(name))
    values: dict[str, tuple[str, ...]] = {
        str(number): (value.hex(),) for number, value in claims.pcrs.items()
    }
    found = appraise_nitro(claims, rules=NitroRules(pcrs=values, max_age_ms=3 * 3_600_000))
    assert [finding.code for finding in found] == (["nitro:debug"] if GOOD[name][2] else [])


@public
@pytest.mark.parametrize("name", GOOD)
def test_a_public_document_is_refused_outside_its_hours(name: str) -> None:
    """A second before and after."""
    from_, to, _ = GOOD[name]
    with pytest.raises(NitroExpiredError):
        verify(content(name), datetime.fromisoformat(to) + timedelta(seconds=1))
    with pytest.raises(HwTrustError):
        verify(content(name), datetime.fromisoformat(from_) - timedelta(seconds=1))


@public
def test_a_public_document_with_a_bad_signature_is_refused() -> None:
    """Its chain is good."""
    with pytest.raises(CoseSignatureError):
        verify(content(BAD), during("veracruz-document.cbor"))


@public
def test_the_pinned_root_is_the_published_one() -> None:
    """AWS Nitro Enclaves Root G1."""
    (der,) = pem_blocks((PUBLIC / "aws-nitro-root-g1.pem").read_bytes(), b"CERTIFICATE")
    assert AWS.roots == {sha256(der).hexdigest()}


def flipped(document: bytes, bits: list[int]) -> list[bytes]:
    """The document with each of the bits turned, one at a time."""
    found = []
    for bit in bits:
        changed = bytearray(document)
        changed[bit // 8] ^= 1 << bit % 8
        found.append(bytes(changed))
    return found


def sample_of(document: bytes) -> list[int]:
    """All bits of the first and last bytes, where the unsigned heads are, and some between."""
    heads = 16 * 8
    last = len(document) * 8
    signature = range(last - 98 * 8, last - 96 * 8)
    some = random.Random(0).sample(range(heads, last), SAMPLE)  # noqa: S311
    return [*range(heads), *signature, *some]


@public
@pytest.mark.parametrize("name", GOOD)
def test_a_public_document_with_a_changed_bit_is_refused(name: str) -> None:
    """Every bit of the heads, and a sample of the others, with an error of the tree."""
    document = content(name)
    for changed in flipped(document, sample_of(document)):
        with pytest.raises(HwTrustError) as refused:
            verify(changed, during(name))
        assert refused.value.code


# --- the repository's own ------------------------------------------------------------


def own() -> dict[str, bytes]:
    """What is stored."""
    return {file.name: file.read_bytes() for file in sorted(OWN.iterdir())}


def own_trust() -> NitroTrust:
    """Trust in the root that is stored."""
    (der,) = pem_blocks(own()["root.pem"], b"CERTIFICATE")
    return NitroTrust(roots=frozenset({sha256(der).hexdigest()}))


def test_what_is_stored_is_what_the_generator_makes() -> None:
    """The same bytes, and something."""
    assert own() == make()
    assert len(own()) == 4


def test_what_is_stored_verifies() -> None:
    """Under its own root, and not under AWS's."""
    files, trust = own(), own_trust()
    claims = verify(files["document.cbor"], NOW, trust=trust, nonce=NONCE, user_data=USER_DATA)
    assert not claims.debug
    assert verify(files["debug-mode.cbor"], NOW, trust=trust).debug
    assert verify(files["no-nonce.cbor"], NOW, trust=trust, user_data=None).nonce is None
    with pytest.raises(NitroRootError):
        verify(files["document.cbor"], NOW)


def test_what_is_stored_is_refused_with_a_changed_bit() -> None:
    """As the public documents are, where these are not at hand."""
    document, trust = own()["document.cbor"], own_trust()
    for changed in flipped(document, sample_of(document)):
        with pytest.raises(HwTrustError):
            verify(changed, NOW, trust=trust)
