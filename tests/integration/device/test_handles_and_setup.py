"""Setting a device up: enrolments that fail halfway, owner passwords, and EKs of every kind."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from hwtrust import errors
from hwtrust.cli import run
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm import provision
from hwtrust.tpm.discover import open_tpm
from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.messages import Standing
from hwtrust_backend.enrolment import Device as KnownDevice
from hwtrust_backend.testing import MINUTE, BackendServer
from simulators.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust.channel import Channel
    from hwtrust.device import Device
    from hwtrust.testing.manufacture import Algorithm, Vendor
    from hwtrust.testing.plugin import TpmFactory

PASSWORD = b"owner password"
STEPS = ("/v1/enrolments", "/key", "/finish")


def lives(site: Site) -> Standing:
    """Enrol, boot, store, attest, rotate, reboot and boot again: the whole device works."""
    with site.open() as device:
        name = device.enrol(token=site.token()).device
        device.boot()
        device.keystore.put("name", b"value")
        device.attest()
        site.backend.rotate(name)
        assert device.attest().rotated_to is not None
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.keystore["name"] == b"value"
        standing = device.attest().standing
        assert loaded(device._context.tpm) == ()
    return standing


# --- an enrolment that fails halfway ---------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor) -> Iterator[Site]:
    """A site for many enrolments."""
    with Swtpm.start() as tpm, BackendServer() as backend:
        tpm_vendor.manufacture(tpm, algorithm="ecc256")
        yield Site(tmp_path_factory.mktemp("site"), tpm, backend, tpm_vendor)


def before_post(
    channel: Channel, step: str, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Do something just before the device sends that step's request."""
    post = channel.post

    def watched(path: str, request: object, reply: type[object]) -> object:
        if path.endswith(step):
            act()
        return post(path, request, reply)  # type: ignore[arg-type,type-var]

    monkeypatch.setattr(channel, "post", watched)


def send_away(channel: Channel) -> None:
    """From now on nobody listens where the backend was."""
    channel._port = 1


FAILURES = {
    "the backend goes away": (None, "channel:unreachable"),
    "the backend has forgotten the enrolment": (16 * MINUTE, "channel:refused"),
}


