"""A policy as an administrator writes it: a TOML document with one meaning for each line.

    releases = ["1.0", "1.1"]        # or "accepted": all releases that are accepted
    evidence = ["tpm"]
    tls_keys = ["tpm", "attested"]
    root_lifetime = "30d"            # a root is replaced after two thirds of it
    offline_grace = "7d"             # how long a device may run without a heartbeat
    heartbeat = "5m"                 # how often it attests
    watchdog = "20m"                 # after what silence it is missed

    [clock]
    max_lag = "10m"
    max_ahead = "10m"
    max_drift = 0.15

    [firmware]
    floor = 0

    [pcrs]
    required = []
    values = { 7 = ["<64 hexadecimal digits>"] }
    unsafe_any = [0, 1, 2, 3]

    [log]
    max_records = 1024
    outdated_loads = true

    [firmware_log]                   # absent: the firmware's log is not asked for
    pcrs = [0, 1, 2, 3, 4, 5, 6, 7]  # what it has to explain, by the rules that follow

    [ima]                            # absent: the kernel's log is not asked for
    pcr = 10

    [on_failure]
    default = "locked"               # or "limited", "alert"
    "firmware:" = "limited"

    [rotation]
    triggers = ["release", "mismatch", "watchdog", "event"]
    events = ["transaction", "secure-input"]
    windows = ["01:00-05:00"]        # UTC; an empty list: at any time
    jitter = "1h"
    per_minute = 60

    [updates]
    within = "14d"                   # how long an older release may run; absent: for ever

    [snp]                            # and [tdx] [sgx] [nitro] [cca] [azure] [nvidia]: what is
    vmpl_maximum = 0                 # accepted of enclaves (`hwtrust.verify.enclaves`)

    [enclaves]
    register = "rtmr3"               # what the event log has to explain; absent: nothing

Rules:
1. An unknown name is an error; so is a value that cannot be meant.
2. What is absent refuses: the policy is valid, and every device fails by it. Only
   `pcrs.unsafe_any`, `firmware_log`, `ima`, `updates` and `enclaves` may be left out.
   Of a kind of enclave without a table every one fails; what is said of TPMs alone may
   be absent for them.
3. A document is kept as it was given; its digest is over its bytes.
"""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hwtrust.errors import ConfigError, ImaRulesError, PolicyDocumentError
from hwtrust.verify.appraise import FINDINGS, ClockRules
from hwtrust.verify.enclaves.azure_rules import AzureRules
from hwtrust.verify.enclaves.cca_rules import CcaRules
from hwtrust.verify.enclaves.judge import ENCLAVE_FINDINGS
from hwtrust.verify.enclaves.kinds_rules import FINDINGS as KINDS_FINDINGS
from hwtrust.verify.enclaves.kinds_rules import EnclaveRules
from hwtrust.verify.enclaves.nitro_rules import NitroRules
from hwtrust.verify.enclaves.nvidia_rules import NvidiaRules
from hwtrust.verify.enclaves.sgx_rules import SgxRules
from hwtrust.verify.enclaves.snp_rules import SnpRules
from hwtrust.verify.enclaves.tdx_rules import TdxRules
from hwtrust.verify.platform import ALL_FINDINGS, FirmwareLogRules, ImaLogRules, PlatformRules
from hwtrust.verify.policy import POLICY_FINDINGS, Effect, LogRules, PcrRules, is_undeniable
from hwtrust.wire.messages import TlsKeyKind
from hwtrust_backend.config import parse_span
from hwtrust_backend.policies.lines import last_line, line_of
from hwtrust_backend.policies.windows import Window, parse_window

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Pcr = Annotated[int, Meta(ge=0, le=23)]
Register = Annotated[str, Meta(pattern=r"^(rtmr[0-3]|pcr([0-9]|[12][0-9]|3[01])|rem[0-3])$")]
Trigger = Literal["release", "mismatch", "watchdog", "event"]
EvidenceKind = Literal["tpm", "snp", "tdx", "sgx", "nitro", "cca", "azure"]

