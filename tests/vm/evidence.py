"""Logs and a quote of a VM, held against a policy by the commands that people use.

in the VM:   tpm2_quote, hwtrust reference from-eventlog | from-ima
on the host: hwtrust verify-quote, hwtrust evidence verify
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vm.machine import Machine

FIRMWARE_LOG: Final = "/sys/kernel/security/tpm0/binary_bios_measurements"
IMA_LOG: Final = "/sys/kernel/security/ima/binary_runtime_measurements"
SELECTION: Final = "sha256:0,1,2,3,4,5,6,7,8,9,10,11"

_HWTRUST: Final = Path(sys.executable).with_name("hwtrust")
_IN_VM: Final = Path("/run/quote")
_QUOTE: Final = f"""\
mkdir -p {_IN_VM} && cd {_IN_VM} && export TPM2TOOLS_TCTI=device:/dev/tpmrm0 &&
tpm2_createprimary -Q -C e -G ecc:ecdsa-sha256:null -c ak.ctx \
  -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign' &&
tpm2_readpublic -Q -c ak.ctx -f pem -o ak.pem &&
tpm2_quote -Q -c ak.ctx -l {SELECTION} -q "$1" -m message -s signature -o pcrs
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What `hwtrust evidence verify` said."""

    status: int
    shown: dict[str, Any]
    complaint: str

    @property
    def codes(self) -> set[str]:
        """The codes of all findings."""
        return {finding["code"] for finding in self.shown["findings"]}


def quote_into(directory: Path, machine: Machine) -> Path:
    """Have the VM's TPM quote its PCRs and verify that; gives the file of their values."""
    nonce = secrets.token_hex(16)
    machine.run("bash", "-c", _QUOTE, "quote", nonce).good()
    for name in ("ak.pem", "message", "signature", "pcrs"):
        (directory / name).write_bytes(machine.read(str(_IN_VM / name)))
    subprocess.run(
        [
            *(_HWTRUST, "verify-quote", "-m", "message", "-s", "signature", "-p", "pcrs"),
            *("-k", "ak.pem", "-n", nonce, "--selection", SELECTION),
        ],
        cwd=directory,
        check=True,
        capture_output=True,
    )
    return directory / "pcrs"


def appraise(log: bytes, *, policy: str, pcrs: Path) -> Answer:
    """Hold a log against quoted values and a policy."""
    directory = pcrs.parent
    (directory / "log").write_bytes(log)
    (directory / "policy.toml").write_text(policy)
    done = subprocess.run(
        [
            *(_HWTRUST, "evidence", "verify", "log"),
            *("--policy", "policy.toml", "--pcrs", pcrs.name, "--json"),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return Answer(done.returncode, json.loads(done.stdout or "{}"), done.stderr)
