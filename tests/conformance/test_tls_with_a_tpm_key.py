"""A TLS handshake whose client key never leaves the TPM.

Needs the tpm2-openssl provider 1.2 or newer, which Debian 12 does not have (its
1.1.1 loads no such key into a Python SSL context); Debian 13 does. The handshake
runs in a process of its own, because OpenSSL reads OPENSSL_CONF once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.device import enrol
from hwtrust.device.config import TlsKeyChoice
from hwtrust.device.enrol import choose_tls_key
from hwtrust.errors import TlsKeyError
from hwtrust_backend.testing import BackendServer
from simulators.site import Site

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm

OPENSSL_CONF = """
openssl_conf = openssl_init
[openssl_init]
providers = provider_sect
[provider_sect]
default = default_sect
tpm2 = tpm2_sect
[default_sect]
activate = 1
[tpm2_sect]
activate = 1
"""

CLIENT = """
import sys
from pathlib import Path
from hwtrust.channel import Channel
from hwtrust.errors import RefusedError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import ChallengeReply, ChallengeRequest

class Key:
    def key_pem(self):
        return Path(sys.argv[2]).read_bytes()

channel = Channel(sys.argv[1], tls_ca=Path(sys.argv[3]).read_text())
channel.authenticate(Key(), Path(sys.argv[4]).read_text())
asked = ChallengeRequest(device=bytes.fromhex(sys.argv[5]), purpose=Purpose.ATTEST)
for _ in range(3):
    print(len(channel.post("/v1/challenges", asked, ChallengeReply).nonce))
"""


def provider_version(tcti: str) -> tuple[int, ...]:
    """The version of the tpm2-openssl provider, which loads only with a TPM; () without it."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl is not installed: run scripts/setup"
    listed = subprocess.run(
        [openssl, "list", "-providers", "-provider", "tpm2", "-verbose"],
        env={**os.environ, "TPM2OPENSSL_TCTI": tcti},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"version: (\d+)\.(\d+)", listed.stdout.partition("tpm2")[2])
    return tuple(map(int, found.groups())) if found else ()


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
    assert refused.value.code == "channel:tls-key:unusable"


def test_a_client_key_in_the_tpm_opens_mutual_tls(
    tmp_path: Path, tpm: Swtpm, tpm_vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enrolled with a key of kind `tpm`, the device is known by its certificate."""
    if provider_version(tpm.tcti) < (1, 2):
        pytest.skip("no tpm2-openssl provider >= 1.2: Debian 13 has it, Debian 12 does not")
    # A bare TPM serves one connection at a time: the key is tried once ours is closed, below.
    monkeypatch.setattr(enrol, "_require_shared", lambda _: None)
    monkeypatch.setattr(enrol, "usable_in_tls", lambda _: None)
    with BackendServer() as backend:
        site = Site(tmp_path, tpm, backend, tpm_vendor, tls_key="tpm")
        conf = tmp_path / "openssl.cnf"
        conf.write_text(OPENSSL_CONF)
        monkeypatch.setattr("hwtrust.channel.Channel.authenticate", lambda *_: None)
        with site.open() as device:
            identity = device.enrol(token=site.token())
        assert identity.tls_kind == "tpm"
        state = tmp_path / "state"
        (tmp_path / "ca.pem").write_text(backend.trust.tls_ca)
        done = subprocess.run(
            [
                *(sys.executable, "-c", CLIENT, backend.url, str(state / "tls-key.pem")),
                *(str(tmp_path / "ca.pem"), str(state / "tls-certificate.pem")),
                identity.device.hex(),
            ],
            env={**os.environ, "OPENSSL_CONF": str(conf), "TPM2OPENSSL_TCTI": tpm.tcti},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["40", "40", "40"]
