"""What runs in the VM for the tests: commands that come over a virtio port, one at a time.

    host -> {"argv": [...], "user": "tss", "cwd": "/", "environment": {...}, "input": "<base64>"}
    VM   -> {"stream": "stdout" | "stderr", "data": "<base64>"} ...  {"status": 0}

Begins with {"ready": true}; ends with {"end": true} from the host. With `background`
a command is started and left alone; its output goes to the console.

Uses nothing but the standard library: the VM starts it before anything is set up.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import selectors
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, BinaryIO

PORTS = Path("/sys/class/virtio-ports")
PORT_NAME = "hwtrust"
BUSYBOX = "/run/vm/busybox"
HOST = "10.0.2.100"
SEARCHABLE = 0o011


def main() -> None:
    """Serve until the host ends it."""
    for number in sys.argv[1:]:
        lead_to_host(number)
    let_users_reach(Path(sys.executable))
    port = next(path for path in PORTS.iterdir() if named(path) == PORT_NAME)
    with Path("/dev", port.name).open("r+b", buffering=0) as channel:
        tell(channel, ready=True)
        with os.fdopen(os.dup(channel.fileno()), "rb") as lines:
            for line in lines:
                request = json.loads(line)
                if request.get("end"):
                    return
                serve(channel, request)


def named(port: Path) -> str:
    """The name that the machine gives a virtio port."""
    return (port / "name").read_text().strip()


def lead_to_host(number: str) -> None:
    """Let a port of this machine's loopback lead to the host's."""
    subprocess.Popen(
        [BUSYBOX, "nc", "-ll", "-p", number, "-e", BUSYBOX, "nc", HOST, number],
        stdin=subprocess.DEVNULL,
    )


def let_users_reach(program: Path) -> None:
    """Let every user of this machine through to a program below somebody's home directory.

    Changes the overlay only, not the host.
    """
    for path in {*program.parents, *program.resolve().parents}:
        path.chmod(path.stat().st_mode | SEARCHABLE)


def serve(channel: BinaryIO, request: dict[str, Any]) -> None:
    """Run one command and tell how it went."""
    background = request["background"]
    try:
        process = start(request, background=background)
    except (OSError, KeyError) as error:
        text = f"{request['argv'][0]}: {error}\n".encode()
        tell(channel, stream="stderr", data=base64.b64encode(text).decode())
        tell(channel, status=127)
        return
    if background:
        tell(channel, status=0)
        return
    assert process.stdin
    assert process.stdout
    assert process.stderr
    given = base64.b64decode(request["input"])
    with selectors.DefaultSelector() as selector, process:
        selector.register(process.stdout, selectors.EVENT_READ, "stdout")
        selector.register(process.stderr, selectors.EVENT_READ, "stderr")
        feed(process.stdin, given)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                else:
                    tell(channel, stream=key.data, data=base64.b64encode(data).decode())
    tell(channel, status=process.returncode)


def start(request: dict[str, Any], *, background: bool) -> subprocess.Popen[bytes]:
    """Start a command as its user, with all groups of that user."""
    user = pwd.getpwnam(request["user"])
    end = subprocess.DEVNULL if background else subprocess.PIPE
    return subprocess.Popen(
        request["argv"],
        stdin=end,
        stdout=None if background else end,
        stderr=None if background else end,
        cwd=request["cwd"],
        env={"HOME": user.pw_dir, "USER": user.pw_name, **request["environment"]},
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=os.getgrouplist(user.pw_name, user.pw_gid),
        start_new_session=True,
        umask=0o022,
    )


def feed(stdin: IO[bytes], given: bytes) -> None:
    """Give a command its input; one that does not read it may end first."""
    try:
        stdin.write(given)
        stdin.close()
    except BrokenPipeError:
        pass


def tell(channel: BinaryIO, **message: object) -> None:
    """Send one message, whole."""
    line = json.dumps(message).encode() + b"\n"
    while line:
        line = line[channel.write(line) :]


if __name__ == "__main__":
    main()
