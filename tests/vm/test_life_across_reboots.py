"""The life of a root across starts of a machine whose TPM and disk stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
import pytest

from hwtrust.layers import reference
from hwtrust.wire.messages import Release
from vm.machine import STATE, Machine, Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust_backend.testing import BackendServer

pytestmark = [pytest.mark.vm, pytest.mark.long]

HOME: Final = Path(STATE)
CONFIG: Final = str(HOME / "hwtrust.toml")
LAYERS: Final = ("kernel", "frontend")
ENTRY: Final = "payments/transport"
LAYER_REFUSED: Final = 8


def set_up(machine: Machine, backend: BackendServer, tmp_path: Path) -> None:
    """Bring layers, release and trust onto the machine's disk, and write the configuration."""
    references = []
    for name in LAYERS:
        (tmp_path / name).write_bytes(f"layer {name}\n".encode() * 64)
        references.append(reference(name, "1.0", tmp_path / name))
        machine.write(str(HOME / name), (tmp_path / name).read_bytes())
    release = Release(name="1.0", layers=tuple(references))
    backend.accept(release)
    machine.write(str(HOME / "release.json"), msgspec.json.encode(release))
    machine.write(str(HOME / "trust.json"), backend.trust_file.read_bytes())
    layers = [word for name in LAYERS for word in ("--layer", f"{name}={HOME / name}")]
    machine.run(
        *("hwtrust", "init", "--trust", "trust.json", "--release", "release.json"),
        *("--state", "state", "--output", CONFIG, *layers),
        cwd=STATE,
    ).good()


def hwtrust(machine: Machine, *words: str, given: bytes = b"") -> str:
    """Run a command of the device in the VM, which must succeed; gives what it prints."""
    return machine.run("hwtrust", *words, "--config", CONFIG, given=given).good()


def test_a_root_opens_the_key_store_after_every_kind_of_start(
    new_machine: Callable[[Plan], Machine],
    backend: BackendServer,
    tmp_path: Path,
) -> None:
    """Enrolled, rotated, rebooted and cut off, the device loses nothing that it was told to keep.

    A layer that is changed while it is off keeps the root in the TPM.
    """
    port = urlsplit(backend.url).port
    assert port is not None
    machine = new_machine(Plan(reach=(port,)))
    machine.start()
    set_up(machine, backend, tmp_path)
    token = backend.token().encode()
    enrolled = json.loads(hwtrust(machine, "enrol", "--token-file", "-", "--json", given=token))
    hwtrust(machine, "keystore", "put", ENTRY, given=b"kept")

    machine.reboot()
    assert hwtrust(machine, "keystore", "get", ENTRY) == "kept"

    backend.rotate(bytes.fromhex(enrolled["device"]))
    hwtrust(machine, "boot")
    machine.cut_power()
    machine.start()
    assert hwtrust(machine, "keystore", "get", ENTRY) == "kept"

    machine.write(str(HOME / "kernel"), b"another kernel")
    machine.reboot()
    refused = machine.run("hwtrust", "keystore", "get", ENTRY, "--config", CONFIG)
    assert refused.status == LAYER_REFUSED
    assert refused.output == ""
