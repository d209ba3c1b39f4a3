"""A device whose TLS key never leaves its TPM: its whole life, in processes of its own.

Needs the tpm2-openssl provider 1.2 or newer, which Debian has since 13, and a
resource manager, because OpenSSL reaches the TPM by a connection of its own. What
uses the key runs in a process of its own: OpenSSL reads OPENSSL_CONF once.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hwtrust.device.config import TlsKeyChoice
from hwtrust.device.enrol import choose_tls_key
from hwtrust.errors import ChannelTlsError, ChannelUnreachableError, TlsKeyError
from hwtrust.testing.swtpm import Swtpm
from hwtrust_backend.testing import BackendServer
from simulators.resource_manager import (
    ResourceManager,
    documented_configuration,
    require_provider,
)
from simulators.site import Site
from simulators.tls_client import HANDSHAKES, PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.testing.manufacture import Vendor


@dataclass(frozen=True, slots=True)
class Shared:
    """A site whose TPM has a resource manager."""

    site: Site
    manager: ResourceManager

    def hwtrust(self, *arguments: str, provider: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line tool; without `provider` OpenSSL is as it comes."""
        environment = dict(self.manager.environment)
        if not provider:
            del environment["OPENSSL_CONF"]
        return subprocess.run(
            [Path(sys.executable).with_name("hwtrust"), *arguments],
            env=environment | {"HWTRUST_CONFIG": str(self.site.config_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def enrol(self, *, provider: bool = True) -> subprocess.CompletedProcess[str]:
        """Enrol, with a fresh token."""
        token = self.site.home / "token"
        token.write_text(self.site.token())
        return self.hwtrust("enrol", "--json", "--token-file", str(token), provider=provider)

    def enrolled(self) -> str:
        """Enrol; gives the device's name."""
        done = self.enrol()
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["device"])

    def file(self, name: str) -> Path:
        """A file of the device's state."""
        return self.site.home / "state" / name

    def shake_hands(
        self, device: str, *, key: Path, certificate: Path, threads: int = 1, keys: str = "own"
    ) -> subprocess.CompletedProcess[str]:
        """Open connections of mutual TLS, and ask for a challenge over each."""
        authority = self.site.home / "ca.pem"
        authority.write_text(self.site.backend.trust.tls_ca)
        paths = (str(path) for path in (authority, key, certificate))
        return subprocess.run(
            [
                *(sys.executable, "-P", PROGRAM, self.site.backend.url),
                *(*paths, device, str(threads), keys),
            ],
            env=self.manager.environment | {"TSS2_LOG": "all+none"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def choose(site: Site, tls_key: str, tcti: str) -> None:
    """Configure which kind of key the device has, and how its TPM is reached."""
    text = site.config_path.read_text()
    text = re.sub(r"^tls_key = .*$", f'tls_key = "{tls_key}"', text, flags=re.MULTILINE)
    text = re.sub(r"^tcti = .*$", f'tcti = "{tcti}"', text, flags=re.MULTILINE)
    site.config_path.write_text(text)


@pytest.fixture(scope="module")
def openssl_conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenSSL's configuration, as the documentation shows it."""
    path: Path = tmp_path_factory.mktemp("openssl") / "openssl.cnf"
    path.write_text(documented_configuration())
    return path


@pytest.fixture
def shared(tmp_path: Path, tpm: Swtpm, tpm_vendor: Vendor, openssl_conf: Path) -> Iterator[Shared]:
    """A device that is to have its TLS key in its TPM, not enrolled."""
    require_provider(tpm.tcti)
    with BackendServer() as backend:
        site = Site(tmp_path, tpm, backend, tpm_vendor)
        with ResourceManager.start(tpm, tmp_path, openssl_conf=openssl_conf) as manager:
            choose(site, "tpm", manager.tcti)
            yield Shared(site, manager)


def test_a_bare_tpm_takes_an_attested_key_and_says_why_if_asked_for_the_other(
    tmp_path: Path, tpm: Swtpm, tpm_vendor: Vendor
) -> None:
    """OpenSSL's own connection would wait for ours: `auto` avoids it, `tpm` is refused."""
    with BackendServer() as backend:
        site = Site(tmp_path, tpm, backend, tpm_vendor, tls_key="auto")
        with site.open() as device:
            assert device.enrol(token=site.token()).tls_kind == "attested"
            context = device._context
            context.config = msgspec.structs.replace(context.config, tls_key=TlsKeyChoice.TPM)
            with pytest.raises(TlsKeyError) as refused:
                choose_tls_key(context, context.known().storage_key)
    assert refused.value.code == TlsKeyError.code


@pytest.mark.parametrize("choice", ["tpm", "auto"])
def test_a_device_lives_with_its_tls_key_in_the_tpm(shared: Shared, choice: str) -> None:
    """It enrols, boots and attests over TLS that only its TPM can open."""
    choose(shared.site, choice, shared.manager.tcti)
    done = shared.enrol()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tls_key"] == "tpm"
    # Nothing that a thief of the disk could use: the key is wrapped for this TPM.
    assert b"TSS2 PRIVATE KEY" in shared.file("tls-key.pem").read_bytes()
    for command in (("boot",), ("attest",), ("attest",), ("status",)):
        done = shared.hwtrust(*command, "--json")
        assert done.returncode == 0, (command, done.stderr)


@pytest.mark.parametrize("keys", ["shared", "own"])
def test_many_connections_are_opened_at_once(shared: Shared, keys: str) -> None:
    """Threads share the TPM: each handshake is signed, and none waits for ever."""
    device = shared.enrolled()
    done = shared.shake_hands(
        device,
        key=shared.file("tls-key.pem"),
        certificate=shared.file("tls-certificate.pem"),
        threads=4,
        keys=keys,
    )
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 4 * HANDSHAKES


def test_a_certificate_of_another_key_is_refused_before_anything_is_sent(shared: Shared) -> None:
    """A key of the same TPM does not fit a certificate that was given for another."""
    device = shared.enrolled()
    former = shared.site.home / "former.pem"
    former.write_bytes(shared.file("tls-certificate.pem").read_bytes())
    again = shared.hwtrust("enrol", "--again", "--token-file", str(_token(shared)), "--json")
    assert again.returncode == 0, again.stderr
    done = shared.shake_hands(device, key=shared.file("tls-key.pem"), certificate=former)
    assert done.stderr.strip() == TlsKeyError.code


def test_a_key_of_another_tpm_is_refused(
    shared: Shared, tmp_path_factory: pytest.TempPathFactory, openssl_conf: Path
) -> None:
    """A stolen key file opens nothing on another machine."""
    device = shared.enrolled()
    home = tmp_path_factory.mktemp("thief")
    with (
        Swtpm.start() as other,
        ResourceManager.start(other, home, openssl_conf=openssl_conf) as manager,
    ):
        thief = Shared(shared.site, manager)
        done = thief.shake_hands(
            device,
            key=shared.file("tls-key.pem"),
            certificate=shared.file("tls-certificate.pem"),
        )
    assert done.stderr.strip() == TlsKeyError.code


def test_a_certificate_that_nobody_gave_is_refused_by_the_backend(shared: Shared) -> None:
    """Only the backend's authority makes a device of a key."""
    device = shared.enrolled()
    key = ec.generate_private_key(ec.SECP256R1())
    pem = shared.site.home / "own.pem"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate = shared.site.home / "own-certificate.pem"
    certificate.write_bytes(_self_signed(key).public_bytes(Encoding.PEM))
    done = shared.shake_hands(device, key=pem, certificate=certificate)
    # Its end of TLS 1.3 is through before the other has judged: the alert may meet a closed door.
    assert done.stderr.strip() in {ChannelTlsError.code, ChannelUnreachableError.code}
    assert not done.stdout


def test_without_the_provider_the_key_is_refused_by_name(shared: Shared) -> None:
    """`tpm` was asked for: no other kind takes its place unasked."""
    done = shared.enrol(provider=False)
    assert done.returncode == 5
    assert f"[{TlsKeyError.code}]" in done.stderr


def test_without_the_provider_the_best_is_an_attested_key_and_it_is_said(shared: Shared) -> None:
    """`auto` takes what works here."""
    choose(shared.site, "auto", shared.manager.tcti)
    done = shared.enrol(provider=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tls_key"] == "attested"


def test_a_device_that_loses_the_provider_says_so(shared: Shared) -> None:
    """After an upgrade that dropped the configuration, the error names the key, not the network."""
    shared.enrolled()
    done = shared.hwtrust("attest", provider=False)
    assert done.returncode == 5
    assert f"[{TlsKeyError.code}]" in done.stderr


def _token(shared: Shared) -> Path:
    path = shared.site.home / "token"
    path.write_text(shared.site.token())
    return path


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = datetime.now(UTC)
    nobody = x509.Name([])
    builder = (
        x509.CertificateBuilder()
        .subject_name(nobody)
        .issuer_name(nobody)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(minutes=10))
    )
    return builder.sign(key, hashes.SHA256())