DOCUMENT_LIMIT: Final = 256 * 1024
_MOST_DOTS: Final = 500
"""In one line: for a key of many parts the parser takes the square of their number."""
_TOML_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_PATH: Final = re.compile(r"at `\$([^`]*)`")
_CODES: Final = (
    frozenset(FINDINGS)
    | frozenset(POLICY_FINDINGS)
    | frozenset(KINDS_FINDINGS)
    | frozenset(ENCLAVE_FINDINGS)
    | frozenset(ALL_FINDINGS)
)
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")
_NO_MEMBER: Final = re.compile(r"Invalid enum value '([^']*)'")
_DIGEST_SIZE: Final = 32
_PCRS: Final = frozenset(map(str, range(24)))
"""In one spelling each, so that none stands twice."""
_KINDS: Final = {
    "releases": ('"accepted"', "a list of names"),
    "evidence": get_args(EvidenceKind),
    "tls_keys": tuple(TlsKeyKind),
    "on_failure": tuple(Effect),
    "rotation.triggers": get_args(Trigger),
}
"""What may stand in the fields that take only some words."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Clock(_Part, frozen=True, kw_only=True):
    max_lag: str | UnsetType = UNSET
    max_ahead: str | UnsetType = UNSET
    max_drift: Annotated[float, Meta(gt=0, le=1)] | UnsetType = UNSET


class _Firmware(_Part, frozen=True, kw_only=True):
    floor: Annotated[int, Meta(ge=0, le=2**63 - 1)] | UnsetType = UNSET


class _Pcrs(_Part, frozen=True, kw_only=True):
    required: tuple[Pcr, ...] | UnsetType = UNSET
    values: dict[str, tuple[str, ...]] | UnsetType = UNSET
    unsafe_any: tuple[Pcr, ...] = ()


class _Log(_Part, frozen=True, kw_only=True):
    max_records: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    outdated_loads: bool | UnsetType = UNSET


class _Rotation(_Part, frozen=True, kw_only=True):
    triggers: tuple[Trigger, ...] | UnsetType = UNSET
    events: tuple[Name, ...] | UnsetType = UNSET
    windows: tuple[str, ...] | UnsetType = UNSET
    jitter: str | UnsetType = UNSET
    per_minute: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class _Updates(_Part, frozen=True, kw_only=True):
    within: str | UnsetType = UNSET


class _Enclaves(_Part, frozen=True, kw_only=True):
    register: Register | UnsetType = UNSET


class _Document(_Part, frozen=True, kw_only=True):
    releases: Literal["accepted"] | tuple[Name, ...] | UnsetType = UNSET
    evidence: tuple[EvidenceKind, ...] | UnsetType = UNSET
    tls_keys: tuple[TlsKeyKind, ...] | UnsetType = UNSET
    root_lifetime: str | UnsetType = UNSET
    offline_grace: str | UnsetType = UNSET
    heartbeat: str | UnsetType = UNSET
    watchdog: str | UnsetType = UNSET
    clock: _Clock = _Clock()
    firmware: _Firmware = _Firmware()
    pcrs: _Pcrs = _Pcrs()
    log: _Log = _Log()
    firmware_log: FirmwareLogRules | UnsetType = UNSET
    ima: ImaLogRules | UnsetType = UNSET
    on_failure: dict[str, Effect] = {}
    rotation: _Rotation = _Rotation()
    updates: _Updates = _Updates()
    enclaves: _Enclaves = _Enclaves()
    snp: SnpRules | UnsetType = UNSET
    tdx: TdxRules | UnsetType = UNSET
    sgx: SgxRules | UnsetType = UNSET
    nitro: NitroRules | UnsetType = UNSET
    cca: CcaRules | UnsetType = UNSET
    azure: AzureRules | UnsetType = UNSET
    nvidia: NvidiaRules | UnsetType = UNSET


class RotationRules(msgspec.Struct, frozen=True, kw_only=True):
    """When roots are replaced, beside their age and an administrator's word."""

    triggers: frozenset[str]
    events: frozenset[str]
    """Application events that make a root due."""
    windows: tuple[Window, ...]
    jitter_ms: int
    per_minute: int


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a group of devices is held to. Times are milliseconds.

    `absent` names what the document does not say; while there is any, the
    values of those fields are such that nothing passes, or comes of them.
    """

    releases: frozenset[str] | None
    """None: every release that is accepted."""
    evidence: frozenset[str]
    tls_keys: frozenset[TlsKeyKind]
    root_lifetime_ms: int
    offline_grace_ms: int
    heartbeat_ms: int
    watchdog_ms: int
    clock: ClockRules
    pcrs: PcrRules
    log: LogRules
    platform: PlatformRules | None
    """What the logs of firmware and kernel are held to; None: they are not looked at."""
    on_failure: tuple[tuple[str, Effect], ...]
    rotation: RotationRules
    update_within_ms: int | None
    """How long an older accepted release may run once a newer one is accepted; None: for ever."""
    enclaves: EnclaveRules
    """What is accepted of enclaves, by their kinds."""
    register: str
    """The register that an enclave's event log has to explain; empty: none."""
    absent: tuple[str, ...]


