"""TPM commands as bytes over swtpm's socket: what firmware and factory send.

It shares no code with the library's TPM commands, so that what it sets up is
not made by what is tested. It needs no TPM stack either.

Rules:
1. One connection a command, as the swtpm TCTI does it: swtpm serves one client
   at a time, and a program under test may hold a context open.
2. Every wait is bounded.
3. Authorisation is by password sessions: there is nobody on this socket.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

from hwtrust.errors import SoftwareTpmError
from hwtrust.wire.codec import Reader, tpm2b, u16, u32

if TYPE_CHECKING:
    from pathlib import Path

NO_SESSIONS: Final = 0x8001
SESSIONS: Final = 0x8002
PASSWORD_SESSION: Final = 0x4000_0009
CONTINUE_SESSION: Final = b"\x01"

OWNER: Final = 0x4000_0001
NULL: Final = 0x4000_0007
LOCKOUT: Final = 0x4000_000A
ENDORSEMENT: Final = 0x4000_000B
PLATFORM: Final = 0x4000_000C

NV_UNDEFINE_SPACE: Final = 0x122
HIERARCHY_CHANGE_AUTH: Final = 0x129
NV_DEFINE_SPACE: Final = 0x12A
PCR_ALLOCATE: Final = 0x12B
CREATE_PRIMARY: Final = 0x131
NV_WRITE: Final = 0x137
SHUTDOWN: Final = 0x145
NV_READ: Final = 0x14E
FLUSH_CONTEXT: Final = 0x165
GET_CAPABILITY: Final = 0x17A

NV_PPWRITE: Final = 0x0000_0001
NV_AUTHWRITE: Final = 0x0000_0004
NV_PPREAD: Final = 0x0001_0000
NV_OWNERREAD: Final = 0x0002_0000
NV_AUTHREAD: Final = 0x0004_0000
NV_NO_DA: Final = 0x0200_0000
NV_PLATFORMCREATE: Final = 0x4000_0000

_HEADER: Final = 10
_TIMEOUT: Final = 60.0
"""Seconds; an RSA key takes swtpm a few at worst."""
_KERNEL_TIMEOUT: Final = struct.pack("@ll", int(_TIMEOUT), 0)
"""The same as a struct timeval."""


class Bus:
    """The socket of one swtpm."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def transact(self, request: bytes) -> bytes:
        """Send one command buffer and return the response buffer.

        Raises:
            SoftwareTpmError: swtpm is gone or does not answer.
        """
        response = b""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                # A socket with Python's own time limit does not wait where another client has
                # swtpm, and fails at once; one with the kernel's waits, that long.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _KERNEL_TIMEOUT)
                connection.connect(str(self._path))
                connection.settimeout(_TIMEOUT)
                connection.sendall(request)
                while len(response) < max(_HEADER, int.from_bytes(response[2:6], "big")):
                    piece = connection.recv(4096)
                    if not piece:
                        message = "swtpm closed the connection before it answered"
                        raise SoftwareTpmError(message)
                    response += piece
        except OSError as error:
            message = f"swtpm does not answer: {error}"
            raise SoftwareTpmError(message) from error
        return response

    def run(
        self,
        code: int,
        parameters: bytes = b"",
        *,
        handles: tuple[int, ...] = (),
        passwords: tuple[bytes, ...] = (),
        answers_handle: bool = False,
    ) -> Reader:
        """Run one command; the response's parameters, a new handle before them.

        The first handles are authorised by `passwords`, one each (Part 1 §18).

        Raises:
            SoftwareTpmError: swtpm is gone, or the TPM refused; `data["rc"]` says why.
        """
        sessions = b"".join(
            u32(PASSWORD_SESSION) + tpm2b(b"") + CONTINUE_SESSION + tpm2b(password)
            for password in passwords
        )
        body = b"".join(map(u32, handles))
        body += (u32(len(sessions)) + sessions if passwords else b"") + parameters
        tag = SESSIONS if passwords else NO_SESSIONS
        response = self.transact(u16(tag) + u32(_HEADER + len(body)) + u32(code) + body)

        reader = Reader(response, "TPM response")
        reader.take(6)
        rc = reader.u32()
        if rc:
            message = f"the software TPM refused command 0x{code:03X}: rc 0x{rc:03X}"
            raise SoftwareTpmError(message, rc=rc)
        handle = reader.take(4) if answers_handle else b""
        answer = reader.take(reader.u32()) if passwords else reader.rest()
        return Reader(handle + answer, "TPM response parameters")
