"""Is what the kernel measured accepted? IMA's claims and runtime policy in, findings out.

    ImaClaims + PreparedImaRules + values of the boot's PCRs ── appraise_ima ──▶ findings

Rules, for each new entry; the first that speaks of it decides:

1. A violation is a finding: nobody knows what was read.
2. `boot_aggregate` is the hash over PCRs 0 to 7, or 0 to 9, of the quote.
3. What `excludes` matches is not looked at. Patterns are globs whose only sign is
   `*`, any characters, matched in one pass from left to right: a regular expression
   can be made to backtrack for ever by whoever names a file.
4. A path in `digests` is pinned: it has one of its digests. No signature helps.
5. Any other file has a digest of `digests_anywhere`, or a valid signature by one of
   `keys`. A buffer has one of the digests of its name in `buffers`.
6. Digests by which something is accepted are not MD5 and not SHA-1, unless the
   rules say so; so it is for what binds the entries to the PCR. `boot_aggregate` may be
   SHA-1, as old kernels have it: a collision does not help, the PCRs are what they are.

What is absent accepts nothing. Of each code the first few findings are spelled out
and the others counted, and names are cut. An entry that rule 4 or 5 accepts by its
digest is remembered, whole, by the prepared rules; signatures are checked each time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from enum import Enum, auto
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from hwtrust.errors import WireError
from hwtrust.errors.logs import ImaRulesError
from hwtrust.verify.logs.ima import Extend, KnownEntries
from hwtrust.verify.logs.ima_signature import FileKeys, Outcome
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.logs.ima_template import (
    BOOT_AGGREGATE,
    DIGEST_SIZES,
    FileDigest,
    digest_field,
    template_data,
)
from hwtrust.wire.messages import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from hwtrust.verify.logs.ima import ImaClaims, ImaState
    from hwtrust.wire.logs.ima_template import ImaEntry

_FAIL: Final = Severity.FAIL

FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "ima:absent": (_FAIL, "the policy does not say what may be measured"),
        "ima:empty": (_FAIL, "the kernel measured nothing since the boot"),
        "ima:violation": (_FAIL, "a file was written while it was measured or read"),
        "ima:boot-aggregate": (_FAIL, "the log begins with another boot's firmware values"),
        "ima:unknown": (_FAIL, "a file was measured that the policy does not have"),
        "ima:digest": (_FAIL, "a file has another digest than the policy's"),
        "ima:signature": (_FAIL, "a file's signature is malformed, or not over this file"),
        "ima:key": (_FAIL, "a file is signed by a key that the policy does not have"),
        "ima:buffer": (_FAIL, "the kernel measured data that the policy does not have"),
        "ima:weak": (_FAIL, "an entry or its digest rests on SHA-1 or MD5"),
        "ima:malformed": (_FAIL, "what was measured is of no form that is known"),
    }
)
"""What each code means, and how it weighs."""

MOST_OF_A_CODE: Final = 16
LONGEST_NAME: Final = 120
LONGEST_GLOB: Final = 512
_BOOT_AGGREGATE: Final = BOOT_AGGREGATE.encode()

HexDigest = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^((verity:)?[a-z0-9][a-z0-9_-]*:)?([0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{56}"
        r"|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$"
    ),
]
"""`sha256:` and hexadecimal digits; without an algorithm, SHA of that size."""
Glob = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_GLOB)]
Values = tuple[HexDigest, ...]

_BY_SIZE: Final = {20: "sha1", 28: "sha224", 32: "sha256", 48: "sha384", 64: "sha512", 16: "md5"}
_WEAK: Final = frozenset({"md5", "sha1", "rmd160"})


class Unsafe(Enum):
    """Spelled out by a caller that goes without a check; what is lost stands beside it."""

    ANY_BOOT_AGGREGATE = auto()
    """Nothing binds the log to the firmware and boot loader that were quoted."""


_AnyBoot = Literal[Unsafe.ANY_BOOT_AGGREGATE]


class ImaRules(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a device may measure, as a table of a policy."""

    digests: dict[str, Values] | msgspec.UnsetType = msgspec.UNSET
    """Digests by path; absent pins none. Of `digests`, `digests_anywhere` and `keys` one is set."""
    digests_anywhere: Values | msgspec.UnsetType = msgspec.UNSET
    """Digests of files at any path; absent accepts none."""
    excludes: tuple[Glob, ...] | msgspec.UnsetType = msgspec.UNSET
    """Globs of paths that are not looked at; absent excludes nothing."""
    keys: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    """Public keys or certificates that sign files, PEM; absent believes no signature."""
    buffers: dict[str, Values] | msgspec.UnsetType = msgspec.UNSET
    """Digests by the names of `ima-buf` events, such as `kexec-cmdline` or `.ima`: a key that
    is loaded onto a keyring is measured under the keyring's name. Absent accepts none."""
    unsafe_allow_violations: bool = False
    """What is read while it is written passes unseen."""
    unsafe_allow_sha1: bool = False
    """Two files can be made that have the same digest."""
    unsafe_allow_rsa1024: bool = False
    """Keys that can be broken may sign files."""
    unsafe_any_buffer: bool = False
    """Keys, command lines and device-mapper tables may be any."""