@pytest.mark.parametrize(
    ("failure", "step"),
    [
        pytest.param(failure, step, id=f"{failure} before {step}")
        for failure in FAILURES
        for step in STEPS
        if failure == "the backend goes away" or step != STEPS[0]
    ],
)
def test_an_enrolment_that_fails_halfway_leaves_the_next_one_free(
    shared: Site, failure: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step: a typed error, no device, nothing loaded; then the same command works."""
    wait, code = FAILURES[failure]
    with shared.open() as device:
        channel = device._context.channel

        def fail() -> None:
            if wait is None:
                send_away(channel)
            else:
                shared.backend.clock.advance(wait)

        with monkeypatch.context() as patch:
            before_post(channel, step, fail, patch)
            with pytest.raises(errors.ChannelError) as failed:
                device.enrol(token=shared.token())
        assert failed.value.code == code
        assert loaded(device._context.tpm) == ()
    with shared.open() as device:
        device.enrol(token=shared.token())
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
        assert loaded(device._context.tpm) == ()


REFUSALS: dict[str, tuple[Callable[[Site], object], str, str]] = {
    "the token is unknown": (lambda _: None, STEPS[0], "enrolment:token:refused"),
    "the release is retired meanwhile": (
        lambda site: site.backend.retire("1.0"),
        STEPS[2],
        "evidence:verdict:untrusted",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_enrolment_that_is_refused_leaves_the_next_one_free(
    site: Site, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend's code arrives, the token is still good, and nothing stays loaded."""
    spoil, step, code = REFUSALS[case]
    token = site.token()
    with site.open() as device:
        context = device._context
        with monkeypatch.context() as patch:
            before_post(context.channel, step, partial(spoil, site), patch)
            with pytest.raises(errors.RefusedError) as refused:
                device.enrol(token="guessed" if step == STEPS[0] else token)
        assert refused.value.data["problem"] == code
        assert loaded(context.tpm) == ()
        assert not device.enrolled
        with pytest.raises(errors.NotEnrolledError):
            device.attest()
    if step == STEPS[2]:
        site.backend.accept(site.release)
    with site.open() as device:
        device.enrol(token=token)
        device.boot()
        assert device.attest().standing is Standing.TRUSTED


def test_a_handle_that_is_taken_is_never_overwritten(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of somebody else at one of our handles: a conflict, before the backend is asked."""
    handle = site.config.handles().storage_key
    with open_tpm(site.tpm.tcti) as tpm:
        theirs, _ = provision.make_attestation_key(tpm, handle, unique=bytes(32))
    asked: list[str] = []
    with site.open() as device:
        channel = device._context.channel
        before_post(channel, STEPS[0], lambda: asked.append(STEPS[0]), monkeypatch)
        with pytest.raises(errors.TpmObjectConflictError) as conflict:
            device.enrol(token=site.token())
        assert device._context.tpm.pin(handle).name == theirs.name
    assert conflict.value.code == "tpm:object:conflict"
    assert conflict.value.data["handle"] == handle
    assert asked == []


def test_other_handles_in_the_configuration_avoid_the_conflict(site: Site) -> None:
    """As the hint says."""
    taken = site.config.handles().storage_key
    with open_tpm(site.tpm.tcti) as tpm:
        provision.make_attestation_key(tpm, taken, unique=bytes(32))
    text = site.config_path.read_text()
    moved = f"[tpm.handles]\nstorage_key = {taken + 1:#x}\n[layers]"
    site.config_path.write_text(text.replace("[layers]", moved))
    assert lives(site) is Standing.TRUSTED


def test_a_new_enrolment_that_fails_late_can_be_repeated(site: Site) -> None:
    """Even between the first and the last request of a device that was enrolled."""
    name = site.enrol()
    with site.open() as device, pytest.MonkeyPatch.context() as patch:
        channel = device._context.channel
        before_post(channel, STEPS[2], lambda: send_away(channel), patch)
        with pytest.raises(errors.ChannelUnreachableError):
            device.enrol(token=site.token())
        assert not device.enrolled
    with site.open() as device:
        with pytest.raises(errors.NotEnrolledError):
            device.boot()
        assert device.enrol(token=site.token()).device == name
        device.boot()
        assert device.attest().standing is Standing.TRUSTED


# --- the owner's password ----------------------------------------------------------------------


@pytest.fixture
def owned(
    tmp_path: Path, tpm_factory: TpmFactory, backend: BackendServer, tpm_vendor: Vendor
) -> Site:
    """A site whose TPM has an owner with a password."""
    return Site(tmp_path, tpm_factory(owner_auth=PASSWORD), backend, tpm_vendor)


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which systemd hands credentials over; empty."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


def test_an_owner_password_that_is_missing_is_named(
    owned: Site, credentials: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 4, how to give it, and nothing is left behind."""
    token = owned.home / "token"
    token.write_text(owned.token())
    line = ["enrol", "--config", str(owned.config_path), "--token-file", str(token)]
    assert run(line) == 4
    err = capsys.readouterr().err.splitlines()
    assert err[0].endswith("[tpm:owner:auth]")
    assert "systemd credential" in err[1]
    with owned.open() as device:
        assert loaded(device._context.tpm) == ()
        assert not device.enrolled


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["as it is", "with a newline"])
def test_an_owner_password_comes_as_a_systemd_credential(
    owned: Site, credentials: Path, end: bytes
) -> None:
    """The device enrols, rotates and sets its clock with it."""
    (credentials / "hwtrust-owner-auth").write_bytes(PASSWORD + end)
    assert lives(owned) is Standing.TRUSTED


def test_an_owner_password_that_is_wrong_is_named(owned: Site, credentials: Path) -> None:
    """Not as a lockout, and without showing it (104)."""
    (credentials / "hwtrust-owner-auth").write_bytes(b"not the password")
    with owned.open() as device, pytest.raises(errors.TpmOwnerAuthError) as refused:
        device.enrol(token=owned.token())
    assert refused.value.code == "tpm:owner:auth"
    assert "not the password" not in str(refused.value) + repr(refused.value.data)


def test_a_credential_that_cannot_be_a_password_is_an_error(owned: Site, credentials: Path) -> None:
    """It is not cut to what a TPM would take."""
    (credentials / "hwtrust-owner-auth").write_bytes(b"x" * 65)
    with pytest.raises(errors.ConfigError) as refused, owned.open():
        pass
    assert refused.value.code == "config"


def test_a_device_lives_on_without_the_owner_password(owned: Site, credentials: Path) -> None:
    """After the enrolment only the clock needs it: boot, attestation and rotation do not."""
    credential = credentials / "hwtrust-owner-auth"
    credential.write_bytes(PASSWORD)
    name = owned.enrol()
    credential.unlink()
    owned.tpm.reboot()
    owned.backend.clock.advance(5 * MINUTE)
    with owned.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
        owned.backend.rotate(name)
        assert device.attest().rotated_to is not None


# --- EKs of every kind -------------------------------------------------------------------------


def ek_of(device: Device) -> tuple[bytes, str, bytes]:
    """Name and profile of the EK that the device would show, and its certificate."""
    tpm = device._context.tpm
    found = provision.find_endorsement_key(tpm)
    with provision.endorsement_key(tpm, found.template) as (_, public):
        return public.name, found.template.profile, found.certificate


def vendor_site(
    home: Path, factory: TpmFactory, backend: BackendServer, vendor: Vendor, algorithm: Algorithm
) -> Site:
    """A site whose TPM has an EK certificate of that algorithm, or none."""
    return Site(home, factory(algorithm=algorithm), backend, vendor)


def test_a_device_whose_only_ek_certificate_is_rsa_enrols(
    tmp_path: Path, tpm_factory: TpmFactory, backend: BackendServer, tpm_vendor: Vendor
) -> None:
    """Its RSA EK is who it is, though the TPM could make a P-256 one."""
    site = vendor_site(tmp_path, tpm_factory, backend, tpm_vendor, "rsa2048")
    with site.open() as device:
        name, profile, _ = ek_of(device)
    assert profile == "L-1"
    assert lives(site) is Standing.TRUSTED
    assert known(site, name)


def known(site: Site, name: bytes) -> bool:
    """Whether the backend knows a device of that name."""
    with site.backend.session() as session:
        return session.get(KnownDevice, name.hex()) is not None


def test_a_device_without_an_ek_certificate_enrols_by_the_allow_list_alone(
    tmp_path: Path, tpm_factory: TpmFactory, backend: BackendServer, tpm_vendor: Vendor
) -> None:
    """A token alone is not enough; the allow-listed name is, without one."""
    site = vendor_site(tmp_path, tpm_factory, backend, tpm_vendor, "none")
    with site.open() as device:
        name, _, certificate = ek_of(device)
        assert certificate == b""
        with pytest.raises(errors.RefusedError) as refused:
            device.enrol(token=site.token())
        assert refused.value.data["problem"] == "enrolment:ek:unknown"
        backend.allow_ek(name)
        assert device.enrol().device == name
        device.boot()
        assert device.attest().standing is Standing.TRUSTED


@contextmanager
def made_by_swtpm_setup(directory: Path) -> Iterator[tuple[Swtpm, list[bytes]]]:
    """A TPM as libvirt makes one, with a P-384 EK certificate, and its CA's certificates."""
    ca, state = directory / "ca", directory / "tpm"
    for made in (ca, state):
        made.mkdir()
    (directory / "localca.conf").write_text(
        f"statedir = {ca}\nsigningkey = {ca}/key.pem\nissuercert = {ca}/issuer.pem\n"
        f"certserial = {ca}/serial\n"
    )
    (directory / "localca.options").write_text(
        "--platform-manufacturer hwtrust\n--platform-version 1\n--platform-model test\n"
    )
    (directory / "setup.conf").write_text(
        "create_certs_tool = swtpm_localca\n"
        f"create_certs_tool_config = {directory}/localca.conf\n"
        f"create_certs_tool_options = {directory}/localca.options\n"
    )
    subprocess.run(
        [
            "swtpm_setup",
            "--tpm2",
            *("--tpmstate", str(state)),
            *("--config", f"{directory}/setup.conf"),
            "--create-ek-cert",
            *("--pcr-banks", "sha1,sha256"),
            "--overwrite",
            *("--runas", "root"),
        ],
        check=True,
        capture_output=True,
    )
    authorities = [path.read_bytes() for path in ca.glob("*.pem")]
    with Swtpm.start(state) as tpm:
        yield tpm, [pem for pem in authorities if b"BEGIN CERTIFICATE" in pem]


def test_a_device_with_a_p384_ek_enrols_once_its_ca_is_trusted(
    tmp_path: Path, backend: BackendServer, tpm_vendor: Vendor
) -> None:
    """As on virtual machines: refused by the name of the cause until the CA is there."""
    (tmp_path / "made").mkdir()
    with made_by_swtpm_setup(tmp_path / "made") as (tpm, authorities):
        site = Site(tmp_path, tpm, backend, tpm_vendor)
        with site.open() as device:
            name, profile, _ = ek_of(device)
            assert profile == "H-3"
            with pytest.raises(errors.RefusedError) as refused:
                device.enrol(token=site.token())
            assert refused.value.data["problem"] == "enrolment:ek:chain"
            assert loaded(device._context.tpm) == ()
        assert len(authorities) == 2
        # The backend's clock stood still while the certificates were made.
        backend.clock.advance(5 * MINUTE)
        for authority in authorities:
            backend.add_ek_ca(authority)
        assert lives(site) is Standing.TRUSTED
        assert known(site, name)
