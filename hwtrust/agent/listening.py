"""The agent's listening socket, and who is at the other end of a connection.

Rules:
1. Nobody can connect before the socket has its mode and group: it is bound in a
   directory that only this user enters, and then moved to its place.
2. A socket that somebody serves is not replaced; one that nobody serves is.
3. Only what this process has put there is removed at the end.
4. Credentials are the kernel's, of the moment in which the peer connected. Who
   passes the connection on passes on what may be done with it.
5. A socket that the service manager has made is taken as it is (sd_listen_fds(3)).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hwtrust.agent.permissions import Peer, group_number
from hwtrust.errors import AgentRunningError, AgentSocketError
from hwtrust.files import private_directory

if TYPE_CHECKING:
    from collections.abc import MutableMapping

LONGEST_PATH: Final = 107
BACKLOG: Final = 64

_FIRST_PASSED: Final = 3
_SO_PEERGROUPS: Final = 59
_GROUPS_SIZE: Final = 1024
_CREDENTIALS: Final = struct.Struct("=iII")


class Listener:
    """A listening socket; a context manager that closes it, and removes what it made."""

    def __init__(self, sock: socket.socket, made: Path | None = None) -> None:
        """`made` is the file that `open` has made for `sock`."""
        self.socket = sock
        self._made = made
        self._identity = _identity(made) if made is not None else None

    @classmethod
    def open(cls, path: str | Path, *, mode: int, group: str | int | None) -> Listener:
        """Listen at `path`, whose socket gets `mode` and `group`.

        The directory is made if need be, for everybody to look into.

        Raises:
            AgentRunningError: somebody listens there already.
            AgentSocketError: there is something else, or the path is too long, or
                the system does not allow it.
            ConfigError: there is no such group.
            StateError: others can write the directory.
        """
        where = Path(path).absolute()
        gid = None if group is None else group_number(group)
        with contextlib.suppress(OSError):
            where.parent.mkdir(parents=True)
            where.parent.chmod(0o755)  # whatever the umask is
        private_directory(where.parent)
        unfinished = where.parent / f".{secrets.token_hex(4)}"
        if (
            len(os.fsencode(unfinished)) + 2 > LONGEST_PATH
            or len(os.fsencode(where)) > LONGEST_PATH
        ):
            raise AgentSocketError(f"{where} is too long for a socket", path=str(where))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(sock.close)
            try:
                _require_free(where)
                unfinished.mkdir(mode=0o700)
                cleanup.callback(_discard, unfinished)
                place = unfinished / "s"
                sock.bind(str(place))
                if gid is not None and place.stat().st_gid != gid:
                    _give_to(place, gid, where=where, group=group)
                place.chmod(mode)
                sock.listen(BACKLOG)
                made = cls(sock, place)
                place.rename(where)
            except OSError as error:
                message = f"{where}: {error.strerror or error}"
                raise AgentSocketError(message, path=str(where)) from error
            _discard(unfinished)
            cleanup.pop_all()
        made._made = where
        return made

    @classmethod
    def passed(cls, environment: MutableMapping[str, str]) -> Listener | None:
        """The socket that the service manager has passed on, if it has.

        Raises:
            AgentSocketError: it has passed on something else.
        """
        if environment.get("LISTEN_PID") != str(os.getpid()):
            return None
        count = environment.pop("LISTEN_FDS", "")
        for name in ("LISTEN_PID", "LISTEN_FDNAMES"):
            environment.pop(name, None)
        what = "what the service manager passes on"
        if count != "1":
            raise AgentSocketError(f"{what} is not one socket")
        try:
            sock = socket.socket(fileno=_FIRST_PASSED)
            os.set_inheritable(_FIRST_PASSED, False)  # noqa: FBT003 - as the system's call is
            sock.listen(BACKLOG)
        except OSError as error:
            raise AgentSocketError(f"{what}: {error.strerror or error}") from error
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            sock.close()
            raise AgentSocketError(f"{what} is no UNIX stream socket")
        return cls(sock)

    def close(self) -> None:
        """Listen no more; harmless when repeated."""
        self.socket.close()
        made, self._made = self._made, None
        if made is not None and _identity(made) == self._identity:
            made.unlink(missing_ok=True)


def peer_of(sock: socket.socket) -> Peer:
    """Who has connected.

    A peer in more groups than fit (256) counts as in none but its own.
    """
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    try:
        listed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE)
    except OSError:
        listed = b""
    groups = frozenset(number for (number,) in struct.iter_unpack("=I", listed))
    return Peer(uid=uid, gid=gid, pid=pid, groups=groups)


def _give_to(place: Path, gid: int, *, where: Path, group: str | int | None) -> None:
    try:
        os.chown(place, -1, gid)
    except OSError as error:
        message = f"{where} cannot be given to group {group}: {error.strerror or error}"
        hint = "let agent.socket_group be a group of the agent's user; under systemd, its Group="
        raise AgentSocketError(message, path=str(where), hint=hint) from error


def _require_free(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise AgentSocketError(f"{path} is there, and no socket", path=str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # somebody listens, and has much to do
    raise AgentRunningError(f"an agent listens at {path}", path=str(path))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _discard(directory: Path) -> None:
    with contextlib.suppress(OSError):
        (directory / "s").unlink(missing_ok=True)
        directory.rmdir()