class PreparedImaRules:
    """Rules, read once for many appraisals; `known` is for `verify_ima`.

    Raises:
        ImaRulesError: a key or a digest in the rules is none.
    """

    __slots__ = ("anywhere", "buffers", "excluded", "keys", "known", "pinned", "refused", "rules")

    def __init__(self, rules: ImaRules) -> None:
        self.rules = rules
        self.refused: set[bytes] = set()
        """Digests that are in the rules and all the same not accepted (6)."""
        # As the kernel writes them: digests behind their algorithms, names before a zero.
        self.pinned = {
            path.encode("utf-8", "surrogateescape") + b"\0": self._digests(values)
            for path, values in (rules.digests or {}).items()
        }
        self.pinned[_BOOT_AGGREGATE + b"\0"] = frozenset()
        self.anywhere = self._digests(rules.digests_anywhere or ())
        self.buffers = {
            name.encode() + b"\0": self._digests(values)
            for name, values in (rules.buffers or {}).items()
        }
        self.keys = FileKeys(rules.keys or (), unsafe_allow_rsa1024=rules.unsafe_allow_rsa1024)
        self.excluded = [glob(pattern) for pattern in rules.excludes or ()]
        self.known = KnownEntries(self._expected())

    def _digests(self, values: Values) -> frozenset[bytes]:
        digests = {digest_field(one): one for one in map(read_hex, values)}
        for field, digest in digests.items():
            if _strong(digest, self.rules) is not _Accepted.ALWAYS:
                self.refused.add(field)
        return frozenset(digests)

    def _expected(self) -> Iterator[bytes]:
        """What the kernel hashes for the files that are pinned: `ima-ng`, unsigned `ima-sig`."""
        for name, digests in self.pinned.items():
            for digest in digests - self.refused:
                if not digest.startswith(b"verity:"):
                    data = template_data([digest, name])
                    yield data
                    yield data + template_data([b""])


def glob(pattern: str) -> Callable[[bytes], bool]:
    """Whether a path matches `pattern` as a whole, in one pass (rule 3)."""
    first, *others = pattern.encode("utf-8", "surrogateescape").split(b"*")

    def matches(path: bytes) -> bool:
        if not others:
            return path == first
        if not path.startswith(first):
            return False
        at = len(first)
        for part in others[:-1]:
            found = path.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        return path.endswith(others[-1]) and len(path) - len(others[-1]) >= at

    return matches


def appraise_ima(
    claims: ImaClaims,
    *,
    rules: PreparedImaRules,
    pcrs: Mapping[Alg, Mapping[int, bytes]] | _AnyBoot,
) -> tuple[Finding, ...]:
    """Hold the new entries against `rules`; `pcrs` are values that a verified quote gives."""
    return tuple(_bounded(_findings(claims, rules, pcrs)))


def state_to_keep(claims: ImaClaims, findings: tuple[Finding, ...]) -> ImaState | None:
    """The state for the next evidence; None is the start of the boot.

    After a failure it stays where it was, so that what failed is sent, and fails, again.
    Where the rules changed, the log is to be appraised from the start of the boot.
    """
    failed = any(finding.severity is Severity.FAIL for finding in findings)
    return claims.before if failed else claims.state


