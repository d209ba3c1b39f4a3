"""78 to 80 and 83: interposers on the bus, relays and other servers on the network."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from hwtrust import errors
from hwtrust.channel import AttestedKey, Channel
from hwtrust.device.attest import bound_evidence
from hwtrust.testing.faults import Alter, At, FaultPlan, FaultyTcti, Swallow
from hwtrust.tpm import provision
from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import (
    ChallengeReply,
    ChallengeRequest,
    Standing,
)
from hwtrust_backend.app.tls import server_context
from hwtrust_backend.audit import Event
from hwtrust_backend.config import system_clock
from hwtrust_backend.testing import BackendServer
from simulators.field import (
    Field,
    enrolled,
    ground,
    newest,
)
from simulators.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tpm2_pytss.TCTI import TCTI

    from hwtrust.testing.manufacture import Vendor

COUNTER = provision.COUNTER_ATTRIBUTES


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor) -> Iterator[Field]:
    """A device that is enrolled, booted and open."""
    with ground(tmp_path_factory.mktemp("field"), tpm_vendor) as site, enrolled(site) as made:
        yield made


# --- bus and transport ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offset",
    [
        pytest.param(16, id="in the size of the secret"),
        pytest.param(30, id="in the encrypted secret"),
        pytest.param(-1, id="in the HMAC"),
    ],
)
def test_78_a_tampered_unseal_is_noticed(site: Site, offset: int) -> None:
    """Nothing opens, nothing stays in the TPM, and the next boot is as ever."""
    site.enrol()
    site.tpm.reboot()
    plan = FaultPlan(At(Alter("response", offset), command="TPM2_Unseal"))

    def interpose(inner: TCTI) -> TCTI:
        return FaultyTcti(inner, plan)

    with site.open(wrap_tcti=interpose) as device:
        with pytest.raises(errors.TpmError) as noticed:
            device.boot()
        assert plan.done
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore
        assert loaded(device._context.tpm) == ()
    assert noticed.value.code == "tpm:response:tampered"
    with site.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED


@pytest.mark.parametrize("nth", [1, 3, 5], ids=["first layer", "third layer", "cap"])
def test_79_a_swallowed_extend_is_noticed(site: Site, nth: int) -> None:
    """An interposer that answers in the TPM's place has no HMAC; the log still tells the truth."""
    site.enrol()
    site.tpm.reboot()
    plan = FaultPlan(At(Swallow(), command="TPM2_PCR_Extend", nth=nth))

    def interpose(inner: TCTI) -> TCTI:
        return FaultyTcti(inner, plan)

    with site.open(wrap_tcti=interpose) as device:
        with pytest.raises(errors.TpmTamperedError) as noticed:
            device.boot()
        assert plan.done
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore
    assert noticed.value.code == "tpm:response:tampered"
    with site.open() as device:
        assert len(device.event_log().records) == nth - 1
        device.boot()
        assert device.keystore.list() == ()


def test_80_a_quote_is_worth_nothing_in_another_tls_session(site: Site) -> None:
    """A thief with a certificate of the same device relays a quote that binds the owner's key."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        device.attest()
        context = device._context
        owner, thief = context.client_key, AttestedKey()
        assert owner is not None
        context.client_key = thief
        context.channel.anonymous()
        device.attest()
        field = Field(site, device, name)
        relayed = bound_evidence(context, purpose=Purpose.ATTEST, nonce=field.nonce(), key=owner)
        with pytest.raises(errors.RefusedError) as refused:
            field.send(relayed)
    assert refused.value.data["problem"] == "evidence:tls-key:mismatch"
    event, reason = newest(site, name)
    assert event == Event.EVIDENCE_REFUSED
    assert reason.startswith("evidence:tls-key:mismatch")


@contextmanager
def listening(context: ssl.SSLContext | None, host: str = "127.0.0.1") -> Iterator[int]:
    """Somebody in the backend's place, for one connection: TLS as `context` says, or HTTP."""
    with socket.create_server((host, 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                try:
                    if context is None:
                        connection.recv(1024)
                        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    else:
                        context.wrap_socket(connection, server_side=True)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join()


def backend_tls(site: Site, version: ssl.TLSVersion) -> ssl.SSLContext:
    """The backend's own certificate, under another version of TLS."""
    backend = site.backend.backend
    context = server_context(backend.settings, backend.vault, clock=system_clock)
    context.minimum_version = context.maximum_version = version
    return context


def test_83_the_device_speaks_tls_1_3_or_nothing(field: Field) -> None:
    """The right certificate under TLS 1.2, or no TLS at all, gets no request."""
    asked = ChallengeRequest(device=field.name, purpose=Purpose.ATTEST)
    ca = field.site.backend.trust.tls_ca
    for context in (backend_tls(field.site, ssl.TLSVersion.TLSv1_2), None):
        with listening(context) as port, pytest.raises(errors.ChannelError) as refused:
            Channel(f"https://localhost:{port}", tls_ca=ca).post(
                "/v1/challenges", asked, ChallengeReply
            )
        assert refused.value.code == "channel:tls"


def test_83_the_device_takes_no_other_server(field: Field) -> None:
    """Another CA's server, or the right one under another name, is not the backend."""
    asked = ChallengeRequest(device=field.name, purpose=Purpose.ATTEST)
    trust = field.site.backend.trust
    with BackendServer() as stranger:
        strange = Channel(field.site.backend.url, tls_ca=stranger.trust.tls_ca)
        with pytest.raises(errors.ChannelTlsError) as other_ca:
            strange.post("/v1/challenges", asked, ChallengeReply)
    ours = backend_tls(field.site, ssl.TLSVersion.TLSv1_3)
    with (
        listening(ours, host="127.0.0.2") as port,
        pytest.raises(errors.ChannelTlsError) as other_name,
    ):
        Channel(f"https://127.0.0.2:{port}", tls_ca=trust.tls_ca).post(
            "/v1/challenges", asked, ChallengeReply
        )
    assert {other_ca.value.code, other_name.value.code} == {"channel:tls"}


def test_83_the_device_takes_no_plain_url(field: Field) -> None:
    """A trust file that says http:// is refused as it is read."""
    with pytest.raises(errors.ConfigError) as refused:
        Channel("http://localhost:8443", tls_ca=field.site.backend.trust.tls_ca)
    assert refused.value.code == "config"