def read_policy(text: str) -> Policy:
    """What a document says.

    Raises:
        PolicyDocumentError: no TOML, an unknown name, a value that cannot be
            meant; `line` and `field` say where, as far as that can be said.
    """
    if len(text) > DOCUMENT_LIMIT:
        raise PolicyDocumentError("a policy is no longer than 256 KiB")
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > _MOST_DOTS:
            message = f"line {number}: at most {_MOST_DOTS} dots stand in one line"
            raise PolicyDocumentError(message, line=number)
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:
        # An integer of thousands of digits is no TOMLDecodeError.
        raise _no_toml(text, str(error)) from error
    except RecursionError as error:
        raise PolicyDocumentError("a policy is not nested so deeply") from error
    try:
        return _Reading(msgspec.convert(found, _Document)).policy()
    except msgspec.ValidationError as error:
        raise _not_valid(text, str(error)) from error
    except PolicyDocumentError as error:
        field, value = error.data.get("field"), error.data.get("value")
        raise _placed(text, str(field or ""), error.message, str(value or "")) from error


def _no_toml(text: str, message: str) -> PolicyDocumentError:
    found = _TOML_PLACE.search(message)
    line = int(found[1]) if found and found[1] else last_line(text)
    column = f", column {found[2]}" if found and found[2] else ""
    said = _TOML_PLACE.sub("", message)
    return PolicyDocumentError(f"line {line}{column}: this is no TOML: {said}", line=line)


def _not_valid(text: str, message: str) -> PolicyDocumentError:
    """What msgspec found, in words of the document."""
    field, said = _field_of(message), message.partition(" - at ")[0]
    wrong, unknown = _NO_MEMBER.search(message), _UNKNOWN.search(message)
    if unknown:
        return _placed(text, field, "there is no such field")
    if wrong:
        kinds = _KINDS.get(field)
        known = f"; known are {', '.join(kinds)}" if kinds else ""
        return _placed(text, field, f"{wrong[1]!r} is not known here{known}", wrong[1])
    return _placed(text, field, said)


def _field_of(message: str) -> str:
    """The field that msgspec speaks of: `… - at `$.clock.max_lag[0]``."""
    path = _PATH.search(message)
    unknown = _UNKNOWN.search(message)
    parts = [path[1].partition("[")[0].strip(".")] if path else []
    return ".".join([*parts, unknown[1]] if unknown else parts)