def _findings(
    claims: ImaClaims, rules: PreparedImaRules, pcrs: Mapping[Alg, Mapping[int, bytes]] | _AnyBoot
) -> Iterator[tuple[str, str]]:
    yield from _of_whole(claims, rules.rules)
    violations = frozenset(claims.violations)
    # What is known was accepted before, by these very rules: only the others are read.
    numbers = claims.unknown if claims.known is rules.known else range(claims.new)
    accepted, left = _listed(claims, rules, numbers)
    if claims.new and not claims.first and 0 not in left[:1]:
        yield "ima:boot-aggregate", "the log does not begin with boot_aggregate"
    try:
        for number, entry in claims.entries(left):
            at = claims.first + number
            if not at and entry.name != _BOOT_AGGREGATE:
                yield "ima:boot-aggregate", "the log does not begin with boot_aggregate"
            # (1): violations.
            found = _violation(rules) if number in violations else _of_entry(entry, rules, pcrs)
            if isinstance(found, tuple):
                code, message = found
                yield code, f"entry {at}: {_name(entry)} {message}"
            elif found is _Accepted.ALWAYS:
                accepted.append(number)
    except WireError as error:
        yield "ima:malformed", f"{error.message}; no entry after it was looked at"
    rules.known.learn(claims, accepted)


def _listed(
    claims: ImaClaims, rules: PreparedImaRules, numbers: Iterable[int]
) -> tuple[list[int], list[int]]:
    """Which entries are accepted because the rules have their digest; and those that are left.

    That is nearly all, so it is seen without making entries of them. Nothing is accepted
    here that `_of_entry` would not accept.
    """
    accepted: list[int] = []
    left: list[int] = []
    violations = frozenset(claims.violations)
    pinned, anywhere, refused = rules.pinned.get, rules.anywhere, rules.refused
    for number, digest, name in claims.log.files(claims.pcr, numbers):
        # (4), (5), (6), and not (1): an accepted digest.
        if digest in pinned(name, anywhere) and digest not in refused and number not in violations:
            accepted.append(number)
        else:
            left.append(number)
    return accepted, left


def _of_whole(claims: ImaClaims, rules: ImaRules) -> Iterator[tuple[str, str]]:
    if all(part is msgspec.UNSET for part in (rules.digests, rules.digests_anywhere, rules.keys)):
        yield "ima:absent", "neither digests nor digests_anywhere nor keys are set"
    if not claims.state.entries:
        yield "ima:empty", f"PCR {claims.pcr} was never extended"
    padded = claims.state.extend is not Extend.HASHED
    if (padded or claims.bank is Alg.SHA1) and not rules.unsafe_allow_sha1:
        yield "ima:weak", f"the entries are bound to PCR {claims.pcr} by SHA-1 alone"


class _Accepted(Enum):
    """Why nothing is found in an entry."""

    ALWAYS = auto()
    """By a digest of the rules: it may be remembered."""
    NOW = auto()
    """By a signature, values of this boot, or unseen: whoever is excluded fills no memory,
    and tells no other machine's violation beforehand."""


_Found = tuple[str, str] | _Accepted


def _violation(rules: PreparedImaRules) -> _Found:
    if rules.rules.unsafe_allow_violations:
        return _Accepted.NOW
    return "ima:violation", "was written while it was measured or read"


def _of_entry(
    entry: ImaEntry,
    rules: PreparedImaRules,
    pcrs: Mapping[Alg, Mapping[int, bytes]] | _AnyBoot,
) -> _Found:
    digest = entry.digest
    if entry.buffer is not None:
        return _of_buffer(entry, digest, rules)
    # (2): boot_aggregate.
    if entry.name == _BOOT_AGGREGATE:
        return _of_boot(digest, pcrs)
    # (3): excluded.
    if any(matches(entry.name) for matches in rules.excluded):
        return _Accepted.NOW
    if digest is None:
        return "ima:malformed", "has no digest that can be compared"
    return _of_file(entry, digest, rules)


def _of_file(entry: ImaEntry, digest: FileDigest, rules: PreparedImaRules) -> _Found:
    # (4): pinned.
    pinned = rules.pinned.get(entry.name + b"\0")
    if pinned is not None:
        if digest_field(digest) in pinned:
            return _strong(digest, rules.rules)
        return "ima:digest", f"has {digest}"
    # (5): any other file.
    if digest_field(digest) in rules.anywhere:
        return _strong(digest, rules.rules)
    if entry.signature and rules.rules.keys is not msgspec.UNSET:
        return _of_signature(entry.signature, digest, rules)
    return "ima:unknown", f"has {digest}"


