"""What is said at the agent's socket: JSON-RPC 2.0, one JSON document a line.

    → {"jsonrpc": "2.0", "id": 1, "method": "keystore.get", "params": {"name": "payments/pin"}}
    ← {"jsonrpc": "2.0", "id": 1, "result": {"value": "c2VjcmV0"}}

Messages and their codec, for both sides. No socket is touched here, and nothing
of the TPM is loaded. docs/agent-protocol.md says it for other languages.

Rules:
1. A message is one line of UTF-8, at most `VALUE_LINE` bytes with its newline; from
   a peer that may store nothing at most `PLAIN_LINE`. Bytes are in base64.
2. Parameters have names. What is unknown, missing or of another type is refused.
3. Every request has an id. There are no batches.
4. An error is one of JSON-RPC's; its data has hwtrust's code, and a hint.
5. Who reads a result takes no offence at fields that it does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Meta

from hwtrust.errors import AgentReplyError, AgentRequestError, HwTrustError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hwtrust.device.results import AttestResult
    from hwtrust.device.results import Condition as DeviceCondition
    from hwtrust.keys import Entry as StoredEntry

DEFAULT_PATH = "/run/hwtrust/agent.sock"

PLAIN_LINE = 64 * 1024
VALUE_LINE = 1536 * 1024
"""Room for the largest value, 1 MiB, in base64."""

PARSE, INVALID, METHOD, PARAMS, FAULT, OURS = -32700, -32600, -32601, -32602, -32603, -32000
"""The error numbers of JSON-RPC; OURS is every error that has a code of hwtrust's."""

CONDITION = "condition"
"""The method of the notifications that `watch` brings."""

T = TypeVar("T")

Id = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]


class Operations(Protocol):
    """What the agent does for its peers; called from several threads at once.

    Each raises errors of hwtrust's tree. Whether the peer may is decided before.
    """

    def state(self) -> DeviceCondition:
        """What the device may do. Asked once, at the start; `AgentSocket.publish` says the rest."""

    def event(self, kind: str, detail: str) -> bool:
        """Report an event of an application; gives whether to attest now."""

    def attest(self) -> AttestResult:
        """Attest now."""

    def keystore_list(self, prefix: str) -> Iterable[StoredEntry]:
        """The entries whose names begin with `prefix`."""

    def keystore_get(self, name: str) -> bytes:
        """The value of an entry."""

    def keystore_put(self, name: str, value: bytes) -> StoredEntry:
        """Store a value."""

    def keystore_delete(self, name: str) -> None:
        """Delete an entry."""


# --- requests ------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request; `params` are decoded by their method."""

    jsonrpc: Literal["2.0"]
    id: Id
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters. Their repr shows no value, so that no traceback does."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class NoParams(_Params, frozen=True):
    """Of `state`, `watch` and `attest`."""


class EventParams(_Params, frozen=True):
    """Of `event`."""

    kind: Annotated[str, Meta(min_length=1, max_length=60, pattern=r"\A[a-z0-9][a-z0-9._-]*\Z")]
    detail: Annotated[str, Meta(max_length=200)] = ""


class ListParams(_Params, frozen=True):
    """Of `keystore.list`."""

    prefix: Annotated[str, Meta(max_length=255)] = ""


class NameParams(_Params, frozen=True):
    """Of `keystore.get` and `keystore.delete`."""

    name: Name


class PutParams(NameParams, frozen=True):
    """Of `keystore.put`."""

    value: bytes


class HmacParams(NameParams, frozen=True):
    """Of `keystore.hmac`."""

    data: bytes


class DeriveParams(NameParams, frozen=True):
    """Of `keystore.derive`."""

    label: Annotated[str, Meta(min_length=1, max_length=255)]
    size: Annotated[int, Meta(ge=16, le=64)] = 32


class SealParams(NameParams, frozen=True):
    """Of `keystore.seal`."""

    data: bytes
    context: bytes = b""


class OpenParams(NameParams, frozen=True):
    """Of `keystore.open`."""

    sealed: bytes
    context: bytes = b""


# --- results -------------------------------------------------------------------------


class Condition(msgspec.Struct, frozen=True):
    """What the device may do, and what came in its way, if anything did.

    `state` is `starting`, `loading`, `normal`, `limited`, `locked` or `tpm-away`.
    A later version may know more; treat those as `locked`. `update` is a release that
    waits: to be brought in, or, with `restart`, for the restart that brings it up.
    """

    state: str
    step: str = ""
    layer: str = ""
    release: str = ""
    code: str = ""
    message: str = ""
    since_ms: int = 0
    update: str = ""
    restart: bool = False


class Finding(msgspec.Struct, frozen=True):
    """Something that the backend has found wrong."""

    code: str
    severity: str
    message: str


class Attested(msgspec.Struct, frozen=True):
    """What the backend made of the evidence; as `hwtrust.device.AttestResult`."""

    standing: str
    mode: str
    findings: tuple[Finding, ...] = ()
    heartbeat_ms: int = 0
    rotated_to: int | None = None
    root_waits: bool = False


class Reported(msgspec.Struct, frozen=True):
    """The answer to an event: whether the backend wants an attestation for it."""

    attest: bool


