"""/dev/nsm as the kernel and the Nitro hypervisor have it.

A request longer than 0x1000 bytes is EMSGSIZE; a response longer than the buffer is cut
without a word. PCR 0 to 15 are locked at the start. drivers/misc/nsm.c,
aws-nitro-enclaves-nsm-api src/api/mod.rs.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from typing import TYPE_CHECKING, Any, Final

import cbor2

from simulators.fake_machine import Device, fail, peek, poke

if TYPE_CHECKING:
    from collections.abc import Callable

IOCTL_RAW: Final = 0xC0200A00
MAX_REQUEST, MAX_RESPONSE = 0x1000, 0x3000


class FakeNsm(Device):
    """The NSM of one enclave.

    `signer` makes the document for its nonce. Faults: `answer` replaces the response,
    `cut` shortens it, `size` is the length that is told.
    """

    def __init__(self, signer: Callable[[bytes], bytes]) -> None:
        self.signer = signer
        self.pcrs = [bytes(48) for _ in range(32)]
        self.locked = set(range(16))
        self.requests: list[Any] = []
        self.asked: dict[str, bytes | None] = {}
        self.answer: object = None
        self.raw_answer: bytes | None = None
        self.cut: int | None = None
        self.size: int | None = None

    def ioctl(self, path: str, request: int, argument: bytearray) -> None:
        """NSM_IOCTL_RAW, and no other."""
        if path or request != IOCTL_RAW:
            fail(errno.ENOTTY)
        assert len(argument) == 32, "struct nsm_raw has 32 bytes"
        at, size, answer, room = struct.unpack("<QQQQ", argument)
        if size > MAX_REQUEST:
            fail(errno.EMSGSIZE)
        asked = cbor2.loads(peek(at, size))
        self.requests.append(asked)
        said = cbor2.dumps(self._say(asked) if self.answer is None else self.answer)
        said = (said if self.raw_answer is None else self.raw_answer)[: self.cut]
        said = said[: min(room, MAX_RESPONSE)]
        poke(answer, said)
        struct.pack_into("<Q", argument, 24, len(said) if self.size is None else self.size)

    def _say(self, asked: object) -> object:
        if asked == "DescribeNSM":
            return {
                "DescribeNSM": {
                    "version_major": 1,
                    "version_minor": 0,
                    "version_patch": 0,
                    "module_id": "i-0123456789abcdef0-enc0123456789abcde",
                    "max_pcrs": 32,
                    "locked_pcrs": sorted(self.locked),
                    "digest": "SHA384",
                }
            }
        if asked == "GetRandom":
            return {"GetRandom": {"random": hashlib.sha512(b"random").digest() * 4}}
        assert isinstance(asked, dict)
        ((name, arguments),) = asked.items()
        if name == "Attestation":
            self.asked = arguments
            return {"Attestation": {"document": self.signer(arguments["nonce"] or b"")}}
        if name == "LockPCRs":
            self.locked |= set(range(arguments["range"]))
            return name
        index = arguments["index"]
        if not 0 <= index < len(self.pcrs):
            return {"Error": "InvalidIndex"}
        return self._pcr(name, index, arguments)

    def _pcr(self, name: str, index: int, arguments: dict[str, Any]) -> object:
        if name == "DescribePCR":
            return {name: {"lock": index in self.locked, "data": self.pcrs[index]}}
        if name == "LockPCR":
            self.locked.add(index)
            return name
        if name != "ExtendPCR":
            return {"Error": "InvalidOperation"}
        if index in self.locked:
            return {"Error": "ReadOnlyIndex"}
        self.pcrs[index] = hashlib.sha384(self.pcrs[index] + arguments["data"]).digest()
        return {name: {"data": self.pcrs[index]}}
