"""A backend's change of its repository, in a process of its own, killed at one of its steps.

    killed = change_and_kill(change, nth)

A step is a statement that changes the database, its commit, or a file that is made,
renamed or removed. The process is killed by SIGKILL right before it: nothing of it
runs any more.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import event

from hwtrust_backend.app.setup import open_backend
from hwtrust_backend.config import Settings
from hwtrust_backend.keys import Secret
from hwtrust_backend.repository.exporting import export, published_state
from hwtrust_backend.repository.pruning import prune_files
from hwtrust_backend.testing import ManualClock
from simulators.release_bundle import Holder
from simulators.vendor import Vendor

if TYPE_CHECKING:
    from hwtrust_backend.app.backend import Backend

PASSPHRASE: Final = Secret(b"protects nothing")
NEXT: Final = {"kernel": ("6.2", b"another kernel")}

_FILES: Final = frozenset({"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir"})
_FOREVER_S: Final = 60

_context = multiprocessing.get_context("forkserver")
# What takes long to import, and is installed: the server does not see pytest's own sys.path.
_context.set_forkserver_preload(["hwtrust_backend.testing", "tuf.ngclient"])


@dataclass(frozen=True)
class Change:
    """What is done to a backend in `data`, at `now`, and with whose keys."""

    name: str
    data: Path
    now: int
    targets_key: bytes
    root: bytes = b""

    def run(self, backend: Backend) -> None:
        """Do it."""
        key: Any = load_pem_private_key(self.targets_key, None)
        vendor = Vendor(backend, self.data.parent / "vendor", targets=Holder(key))
        CHANGES[self.name](vendor, self)


def _publish(vendor: Vendor, change: Change) -> None:
    del change
    vendor.publish("1.2", NEXT, accept=True)


def _revoke(vendor: Vendor, change: Change) -> None:
    del change
    vendor.revoke("1.1")


def _put_root_into_force(vendor: Vendor, change: Change) -> None:
    vendor.publish_root(change.root, vendor.targets)


def _sign_anew(vendor: Vendor, change: Change) -> None:
    del change
    assert vendor.keep()


def _prune(vendor: Vendor, change: Change) -> None:
    with vendor.backend.database.transaction() as session:
        prune_files(
            session, vendor.blobs, grace_ms=0, dry_run=False, by="test", now=change.now + 10**9
        )


def _export(vendor: Vendor, change: Change) -> None:
    with vendor.backend.database.reading() as session:
        state = published_state(session, grace_ms=0, now=change.now)
    export(state, vendor.blobs, change.data.parent / "www")


CHANGES: Final = {
    "publish": _publish,
    "revoke": _revoke,
    "root": _put_root_into_force,
    "sign anew": _sign_anew,
    "prune": _prune,
    "export": _export,
}


def opened(data: Path, now: int) -> Backend:
    """The backend in a directory."""
    return open_backend(Settings(data_dir=str(data)), passphrase=PASSPHRASE, clock=ManualClock(now))


def change_and_kill(change: Change, nth: int) -> bool:
    """Do it; True if it was killed at step `nth`, False if it was done before that."""
    process = _context.Process(target=_work, args=(change, nth))
    process.start()
    process.join(_FOREVER_S)
    code = process.exitcode
    process.close()
    if code not in {0, -signal.SIGKILL}:
        raise AssertionError(f"the process ended with {code}")
    return code != 0


def _work(change: Change, nth: int) -> None:
    backend = opened(change.data, change.now)
    shutil.rmtree(change.data.parent / "vendor", ignore_errors=True)
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_statement(*arguments: Any) -> None:  # noqa: ANN401 - as the event gives them
        if not arguments[2].lstrip().upper().startswith(("SELECT", "BEGIN", "PRAGMA")):
            step()

    def on_audit(name: str, arguments: tuple[Any, ...]) -> None:
        if name in _FILES and _is_ours(arguments, change.data.parent):
            step()

    event.listen(backend.database.engine, "before_cursor_execute", on_statement)
    event.listen(backend.database.engine, "commit", lambda _: step())
    sys.addaudithook(on_audit)
    change.run(backend)
    os._exit(0)


def _is_ours(arguments: tuple[Any, ...], directory: Path) -> bool:
    # The vendor's bundle is made beside the backend, and is no part of it.
    path = os.fsdecode(arguments[0])
    return path.startswith(str(directory)) and "/vendor" not in path