class Entry(msgspec.Struct, frozen=True):
    """What is known of an entry without its value; as `hwtrust.keys.Entry`."""

    name: str
    version: int
    epoch: int
    size: int


class Listed(msgspec.Struct, frozen=True):
    """The entries that the peer may see, by name."""

    entries: tuple[Entry, ...]


class Value(msgspec.Struct, frozen=True):
    """Bytes: a value, an HMAC, a key, a sealed or an opened message."""

    value: bytes

    def __repr__(self) -> str:
        return "<Value>"


class Done(msgspec.Struct, frozen=True):
    """Nothing more to say."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an error's data holds: hwtrust's code, what can be done, and what else is known.

    `problem` is the backend's code, where it was the backend that refused.
    """

    code: str
    hint: str = ""
    reason: str = ""
    problem: str = ""


class Failure(msgspec.Struct, frozen=True):
    """An error, as JSON-RPC has it."""

    code: int
    message: str
    data: Problem


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the client reads: an answer, or a notification. Raw until it is known which."""

    jsonrpc: Literal["2.0"]
    id: int | str | None = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: Failure | None = None


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    jsonrpc: Literal["2.0"] = "2.0"
    id: int | str
    result: Any


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    jsonrpc: Literal["2.0"] = "2.0"
    id: int | str | None
    error: Failure


class _Notification(msgspec.Struct, frozen=True, kw_only=True):
    jsonrpc: Literal["2.0"] = "2.0"
    method: str
    params: Condition


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    jsonrpc: Literal["2.0"] = "2.0"
    id: int
    method: str
    params: Any


# --- codec ---------------------------------------------------------------------------

_ENCODER = msgspec.json.Encoder()
_REQUESTS = msgspec.json.Decoder(Request)
_REPLIES = msgspec.json.Decoder(Reply)

# UnicodeDecodeError is a ValueError; deep nesting is a RecursionError.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def decode_request(line: bytearray) -> Request:
    """Read the line of a request. Its `params` look into `line`: decode them before it changes.

    Raises:
        AgentRequestError: it is none; `data["number"]` is JSON-RPC's error number.
    """
    try:
        return _REQUESTS.decode(line)
    except msgspec.ValidationError as error:
        message = f"this is no request: {error}"
        raise AgentRequestError(message, reason="invalid", number=INVALID) from None
    except _UNREADABLE:
        raise AgentRequestError("this is no JSON", reason="json", number=PARSE) from None


def decode_params(request: Request, kind: type[T]) -> T:
    """Read the parameters of a request.

    Raises:
        AgentRequestError: they are not what the method takes.
    """
    try:
        return msgspec.json.decode(request.params, type=kind)
    except _UNREADABLE as error:
        said = str(error) if isinstance(error, msgspec.MsgspecError) else "not readable"
        message = f"parameters: {said}"
        raise AgentRequestError(message, reason="parameters", number=PARAMS) from None


def encode_answer(request_id: int | str, result: object) -> bytearray:
    """The line of an answer, in a buffer that can be erased."""
    return _line(_Answer(id=request_id, result=result))


def encode_error(request_id: int | str | None, error: HwTrustError) -> bytearray:
    """The line of an answer that says why not."""
    number = error.data.get("number") if isinstance(error, AgentRequestError) else OURS
    problem = Problem(
        code=error.code,
        hint=str(error.data.get("hint") or error.hint),
        reason=str(error.data.get("reason") or ""),
        problem=str(error.data.get("problem") or ""),
    )
    failure = Failure(number if isinstance(number, int) else OURS, error.message, problem)
    return _line(_Refusal(id=request_id, error=failure))


def encode_condition(condition: Condition) -> bytearray:
    """The line of a notification."""
    return _line(_Notification(method=CONDITION, params=condition))


def encode_call(request_id: int, method: str, params: object) -> bytearray:
    """The line of a request, in a buffer that can be erased."""
    return _line(_Call(id=request_id, method=method, params=params))


def decode_reply(line: bytes | bytearray) -> Reply:
    """Read a line of the agent.

    Raises:
        AgentReplyError: it is neither an answer nor a notification.
    """
    try:
        return _REPLIES.decode(line)
    except _UNREADABLE:
        raise AgentReplyError("the agent says what is no JSON-RPC") from None


def decode_result(raw: msgspec.Raw, kind: type[T]) -> T:
    """Read what an answer or a notification holds.

    Raises:
        AgentReplyError: it is not what was asked for.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except _UNREADABLE:
        raise AgentReplyError("the agent's answer is not what was asked for") from None


def plain(value: object, kind: type[T]) -> T:
    """A result of the device, as the protocol has it."""
    return msgspec.convert(value, kind, from_attributes=True)


def _line(message: object) -> bytearray:
    line = bytearray()
    _ENCODER.encode_into(message, line)
    line += b"\n"
    return line


def wipe(buffer: bytearray) -> None:
    """Overwrite `buffer`, which keeps its length: somebody may look into it."""
    buffer[:] = bytes(len(buffer))


def erase(buffer: bytearray, size: int | None = None) -> None:
    """Overwrite the first `size` bytes of `buffer`, or all, and drop them."""
    end = len(buffer) if size is None else size
    buffer[:end] = bytes(end)
    del buffer[:end]
