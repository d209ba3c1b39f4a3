"""A device's work in the VM, which stops where the power is to be cut; run as a program.

    python tests/vm/device_work.py CONFIG attest|update|check|unseal|replug [STEP]

1. `attest` and `update` boot the device first. With STEP, the name of one that the
   library reports, they say AT_STEP after it, and do nothing more.
2. `check` boots, attests, and prints what the device is then, as JSON.
3. `unseal` loads nothing, asks the TPM for the root past the library, and prints the
   code of its refusal.
4. `replug` has an agent take the device, takes the TPM's driver away and gives it back,
   and prints each condition as the agent tells its clients.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hwtrust import AgentClient
from hwtrust.device import Device, DeviceConfig
from hwtrust.errors import RootError

if TYPE_CHECKING:
    from hwtrust.device import Step

AT_STEP = "at the step"
ENTRY = "payments/transport"
SOCKET = "/run/agent.sock"
PATIENCE_S = 600


def main(config: str, work: str, step: str = "") -> None:
    """Do as the command line says."""

    def on_step(done: Step) -> None:
        say(done.name)
        if done.name == step:
            say(AT_STEP)
            while True:
                signal.pause()

    if work == "replug":
        replug(config)
        return
    with Device.open(DeviceConfig.load(Path(config))) as device:
        if work == "unseal":
            say(refusal(device))
            return
        device.boot()
        if work == "attest":
            device.attest(on_step=on_step)
        elif work == "update":
            device.update(on_step=on_step)
        else:
            say(json.dumps(found(device)))


def found(device: Device) -> dict[str, object]:
    """What a device that has booted is."""
    kept = device.keystore[ENTRY].decode()
    standing = device.attest().standing
    status = device.status()
    return {
        "kept": kept,
        "after": device.keystore[ENTRY].decode(),
        "standing": standing,
        "release": status.release,
        "epoch": status.epoch,
        "counter": status.counter,
        "opened": device.keystore.epoch,
        "roots": list(device._context.state.roots()),
    }


def refusal(device: Device) -> str:
    """Ask for the root as a thief would, who does not measure anything."""
    from hwtrust.keys.unseal import SealedRoot, unseal_root  # noqa: PLC0415
    from hwtrust.roots import reopen_root  # noqa: PLC0415

    context = device._context
    root = context.newest_root()
    held = reopen_root(
        root.metadata,
        root.public,
        root.approval,
        metadata_key=context.metadata_key,
        policy_key=context.policy_key,
        device=context.known().device,
    )
    sealed = SealedRoot(held.public, root.private, root.approval, held.authorization)
    try:
        unseal_root(context.tpm, context.anchorage(), sealed, branch=0)
    except RootError as error:
        return error.code
    return ""


def replug(config: str) -> None:
    """Unbind and bind the driver as the agent's states follow; ends with the agent."""
    notices = Path("/run/notices")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notices))
        manager.settimeout(PATIENCE_S)
        environment = os.environ | {"NOTIFY_SOCKET": str(notices)}
        agent = subprocess.Popen(["hwtrust", "agent", "--config", config], env=environment)
        try:
            while b"READY=1" not in manager.recv(4096):
                pass
            follow(AgentClient(SOCKET))
        finally:
            agent.terminate()
            agent.wait()


def follow(agent: AgentClient) -> None:
    """Take the TPM away where the device is normal, give it back where it is missed."""
    device = Path("/sys/class/tpm/tpm0/device").resolve()
    driver = (device / "driver").resolve()
    taken = False
    for condition in agent.watch():
        say(f"{condition.state} {condition.code}".strip())
        if condition.state == "normal":
            if taken:
                break
            (driver / "unbind").write_text(device.name)
            taken = True
        elif condition.state == "tpm-away":
            (driver / "bind").write_text(device.name)
    say(agent.keystore[ENTRY].decode())


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