def _strong(digest: FileDigest, rules: ImaRules) -> _Found:
    # (6): what it rests on.
    if digest.algorithm in _WEAK and not rules.unsafe_allow_sha1:
        return "ima:weak", f"is accepted by {digest.algorithm}, in which digests collide"
    # The kernel writes zeros where it could not tell the digest.
    if not any(digest.digest):
        return "ima:unknown", "has a digest of zeros"
    return _Accepted.ALWAYS


def _of_boot(
    digest: FileDigest | None,
    pcrs: Mapping[Alg, Mapping[int, bytes]] | _AnyBoot,
) -> _Found:
    if pcrs is Unsafe.ANY_BOOT_AGGREGATE:
        return _Accepted.NOW
    if digest is not None and digest in boot_aggregates(pcrs):
        return _Accepted.NOW
    return "ima:boot-aggregate", f"has {digest}, which no quoted PCRs come to"


def boot_aggregates(pcrs: Mapping[Alg, Mapping[int, bytes]]) -> frozenset[FileDigest]:
    """What the kernel may measure as `boot_aggregate`: hashes over PCRs 0 to 7, or 0 to 9."""
    found = set()
    for values, last in product(pcrs.values(), (7, 9)):
        if all(number in values for number in range(last + 1)):
            joined = b"".join(values[number] for number in range(last + 1))
            found |= {
                FileDigest(name, hashlib.new(name, joined, usedforsecurity=False).digest())
                for name in ("sha1", "sha256", "sha384", "sha512")
            }
    return frozenset(found)


def _of_buffer(entry: ImaEntry, digest: FileDigest | None, rules: PreparedImaRules) -> _Found:
    if rules.rules.unsafe_any_buffer:
        # A file of `ima-sig` that the log, where nothing binds it, calls a buffer is none.
        if digest is None or digest.digest != _hash(digest.algorithm, entry.buffer or b""):
            return "ima:buffer", f"has {digest}, which is not that of its data"
        return _Accepted.NOW
    accepted = rules.buffers.get(entry.name + b"\0", ())
    if digest is not None and digest_field(digest) in accepted:
        return _strong(digest, rules.rules)
    return "ima:buffer", f"has {digest}"


def _hash(algorithm: str, data: bytes) -> bytes | None:
    try:
        return hashlib.new(algorithm.replace("-", "_"), data, usedforsecurity=False).digest()
    except (ValueError, TypeError):
        return None


_SIGNATURES: Final[Mapping[Outcome, tuple[str, str]]] = {
    Outcome.MALFORMED: ("ima:signature", "has a signature that is malformed"),
    Outcome.INVALID: ("ima:signature", "has a signature that is not over its digest"),
    Outcome.WEAK: ("ima:weak", "has a signature over a hash that is not believed"),
    Outcome.NO_KEY: ("ima:key", "is signed by a key that is not known"),
}


def _of_signature(signature: bytes, digest: FileDigest, rules: PreparedImaRules) -> _Found:
    outcome = rules.keys.check(signature, digest)
    if outcome is Outcome.VALID:
        return _Accepted.NOW
    return _SIGNATURES[outcome]


def _bounded(findings: Iterator[tuple[str, str]]) -> Iterator[Finding]:
    seen: Counter[str] = Counter()
    for code, message in findings:
        seen[code] += 1
        if seen[code] <= MOST_OF_A_CODE:
            yield Finding(code=code, severity=FINDINGS[code][0], message=message)
    for code, count in seen.items():
        if count > MOST_OF_A_CODE:
            message = f"and {count - MOST_OF_A_CODE} times more"
            yield Finding(code=code, severity=FINDINGS[code][0], message=message)


def _name(entry: ImaEntry) -> str:
    path = entry.path
    return repr(path if len(path) <= LONGEST_NAME else f"{path[:LONGEST_NAME]}…")


def read_hex(value: str) -> FileDigest:
    """A digest as rules spell it.

    Raises:
        ImaRulesError: its size is not that of its algorithm, or not of hexadecimal digits.
    """
    label, _, digits = value.rpartition(":")
    kind, _, algorithm = label.rpartition(":")
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        raise ImaRulesError(f"{value!r} is no digest") from None
    algorithm = algorithm or _BY_SIZE.get(len(digest), "")
    if DIGEST_SIZES.get(algorithm, len(digest)) != len(digest) or not algorithm:
        raise ImaRulesError(f"{value!r} has another size than its algorithm's")
    return FileDigest(algorithm, digest, kind or "ima")