def _placed(text: str, field: str, message: str, value: str = "") -> PolicyDocumentError:
    """An error at `field`; where that stands over several lines, at the one with `value`."""
    line = line_of(text, field, value=value)
    place = f"line {line}: " if line else ""
    # A finding's code may end in a colon.
    named = f"{field.rstrip(':')}: " if field else ""
    return PolicyDocumentError(f"{place}{named}{message}", line=line, field=field or None)


def policy_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a document, for editors; `read_policy` checks more."""
    schema = msgspec.json.schema(_Document)
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hwtrust policy"}
    return title | schema


class _Reading:
    """Turns a document into a policy, and notes what is absent."""

    def __init__(self, document: _Document) -> None:
        self._document = document
        self._absent: list[str] = []

    def policy(self) -> Policy:
        document = self._document
        releases = document.releases
        named = self._or_absent("releases", None if releases == "accepted" else releases, ())
        platform = self._platform()
        policy = Policy(
            releases=None if named is None else frozenset(named),
            evidence=frozenset(self._or_absent("evidence", document.evidence, ())),
            tls_keys=frozenset(self._or_absent("tls_keys", document.tls_keys, ())),
            root_lifetime_ms=self._span("root_lifetime", document.root_lifetime),
            offline_grace_ms=self._span("offline_grace", document.offline_grace),
            heartbeat_ms=self._span("heartbeat", document.heartbeat),
            watchdog_ms=self._span("watchdog", document.watchdog),
            clock=self._clock(),
            pcrs=self._pcrs(platform),
            log=LogRules(
                max_records=self._or_absent("log.max_records", document.log.max_records, 0),
                outdated_loads=self._or_absent(
                    "log.outdated_loads", document.log.outdated_loads, otherwise=False
                ),
            ),
            platform=platform,
            on_failure=self._on_failure(),
            rotation=self._rotation(),
            update_within_ms=self._within(),
            enclaves=EnclaveRules(
                **{name: getattr(document, name) for name in EnclaveRules.__struct_fields__}
            ),
            register=document.enclaves.register or "",
            absent=(),
        )
        _require_order(policy)
        return msgspec.structs.replace(policy, absent=tuple(self._absent))

    def _or_absent(self, name: str, value: Any, otherwise: Any) -> Any:  # noqa: ANN401 - any field
        if value is UNSET:
            self._absent.append(name)
            return otherwise
        return value

    def _span(self, name: str, value: str | UnsetType) -> int:
        text = self._or_absent(name, value, None)
        try:
            return 0 if text is None else parse_span(text)
        except ConfigError as error:
            raise PolicyDocumentError(error.message, field=name) from error

    def _clock(self) -> ClockRules:
        clock = self._document.clock
        return ClockRules(
            max_lag_ms=self._span("clock.max_lag", clock.max_lag),
            max_ahead_ms=self._span("clock.max_ahead", clock.max_ahead),
            max_drift=self._or_absent("clock.max_drift", clock.max_drift, 0.0),
            firmware_floor=self._or_absent("firmware.floor", self._document.firmware.floor, 0),
        )

    def _platform(self) -> PlatformRules | None:
        firmware, ima = self._document.firmware_log, self._document.ima
        if firmware is not UNSET:
            self._or_absent("firmware_log.pcrs", firmware.pcrs, ())
        if firmware is UNSET and ima is UNSET:
            return None
        try:
            return PlatformRules(firmware=firmware or None, ima=ima or None)
        except ImaRulesError as error:
            raise PolicyDocumentError(error.message, field="ima") from error

    def _pcrs(self, platform: PlatformRules | None) -> PcrRules:
        pcrs = self._document.pcrs
        values: dict[str, tuple[str, ...]] = self._or_absent("pcrs.values", pcrs.values, {})
        return PcrRules(
            required=frozenset(self._or_absent("pcrs.required", pcrs.required, ())),
            values={_pcr(number): _digests(number, texts) for number, texts in values.items()},
            unsafe_any=frozenset(pcrs.unsafe_any),
            explained=frozenset() if platform is None else platform.explained,
        )

    def _on_failure(self) -> tuple[tuple[str, Effect], ...]:
        effects = self._document.on_failure
        if "default" not in effects:
            self._absent.append("on_failure.default")
        for code, effect in effects.items():
            known = code and any(known.startswith(code) for known in _CODES)
            if code != "default" and not known:
                message = f"no finding has a code that begins with {code!r}"
                raise PolicyDocumentError(message, field=f"on_failure.{code}")
            if effect is not Effect.LOCKED and is_undeniable(code):
                message = f"nothing may make less of {code}"
                raise PolicyDocumentError(message, field=f"on_failure.{code}")
        return tuple(
            ("" if code == "default" else code, effect) for code, effect in effects.items()
        )

    def _rotation(self) -> RotationRules:
        rotation = self._document.rotation
        windows = self._or_absent("rotation.windows", rotation.windows, ())
        return RotationRules(
            triggers=frozenset(self._or_absent("rotation.triggers", rotation.triggers, ())),
            events=frozenset(self._or_absent("rotation.events", rotation.events, ())),
            windows=tuple(parse_window(text) for text in windows),
            jitter_ms=self._jitter(),
            per_minute=self._or_absent("rotation.per_minute", rotation.per_minute, 1),
        )

    def _within(self) -> int | None:
        text = self._document.updates.within
        return None if text is UNSET else self._span("updates.within", text)

    def _jitter(self) -> int:
        text = self._document.rotation.jitter
        return 0 if text == "0s" else self._span("rotation.jitter", text)


def _require_order(policy: Policy) -> None:
    """Each span fits into the next, as far as they are there."""
    spans = ("heartbeat", "watchdog", "offline_grace", "root_lifetime")
    said = [(name, getattr(policy, f"{name}_ms")) for name in spans]
    present = [(name, span) for name, span in said if span]
    for (shorter, first), (longer, second) in pairwise(present):
        if first > second:
            message = f"it is longer than {longer}"
            raise PolicyDocumentError(message, field=shorter)


def _pcr(text: str) -> int:
    if text not in _PCRS:
        raise PolicyDocumentError(f"{text!r} is no PCR", field=f"pcrs.values.{text}")
    return int(text)


def _digests(number: str, texts: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(_digest(number, text) for text in texts)


def _digest(number: str, text: str) -> bytes:
    field = f"pcrs.values.{number}"
    try:
        digest = bytes.fromhex(text)
    except ValueError as error:
        message = f"{text[:80]!r} is not hexadecimal digits"
        raise PolicyDocumentError(message, field=field, value=text) from error
    if len(digest) != _DIGEST_SIZE:
        message = f"a PCR of the SHA-256 bank has 32 bytes, not {len(digest)}"
        raise PolicyDocumentError(message, field=field, value=text)
    return digest


DEFAULT_DOCUMENT: Final = """\
# What the devices of a group are held to; hwtrust-backend policy --help says how it is changed.
# What a policy does not say refuses.
releases = "accepted"                # or a list of names
evidence = ["tpm"]
tls_keys = ["attested", "tpm"]
root_lifetime = "30d"
offline_grace = "7d"
heartbeat = "5m"
watchdog = "20m"

[clock]
max_lag = "10m"
max_ahead = "10m"
max_drift = 0.15

[firmware]
floor = 0

[pcrs]
required = []
# Beside the application's PCR, which its log explains, nothing is looked at yet.
values = {}
unsafe_any = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]

[log]
max_records = 4096
outdated_loads = true

[on_failure]
default = "locked"

[rotation]
triggers = ["release", "mismatch", "watchdog", "event"]
events = ["transaction", "secure-input"]
windows = []
jitter = "1h"
per_minute = 60

[updates]
# An older release may run for as long as it is accepted. Or, with a newer one accepted, for:
# within = "14d"
"""
"""The policy that `init` writes down for the group `default`."""
