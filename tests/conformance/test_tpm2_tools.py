"""Both ways: quotes of tpm2-tools under `hwtrust verify-quote`, ours under tpm2_checkquote."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from hwtrust.attest.tpm import gather
from hwtrust.cli import run
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import Binding
from hwtrust.wire.structures import Public
from hwtrust_backend.testing import BackendServer
from simulators.site import Site

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm

NONCE = "5f1c0d2e9b7a4c3d5f1c0d2e9b7a4c3d"
EVIDENCE_REFUSED = 3


def tool(
    tpm: Swtpm, directory: Path, name: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the tpm2-tools on a TPM."""
    command = shutil.which(name)
    assert command, f"{name} is not installed: run scripts/setup"
    return subprocess.run(
        [command, *arguments],
        cwd=directory,
        env={**os.environ, "TPM2TOOLS_TCTI": tpm.tcti},
        capture_output=True,
        text=True,
        check=False,
    )


def quoted(tpm: Swtpm, directory: Path, key: str, scheme: str, pcrs: str) -> None:
    """A quote by tpm2_quote, with all of its files."""
    for name, arguments in (
        ("tpm2_createek", ["-c", "ek.ctx", "-G", key, "-u", "ek.pub"]),
        ("tpm2_flushcontext", ["-t"]),
        (
            "tpm2_createak",
            [
                *("-C", "ek.ctx", "-c", "ak.ctx", "-G", key, "-g", "sha256", "-s", scheme),
                *("-u", "ak.pem", "-f", "pem", "-n", "ak.name"),
            ],
        ),
        ("tpm2_flushcontext", ["-t"]),
        ("tpm2_readpublic", ["-c", "ak.ctx", "-o", "ak.pub"]),
        ("tpm2_flushcontext", ["-t"]),
        (
            "tpm2_quote",
            [
                *("-c", "ak.ctx", "-l", pcrs, "-q", NONCE, "-g", "sha256", "--scheme", scheme),
                *("-m", "quote.msg", "-s", "quote.sig", "-o", "quote.pcrs"),
            ],
        ),
        ("tpm2_flushcontext", ["-t"]),
    ):
        done = tool(tpm, directory, name, *arguments)
        assert done.returncode == 0, f"{name}: {done.stderr}"


def verify(directory: Path, *, key: str, pcrs: str, nonce: str = NONCE) -> int:
    """Run `hwtrust verify-quote` on these files; gives its exit code."""
    return run(
        [
            *("verify-quote", "--key", str(directory / key), "--nonce", nonce),
            *("--selection", pcrs, "--message", str(directory / "quote.msg")),
            *("--signature", str(directory / "quote.sig")),
            *("--pcrs", str(directory / "quote.pcrs")),
        ]
    )


@pytest.mark.parametrize(
    ("key", "scheme"),
    [("ecc", "ecdsa"), ("rsa", "rsassa"), ("rsa", "rsapss")],
    ids=["P-256", "RSASSA", "RSAPSS"],
)
@pytest.mark.parametrize("pcrs", ["sha256:0,7,16", "sha256:0,1,2,3,4,5,6,7,8,9+sha1:0"])
def test_a_quote_of_tpm2_quote_verifies_by_either_form_of_its_key(
    tpm: Swtpm, tmp_path: Path, key: str, scheme: str, pcrs: str
) -> None:
    """PEM and TPM2B_PUBLIC; a wrong nonce and another selection are refused."""
    quoted(tpm, tmp_path, key, scheme, pcrs)
    assert verify(tmp_path, key="ak.pem", pcrs=pcrs) == 0
    assert verify(tmp_path, key="ak.pub", pcrs=pcrs) == 0
    assert verify(tmp_path, key="ak.pub", pcrs=pcrs, nonce="00" * 16) == EVIDENCE_REFUSED
    assert verify(tmp_path, key="ak.pub", pcrs="sha256:0") == EVIDENCE_REFUSED


def test_our_quote_satisfies_tpm2_checkquote(
    tpm: Swtpm, tmp_path: Path, tpm_vendor: Vendor
) -> None:
    """An independent tool accepts our quote, key and nonce, and refuses another nonce."""
    home = tmp_path / "home"
    home.mkdir()
    with BackendServer() as backend:
        site = Site(home, tpm, backend, tpm_vendor, platform_pcrs=(0, 7))
        site.enrol()
        with site.open() as device:
            context = device._context
            context.measured.settle(context.tpm)
            identity = context.known()
            log = context.measured.log
            binding = Binding(
                purpose=Purpose.ATTEST,
                nonce=bytes.fromhex(NONCE),
                tls_key=b"key",
                epoch=1,
                release="1.0",
                log_digest=log.digest(),
            )
            evidence = gather(
                context.tpm,
                ak=identity.ak,
                counter=identity.counter,
                selection=context.selection,
                pcr=8,
                log=log,
                binding=binding,
            )
            public, _, _ = context.tpm.esapi.read_public(context.tpm.at(identity.ak))
    ak = Public.decode(public.publicArea.marshal()).key()
    pem = ak.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "ak.pem").write_bytes(pem)
    (tmp_path / "quote.msg").write_bytes(evidence.quote.message)
    (tmp_path / "quote.sig").write_bytes(evidence.quote.signature)
    (tmp_path / "values").write_bytes(b"".join(evidence.pcrs.values()))
    arguments = ["-u", "ak.pem", "-m", "quote.msg", "-s", "quote.sig", "-g", "sha256"]
    arguments += ["-f", "values", "-l", "sha256:0,7,8"]
    qualifying = binding.digest().hex()
    good = tool(tpm, tmp_path, "tpm2_checkquote", *arguments, "-q", qualifying)
    assert good.returncode == 0, good.stderr
    other = tool(tpm, tmp_path, "tpm2_checkquote", *arguments, "-q", "00" * 32)
    assert other.returncode != 0
