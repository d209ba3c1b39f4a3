"""AWS Nitro Enclaves, from inside: the Nitro Security Module, /dev/nsm.

    request ─CBOR─▶ ioctl ─▶ NSM ─CBOR─▶ response, or {"Error": …}

An enclave has no key to seal with: it gets its root by attested release.

Rules:
1. A response is of the request's name, and whole: the kernel cuts a longer one than
   the buffer without a word.
2. PCR 0 to 15 belong to the image and are locked at the start. 16 to 31 are the
   application's, and stand in the evidence only once they are locked.
3. What does not fit is refused before the NSM sees it.

include/uapi/linux/nsm.h; aws-nitro-enclaves-nsm-api, docs/attestation_process.md.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from hwtrust.anchors.binding import require_answer, require_report_data
from hwtrust.anchors.port import address, converted
from hwtrust.anchors.protocols import Kind, RawEvidence
from hwtrust.anchors.tdx import require_digest
from hwtrust.errors import MalformedError
from hwtrust.errors.anchors import (
    AnchorFirmwareError,
    AnchorRegisterError,
    AnchorRequestError,
    AnchorResponseError,
    AnchorSoftwareError,
    RegisterLockedError,
)
from hwtrust.wire.cmw import MediaType

if TYPE_CHECKING:
    from hwtrust.anchors.port import Port

T = TypeVar("T")

DEVICE: Final = "/dev/nsm"
NSM_IOCTL_RAW: Final = 0xC020_0A00
MAX_REQUEST: Final = 0x1000
MAX_RESPONSE: Final = 0x3000
MAX_PUBLIC_KEY: Final = 1024
MAX_USER_DATA: Final = 512
MAX_NONCE: Final = 512
MAX_PCRS: Final = 32
FIRST_FREE_PCR: Final = 16
PCR_SIZE: Final = 48
_MAX_RANDOM: Final = 256
_MAX_DEPTH: Final = 4

_RAW: Final = struct.Struct("<QQQQ")
_ERROR: Final = re.compile(r"[A-Za-z]{1,40}")
_LOCKED: Final = "ReadOnlyIndex"
_OUR_FAULT: Final = frozenset({"InvalidArgument", "InvalidOperation", "InputTooLarge"})


@dataclass(frozen=True, slots=True)
class NsmDescription:
    """What the NSM says of itself; unsigned, for people."""

    module_id: str
    version: str
    max_pcrs: int
    locked_pcrs: tuple[int, ...]
    digest: str


class Nsm:
    """The enclave's security module."""

    def __init__(self, port: Port, *, path: str = DEVICE) -> None:
        """The CBOR codec must be installed: hwtrust[enclaves].

        Raises:
            AnchorSoftwareError: it is not.
        """
        try:
            import cbor2  # noqa: PLC0415 - an extra of the installation

            from hwtrust.wire.enclaves import cbor  # noqa: PLC0415
        except ModuleNotFoundError as error:
            message = "the NSM speaks CBOR, and cbor2 is not installed"
            hint = "pip install 'hwtrust[enclaves]'"
            raise AnchorSoftwareError(message, hint=hint) from error
        self._encode, self._decode = cbor2.dumps, cbor.decode
        self._port = port
        self.path = path

    def describe(self) -> NsmDescription:
        """DescribeNSM.

        Raises:
            AnchorError: the NSM refused, or its answer has not the right form.
        """
        answer = self._ask("DescribeNSM")
        locked = _of(answer, "locked_pcrs", list)
        version = [_of(answer, f"version_{part}", int) for part in ("major", "minor", "patch")]
        max_pcrs = _of(answer, "max_pcrs", int)
        if not FIRST_FREE_PCR <= max_pcrs <= MAX_PCRS:
            raise AnchorResponseError(f"the NSM speaks of {max_pcrs} PCRs")
        numbers = [item for item in locked if type(item) is int and 0 <= item < max_pcrs]
        if len(numbers) != len(locked):
            raise AnchorResponseError("the NSM names locked PCRs that there are not")
        return NsmDescription(
            module_id=_of(answer, "module_id", str),
            version=".".join(map(str, version)),
            max_pcrs=max_pcrs,
            locked_pcrs=tuple(sorted(numbers)),
            digest=_of(answer, "digest", str),
        )

    def pcr(self, index: int) -> tuple[bytes, bool]:
        """DescribePCR: the value of a PCR, 48 bytes, and whether it is locked.

        Raises:
            AnchorRegisterError: there is no such PCR.
            AnchorError: the NSM refused, or its answer has not the right form.
        """
        answer = self._ask("DescribePCR", {"index": _index(index)})
        return _pcr_value(answer), _of(answer, "lock", bool)

    def extend_pcr(self, index: int, data: bytes) -> bytes:
        """ExtendPCR: the new value.

        Raises:
            RegisterLockedError: the PCR is locked.
            AnchorRegisterError: there is no such PCR.
            AnchorError: the NSM refused, or its answer has not the right form.
        """
        return _pcr_value(self._ask("ExtendPCR", {"index": _index(index), "data": data}))

    def lock_pcr(self, index: int) -> None:
        """LockPCR: nothing extends it any more, and the evidence holds it from now on.

        Raises:
            AnchorRegisterError: there is no such PCR.
            AnchorError: the NSM refused.
        """
        self._ask("LockPCR", {"index": _index(index)})

    def lock_pcrs(self, count: int) -> None:
        """LockPCRs: lock all PCRs below `count`.

        Raises:
            AnchorRegisterError: there are not so many.
            AnchorError: the NSM refused.
        """
        if not 1 <= count <= MAX_PCRS:
            raise AnchorRegisterError(f"there are {MAX_PCRS} PCRs at most, not {count}")
        self._ask("LockPCRs", {"range": count})

    def random(self) -> bytes:
        """GetRandom: 1 to 256 bytes.

        Raises:
            AnchorError: the NSM refused, or gave none.
        """
        data = _of(self._ask("GetRandom"), "random", bytes)
        if not 1 <= len(data) <= _MAX_RANDOM:
            raise AnchorResponseError(f"the NSM gave {len(data)} random bytes", size=len(data))
        return data

    def attestation(
        self,
        *,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
        public_key: bytes | None = None,
    ) -> bytes:
        """Attestation: a signed document that holds all of these, and the locked PCRs.

        Raises:
            AnchorRequestError: `user_data` or `nonce` is longer than 512 bytes, or
                `public_key` longer than 1024.
            AnchorError: the NSM refused, or its answer has not the right form.
        """
        parts = {"user_data": user_data, "nonce": nonce, "public_key": public_key}
        limits = {"user_data": MAX_USER_DATA, "nonce": MAX_NONCE, "public_key": MAX_PUBLIC_KEY}
        for name, part in parts.items():
            if part is not None and len(part) > limits[name]:
                raise AnchorRequestError(
                    f"{name} has at most {limits[name]} bytes, not {len(part)}", size=len(part)
                )
        return _of(self._ask("Attestation", parts), "document", bytes)

    def _ask(self, name: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        request = bytearray(self._encode(name if arguments is None else {name: arguments}))
        if len(request) > MAX_REQUEST:
            raise AnchorRequestError(f"the NSM takes {MAX_REQUEST} bytes", size=len(request))
        response = bytearray(MAX_RESPONSE)
        raw = bytearray(_RAW.pack(address(request), len(request), address(response), len(response)))
        with converted(self.path):
            self._port.ioctl(self.path, NSM_IOCTL_RAW, raw)
        *_, size = _RAW.unpack(raw)
        # A response that fills the buffer may have been cut; none that is whole is so long.
        if not 0 < size < MAX_RESPONSE:
            raise AnchorResponseError(f"the NSM's response has {size} bytes", size=size)
        return self._answer(name, bytes(response[:size]))

    def _answer(self, name: str, response: bytes) -> dict[str, Any]:
        """What a response of that name holds; empty where it is its name alone."""
        try:
            answer: object = self._decode(
                response, "the NSM's response", most=MAX_RESPONSE, depth=_MAX_DEPTH
            )
        except MalformedError as error:
            raise AnchorResponseError(error.message) from error
        if answer == name:
            return {}
        if isinstance(answer, dict) and len(answer) == 1:
            if "Error" in answer:
                _refuse(name, answer["Error"])
            held: object = answer.get(name)
            if isinstance(held, dict):
                return held
        raise AnchorResponseError(f"the NSM answered {name} with something else", request=name)


class NsmMeasurer:
    """The PCRs of the application, 16 and above."""

    def __init__(self, nsm: Nsm, *, count: int = MAX_PCRS) -> None:
        """`count` is how many PCRs the NSM has."""
        self._nsm = nsm
        self._registers = {f"pcr{index}": index for index in range(count)}

    @property
    def registers(self) -> tuple[str, ...]:
        """The names of those that can be extended until they are locked."""
        return tuple(self._registers)[FIRST_FREE_PCR:]

    def read(self, register: str) -> bytes:
        """The value of a PCR, 48 bytes.

        Raises:
            AnchorRegisterError: there is no such PCR.
            AnchorError: the NSM refused.
        """
        value, _ = self._nsm.pcr(self._number(register))
        return value

    def extend(self, register: str, digest: bytes) -> bytes:
        """Extend a PCR by a SHA-384 digest; gives its new value.

        Raises:
            RegisterLockedError: the PCR is locked, as all below 16 are.
            AnchorRegisterError: there is no such PCR, or the digest has not 48 bytes.
            AnchorError: the NSM refused.
        """
        number = self._number(register)
        require_digest(digest)
        if number < FIRST_FREE_PCR:
            raise RegisterLockedError(f"{register} belongs to the image", register=register)
        return self._nsm.extend_pcr(number, digest)

    def lock(self, register: str) -> None:
        """Lock a PCR: the evidence holds locked ones alone.

        Raises:
            AnchorRegisterError: there is no such PCR.
            AnchorError: the NSM refused.
        """
        self._nsm.lock_pcr(self._number(register))

    def _number(self, register: str) -> int:
        number = self._registers.get(register)
        if number is None:
            raise AnchorRegisterError(f"there is no register {register}")
        return number


class NsmAttester:
    """Nitro attestation documents; the report data is their nonce."""

    def __init__(self, nsm: Nsm) -> None:
        self._nsm = nsm

    @property
    def kind(self) -> Kind:
        """The kind of its evidence."""
        return Kind.NITRO

    def attest(self, report_data: bytes) -> RawEvidence:
        """A document whose nonce is `report_data`, 64 bytes.

        Raises:
            ReportDataError: it is of another size.
            AnchorError: no document could be had.
        """
        require_report_data(report_data)
        document = self._nsm.attestation(nonce=report_data)
        require_answer(Kind.NITRO, document, report_data)
        return RawEvidence(Kind.NITRO, MediaType.NITRO, document)


def _refuse(name: str, said: object) -> NoReturn:
    """Raise what an error of the NSM means."""
    error = said if isinstance(said, str) and _ERROR.fullmatch(said) else "unknown error"
    message = f"the NSM refused {name}: {error}"
    if error == _LOCKED:
        raise RegisterLockedError(message, request=name, status=error)
    if error == "InvalidIndex":
        raise AnchorRegisterError(message, request=name, status=error)
    if error in _OUR_FAULT:
        raise AnchorRequestError(message, request=name, status=error)
    raise AnchorFirmwareError(message, request=name, status=error)


def _index(index: int) -> int:
    if not 0 <= index < MAX_PCRS:
        raise AnchorRegisterError(f"there is no PCR {index}", index=index)
    return index


def _pcr_value(answer: dict[str, Any]) -> bytes:
    value = _of(answer, "data", bytes)
    if len(value) != PCR_SIZE:
        raise AnchorResponseError(f"a PCR has {PCR_SIZE} bytes, not {len(value)}", size=len(value))
    return value


def _of(answer: dict[str, Any], name: str, kind: type[T]) -> T:
    value = answer.get(name)
    if type(value) is not kind:
        raise AnchorResponseError(f"the NSM's response has no {name}, or a strange one")
    return value
