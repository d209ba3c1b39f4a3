"""What is written for relying parties and receivers is so: its programs, names and commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import msgspec
import pytest
from click import Command, Group
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.wire.messages import Mode, Standing
from hwtrust_backend.cli import cli
from hwtrust_backend.config import system_clock
from hwtrust_backend.enrolment import DeviceKind
from hwtrust_backend.results.ar4si import Claim
from hwtrust_backend.results.claims import GPU, TEE, Request, Subject, make_claims
from hwtrust_backend.results.jwks import Jwks, coordinates, jwk
from hwtrust_backend.results.verify import ALGORITHM, TYPE
from hwtrust_backend.testing import HOUR, MINUTE
from hwtrust_backend.webhooks import Topic
from hwtrust_backend.webhooks.signing import new_secret, secret_text, signed_headers

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT = Path(__file__).parents[3] / "docs" / "relying-parties.md"
_LINES = re.MULTILINE | re.DOTALL
ISSUER = "https://trust.example.org"
NONCE = b"a nonce of mine"


def programs() -> dict[str, Any]:
    """The functions of the document's Python programs."""
    found: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, found)  # noqa: S102 - the repository's own document
    return found


def result(standing: Standing, key: ec.EllipticCurvePrivateKey) -> str:
    """A result, signed as the backend signs it."""
    now = system_clock()
    subject = Subject(
        device="000b" + "5e" * 32,
        kind=DeviceKind.TPM,
        debug=False,
        gpu=False,
        group="default",
        standing=standing,
        mode=Mode.NORMAL,
        findings=(),
        epoch=8,
        release="1.0",
        attested_at=now - MINUTE,
        grace_end=now + HOUR,
        missed=False,
        withdrawn=False,
        policy="",
    )
    request = Request(nonce=NONCE, audience="shop")
    claims = make_claims(subject, request, issuer=ISSUER, build="test", lifetime_ms=MINUTE, now=now)
    headers = {"kid": jwk(*coordinates(key.public_key())).kid, "typ": TYPE}
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers=headers)


def test_the_program_for_relying_parties_believes_good_results_alone() -> None:
    """It takes a good device's result, and no other device's, nonce's or audience's."""
    key = ec.generate_private_key(ec.SECP256R1())
    published = Jwks(keys=(jwk(*coordinates(key.public_key())),))
    keys = msgspec.json.decode(msgspec.json.encode(published))
    believed: Callable[..., dict[str, Any]] = programs()["believed"]
    expected = {"issuer": ISSUER, "audience": "shop", "nonce": NONCE}
    good = result(Standing.TRUSTED, key)
    assert believed(good, keys, **expected)["ear_status"] == "affirming"
    with pytest.raises(ValueError, match="contraindicated"):
        believed(result(Standing.FAILED, key), keys, **expected)
    with pytest.raises(ValueError, match="question"):
        believed(good, keys, **{**expected, "nonce": b"another nonce"})
    with pytest.raises(jwt.InvalidAudienceError):
        believed(good, keys, **{**expected, "audience": "another"})


def test_the_program_for_receivers_believes_genuine_events_alone() -> None:
    """Another body, secret or time is refused."""
    secret, now = new_secret(), system_clock()
    headers = signed_headers([new_secret(), secret], message="msg_1", now=now, body=b"{}")
    genuine: Callable[..., bool] = programs()["genuine"]
    assert genuine(headers, b"{}", secret_text(secret))
    assert not genuine(headers, b"[]", secret_text(secret))
    assert not genuine(headers, b"{}", secret_text(new_secret()))
    old = signed_headers([secret], message="msg_1", now=now - HOUR, body=b"{}")
    assert not genuine(old, b"{}", secret_text(secret))


def test_every_topic_and_every_claim_is_explained() -> None:
    """A name that is sent is in the document."""
    text = DOCUMENT.read_text()
    assert [topic for topic in Topic if topic is not Topic.TEST and f"`{topic}`" not in text] == []
    token = result(Standing.TRUSTED, ec.generate_private_key(ec.SECP256R1()))
    claims = jwt.decode(token, options={"verify_signature": False})
    (appraisal,) = claims["submods"].values()
    names = {*appraisal["ear_verifier_claims"], *appraisal["ear_trustworthiness_vector"]}
    assert sorted(name for name in names - {"hwtrust_device"} if f"`{name}`" not in text) == []


def test_the_claims_of_enclaves_are_explained() -> None:
    """What a TPM's device does not have is in the document, too."""
    text = DOCUMENT.read_text()
    assert [claim for claim in Claim if f"`{claim}`" not in text] == []
    assert [kind for kind in DeviceKind if kind not in text] == []
    assert [part for part in (TEE, GPU) if f"`submods.{part}`" not in text] == []


def test_every_command_is_one() -> None:
    """Commands and options of the examples exist."""
    lines = re.findall(r"^hwtrust-backend (.*?)(?<!\\)$", DOCUMENT.read_text(), _LINES)
    assert len(lines) > 10
    for line in lines:
        words = line.partition(" >")[0].partition("  #")[0].replace("\\\n", " ").split()
        command: Command = cli
        while words and isinstance(command, Group):
            found = command.get_command(
                command.make_context("x", [], resilient_parsing=True), words.pop(0)
            )
            assert found is not None, line
            command = found
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
