"""That the import rules in pyproject.toml bite: each finds the violation that it is there for.

The rules are tried on packages of empty modules, made from the names in the
rules themselves, into which one forbidden import is planted at a time.
`scripts/test` holds the real packages to them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = (ROOT / "pyproject.toml").read_text()
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads(CONFIGURATION)["tool"]["importlinter"]["contracts"]
}

# What the rules about external packages need to find in use.
NEEDED = {
    "hwtrust/tpm/stack.py": "import pyudev\nimport tpm2_pytss\n",
    "hwtrust/verify/enclaves/__init__.py": "",
    "hwtrust/verify/enclaves/dcap.py": "import dcap_qvl\n",
    "hwtrust/wire/enclaves/__init__.py": "",
    "hwtrust/wire/enclaves/cbor.py": "import cbor2\n",
    "hwtrust/wire/enclaves/cose.py": "import cbor2\n",
    "hwtrust/anchors/nsm.py": "import cbor2\n",
    "hwtrust/enclave/roots.py": "",
}


def plant(directory: Path, files: dict[str, str]) -> None:
    """Make the packages that the layers name, empty but for `files`."""
    (directory / "pyproject.toml").write_text(CONFIGURATION)
    for contract in CONTRACTS.values():
        for package in contract.get("containers", ()):
            names = re.findall(r"\w+", " ".join(contract["layers"]))
            for name in [".", *names, *contract.get("exhaustive_ignores", ())]:
                module = directory / package / name
                module.mkdir(parents=True, exist_ok=True)
                (module / "__init__.py").touch()
    for name in CONTRACTS["device-alone"]["protected_modules"]:
        package, *inside = name.split(".")
        for depth in range(1, len(inside) + 1):
            module = directory.joinpath(package, *inside[:depth])
            module.mkdir(exist_ok=True)
            (module / "__init__.py").touch()
    for name, source in {**NEEDED, **files}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def broken(directory: Path) -> set[str]:
    """The names of the rules that the packages in `directory` break."""
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = dict(re.findall(r"^(.+) (KEPT|BROKEN)", result.stdout, re.MULTILINE))
    assert {contract["name"] for contract in CONTRACTS.values()} == set(verdicts), result.stdout
    assert result.returncode == ("BROKEN" in verdicts.values())
    return {name for name, verdict in verdicts.items() if verdict == "BROKEN"}


VIOLATIONS = {
    "a lower layer uses a higher one": (
        "library-layers",
        {"hwtrust/wire/quote.py": "import hwtrust.channel"},
    ),
    "a peer uses a peer, inside a function": (
        "library-layers",
        {"hwtrust/keys/store.py": "def late():\n    from hwtrust import attest"},
    ),
    "a module that no layer names": (
        "library-layers",
        {"hwtrust/helpers.py": ""},
    ),
    "the backend's database uses its server": (
        "backend-layers",
        {"hwtrust_backend/db/models.py": "from hwtrust_backend import app"},
    ),
    "a backend module that no layer names": (
        "backend-layers",
        {"hwtrust_backend/misc.py": ""},
    ),
    "the backend uses a part of the library that needs a TPM": (
        "backend-uses",
        {"hwtrust_backend/app/routes.py": "from hwtrust.channel import connect"},
    ),
    "another backend module than the release command makes bundles": (
        "backend-uses",
        {"hwtrust_backend/app/routes.py": "from hwtrust.updates.bundle import make_bundle"},
    ),
    "the backend uses the library's front door": (
        "backend-uses",
        {"hwtrust_backend/app/routes.py": "import hwtrust"},
    ),
    "a device's own program takes what its distribution does not hold": (
        "device-alone",
        {"hwtrust/device/boot.py": "from hwtrust import verify"},
    ),
    "the agent's client uses the agent": (
        "device-alone",
        {"hwtrust/agent/client.py": "from hwtrust.agent.service import serve"},
    ),
    "another module uses the TPM stack": (
        "tpm-stack",
        {"hwtrust/measure/pcr.py": "from tpm2_pytss import ESAPI"},
    ),
    "another module uses udev": (
        "tpm-stack",
        {"hwtrust/cli/find.py": "import pyudev"},
    ),
    "another module verifies quotes of Intel's": (
        "dcap",
        {"hwtrust/verify/quotes.py": "import dcap_qvl"},
    ),
    "another module reads CBOR": (
        "cbor",
        {"hwtrust/verify/quotes.py": "from cbor2 import loads"},
    ),
    "the product uses its test fixtures": (
        "testing",
        {"hwtrust/cli/boot.py": "from hwtrust.testing import plugin"},
    ),
    "the backend uses its test fixtures": (
        "testing",
        {"hwtrust_backend/app/routes.py": "from hwtrust_backend.testing import server"},
    ),
    "the verifier opens a socket": (
        "pure-core",
        {"hwtrust/verify/tpm.py": "import socket"},
    ),
    "the verifier asks the clock": (
        "pure-core",
        {"hwtrust/verify/tpm.py": "from time import time"},
    ),
}


@pytest.mark.parametrize(("contract", "files"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_rule_finds_the_import_that_it_forbids(
    contract: str, files: dict[str, str], tmp_path: Path
) -> None:
    """Each rule reports its violation, and no other rule reports it."""
    plant(tmp_path, files)
    assert broken(tmp_path) == {CONTRACTS[contract]["name"]}


def test_every_rule_has_a_violation_that_it_is_tried_on() -> None:
    """No rule is there that has never been seen to refuse anything."""
    assert {contract for contract, _ in VIOLATIONS.values()} == set(CONTRACTS)


def test_what_the_rules_allow_is_not_reported(tmp_path: Path) -> None:
    """Downwards; the pure library from the backend; the TPM stack from the fixtures."""
    allowed = {
        "hwtrust/cli/main.py": "from hwtrust import channel, device, errors, wire",
        "hwtrust/testing/plugin.py": "import tpm2_pytss\nfrom hwtrust.testing import bus",
        "hwtrust/testing/bus.py": "from hwtrust import tpm",
        "hwtrust/verify/tpm.py": "import cryptography, hashlib\nfrom hwtrust.wire import cel",
        "hwtrust/wire/cel.py": "",
        "hwtrust_backend/app/routes.py": "from hwtrust import errors, roots\n"
        "from hwtrust.verify.tpm import cel\nfrom hwtrust_backend.db import models",
        "hwtrust_backend/db/models.py": "",
    }
    plant(tmp_path, allowed)
    assert broken(tmp_path) == set()
