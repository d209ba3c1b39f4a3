"""Enclaves against a backend over real TLS: what a relay, a thief or a copy gets, and their own."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import EnclaveAttest, EnclaveEnrolled, EnclaveReply
from hwtrust.wire.messages import Standing
from hwtrust_backend.testing import BackendServer
from simulators.attester import make_release
from simulators.backend_clients import (
    HttpApi,
    RefusedByHttpError,
    client_context,
    enrolled_device,
)
from simulators.enclave_clients import (
    BackendEnclave,
    HttpWay,
    enclave_policy,
    trust_signers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(database_setting: str) -> Iterator[BackendServer]:
    """A backend that accepts TPMs and enclaves."""
    policy = enclave_policy(evidence=["tpm", "snp"])
    with BackendServer(database=database_setting, policy=policy) as started:
        trust_signers(started.backend)
        started.accept(make_release())
        yield started


@pytest.fixture
def enclave(server: BackendServer) -> BackendEnclave:
    """An enclave that has enrolled."""
    made = BackendEnclave()
    made.enrol(HttpWay(server), server.token())
    return made


def refusal(way: HttpWay, path: str, message: msgspec.Struct, **how: object) -> tuple[int, str]:
    """How a message is refused: status and code."""
    with pytest.raises(RefusedByHttpError) as raised:
        way.post(path, message, EnclaveReply, **how)  # type: ignore[arg-type]
    assert raised.value.media_type == "application/problem+json"
    return raised.value.status, raised.value.code


def test_an_enclave_enrols_attests_and_rotates(server: BackendServer) -> None:
    """The whole way, over connections of its own."""
    way, enclave = HttpWay(server), BackendEnclave()
    enclave.enrol(way, server.token())
    assert enclave.attest(way).standing is Standing.TRUSTED
    server.rotate(enclave.name)
    root = enclave.attest(way).root
    assert root is not None
    assert enclave.take(root) == 2
    assert enclave.attest(way).findings == ()
    assert enclave.attest(way, epoch=1).findings[0].code == "epoch:revoked"
    assert enclave.session(way).certificate


def test_evidence_is_bound_to_the_session_that_it_comes_by(
    server: BackendServer, enclave: BackendEnclave
) -> None:
    """Relayed over the session of another device, or over none, it is refused."""
    way, relay = HttpWay(server), BackendEnclave()
    relay.enrol(way, server.token())
    message = EnclaveAttest(device=enclave.name, evidence=enclave.evidence(enclave.next_nonce))
    path = "/v1/enclaves/attest"
    assert refusal(way, path, message, certificate=relay.certificate, key=relay.tls_key) == (
        403,
        "identity:key:mismatch",
    )
    assert refusal(way, path, message)[0] == 401
    assert enclave.attest(way, message.evidence).standing is Standing.TRUSTED
    status, code = refusal(way, path, message, certificate=enclave.certificate, key=enclave.tls_key)
    assert (status, code) == (403, "challenge:used")


def test_an_enrolment_is_refused_with_a_problem(server: BackendServer) -> None:
    """No token, no key for the root, and evidence that is not accepted."""
    way, enclave = HttpWay(server), BackendEnclave()
    path = "/v1/enclaves/enrol"
    assert refusal(way, path, enclave.enrolment(way, "none"))[0] == 403
    keyless = enclave.enrolment(way, server.token(), release_key=b"")
    assert refusal(way, path, keyless) == (403, "enrolment:release-key")
    debugged = enclave.enrolment(way, server.token(), report={"measurement": bytes(48)})
    assert refusal(way, path, debugged)[0] == 403
    forged = enclave.enrolment(way, server.token())
    binding = msgspec.structs.replace(forged.evidence.binding, release="2.0")
    evidence = msgspec.structs.replace(forged.evidence, binding=binding)
    assert refusal(way, path, msgspec.structs.replace(forged, evidence=evidence))[0] == 403
    way.post(path, enclave.enrolment(way, server.token()), EnclaveEnrolled)


def test_a_tpm_and_an_enclave_are_told_apart(
    server: BackendServer, enclave: BackendEnclave
) -> None:
    """Neither attests by the way of the other."""
    tpm = enrolled_device(server)
    evidence = enclave.evidence(enclave.next_nonce)
    message = EnclaveAttest(device=tpm.name, evidence=evidence)
    way = HttpWay(server)
    key = tpm.tpm.tls_key
    found = refusal(way, "/v1/enclaves/attest", message, certificate=tpm.certificate, key=key)
    assert found == (409, "device:kind")
    with pytest.raises(RefusedByHttpError) as raised:
        HttpApi(server, tpm).post(
            "/v1/challenges",
            json.dumps(
                {"device": msgspec.to_builtins(enclave.name), "purpose": Purpose.ATTEST}
            ).encode(),
            EnclaveReply,
        )
    assert (raised.value.status, raised.value.code) == (409, "device:kind")


def test_who_is_not_known_is_told_so(server: BackendServer) -> None:
    """An enclave that was cut off while it enrolled asks by this whether it has."""
    with pytest.raises(RefusedByHttpError) as raised:
        BackendEnclave().ask(HttpWay(server), Purpose.SESSION)
    assert (raised.value.status, raised.value.code) == (404, "device:unknown")


@pytest.mark.parametrize("body", [b"{}", b"[", b'{"device": 1}'], ids=["empty", "torn", "wrong"])
@pytest.mark.parametrize("path", ["challenges", "enrol", "attest"])
def test_what_is_no_message_is_a_bad_request(server: BackendServer, path: str, body: bytes) -> None:
    """Whatever it is."""
    port = int(server.url.rpartition(":")[2])
    connection = http.client.HTTPSConnection(
        "localhost", port, context=client_context(server), timeout=30
    )
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", f"/v1/enclaves/{path}", body=body, headers=headers)
        assert connection.getresponse().status == 400
    finally:
        connection.close()
