"""Who may do what at the agent's socket.

    [[agent.allow]]
    user = "payments"                 # or group = "…": a name, or a number
    may = ["read", "use"]
    entries = ["payments/*"]          # for read, use, write, delete and list

Pure but for the look-up of user and group names, once, at the start.

Rules:
1. What no rule allows is refused. Root and the agent's own user need no rule;
   the state may be read and watched by whoever can connect.
2. A permission implies no other: `read` gives a value away, `use` lets the agent
   compute with it, and neither comes with the other.
3. A pattern is compared part by part, as the slashes divide it. One `*` in a part
   stands for one or more characters of that part; a last part `**` stands for one
   or more parts. There are no other wild cards, and upper case is not lower case.
4. A name with a part `.` or `..` matches no pattern: to the key store such parts
   mean nothing, to a program that makes a path of a name they would.
5. A refusal is the same whether the entry is there or not.
"""

from __future__ import annotations

import enum
import grp
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import msgspec

from hwtrust.errors import AgentForbiddenError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

OVERFLOW_ID = 65534
"""What the kernel calls every user and group that this name space does not know."""
HIGHEST_ID = 2**32 - 2
MAX_PATTERN_LENGTH = 255

_DOTS = frozenset({".", ".."})


class Permission(enum.StrEnum):
    """What a rule may allow."""

    READ = "read"
    """Be given an entry's value."""
    USE = "use"
    """Have the agent compute with an entry: HMAC, derived keys, sealed messages."""
    WRITE = "write"
    DELETE = "delete"
    LIST = "list"
    EVENT = "event"
    STATE = "state"
    """Allowed to everybody; a rule may say so."""
    WATCH = "watch"
    """Allowed to everybody; a rule may say so."""
    ATTEST = "attest"


OF_ENTRIES = frozenset(
    {Permission.READ, Permission.USE, Permission.WRITE, Permission.DELETE, Permission.LIST}
)
# A list is made of what may be listed, entry by entry.
_BY_NAME = OF_ENTRIES - {Permission.LIST}
OF_EVERYBODY = frozenset({Permission.STATE, Permission.WATCH})


class Allow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[agent.allow]]` of the configuration."""

    may: tuple[Permission, ...]
    user: str | int | None = None
    group: str | int | None = None
    entries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as the kernel says."""

    uid: int
    gid: int
    pid: int
    groups: frozenset[int]
    """The supplementary groups."""


@dataclass(frozen=True, slots=True)
class Rule:
    """An `Allow` with its numbers and its patterns; exactly one number is there."""

    may: frozenset[Permission]
    uid: int | None
    gid: int | None
    entries: tuple[Pattern, ...]

    def concerns(self, peer: Peer) -> bool:
        """Whether the rule is about `peer`."""
        if self.uid is not None:
            return self.uid == peer.uid
        return self.gid == peer.gid or self.gid in peer.groups


class Pattern:
    """Names of entries, as rule 3 says."""

    def __init__(self, text: str) -> None:
        """Read a pattern.

        Raises:
            ConfigError: no entry could have such a name, or the wild card is misplaced.
        """
        self.text = text
        parts = text.split("/")
        self._any_depth = parts[-1] == "**"
        fixed = parts[:-1] if self._any_depth else parts
        wrong = not text.isprintable() or len(text) > MAX_PATTERN_LENGTH
        if wrong or not all(parts) or any(part.count("*") > 1 or part in _DOTS for part in fixed):
            message = f"agent.allow: {text!a} is no pattern of entry names"
            hint = "parts between slashes, one * within a part, ** as the last part"
            raise ConfigError(message, hint=hint)
        self._parts = tuple(fixed)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def matches(self, name: str) -> bool:
        """Whether the pattern means the entry `name`."""
        parts = name.split("/")
        if not _DOTS.isdisjoint(parts) or not all(parts):
            return False
        least = len(self._parts) + self._any_depth
        if len(parts) < least or (len(parts) > least and not self._any_depth):
            return False
        return all(map(_means, self._parts, parts))


class Grants:
    """What one peer may do."""

    def __init__(self, rules: tuple[Rule, ...], *, everything: bool) -> None:
        """`everything` is for root and the agent's own user."""
        self._rules = rules
        self.everything = everything

    def sends_values(self) -> bool:
        """Whether the peer may store anything, and so needs long messages."""
        return self.everything or any(Permission.WRITE in rule.may for rule in self._rules)

    def require(self, permission: Permission, *, name: str | None = None) -> str:
        """Raise unless the peer may do this, with entry `name` where one is concerned.

        Gives what allows it, for the log: a pattern, or a word.

        Raises:
            AgentForbiddenError: it may not; the same for every entry, there or not.
        """
        if self.everything:
            return "owner"
        if permission in OF_EVERYBODY:
            return "everybody"
        for rule in self._rules:
            if permission not in rule.may:
                continue
            if permission not in _BY_NAME:
                return "rule"
            for pattern in rule.entries:
                if name is not None and pattern.matches(name):
                    return pattern.text
        raise AgentForbiddenError(f"you may not {permission} here", permission=permission)

    def visible(self, name: str) -> bool:
        """Whether a list shows entry `name` to the peer."""
        return self.everything or any(
            Permission.LIST in rule.may and any(pattern.matches(name) for pattern in rule.entries)
            for rule in self._rules
        )


class Permissions:
    """The rules of one agent."""

    def __init__(self, rules: tuple[Rule, ...], *, owner: int) -> None:
        """`owner` is the user that the agent runs as."""
        self._rules = rules
        # An agent that runs as nobody is not owned by everybody of other name spaces.
        self._owners = frozenset({0, owner}) - {OVERFLOW_ID}

    @classmethod
    def resolved(cls, allow: Iterable[Allow], *, owner: int | None = None) -> Self:
        """The rules of the configuration, with numbers for names.

        `owner` is the user that the agent runs as: this process's, if not given.

        Raises:
            ConfigError: a rule names nobody, somebody unknown, or nothing to do.
        """
        rules = tuple(_resolved(rule) for rule in allow)
        return cls(rules, owner=os.geteuid() if owner is None else owner)

    def owns(self, peer: Peer) -> bool:
        """Whether `peer` is root or the agent's own user."""
        return peer.uid in self._owners

    def of(self, peer: Peer) -> Grants:
        """What `peer` may do."""
        rules = tuple(rule for rule in self._rules if rule.concerns(peer))
        return Grants(rules, everything=self.owns(peer))


def _means(pattern: str, part: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return pattern == part
    return part.startswith(before) and part.endswith(after) and len(part) >= len(pattern)


def _resolved(rule: Allow) -> Rule:
    may = frozenset(rule.may)
    if (rule.user is None) == (rule.group is None):
        raise ConfigError("agent.allow: a rule has either a user or a group")
    if not may:
        raise ConfigError("agent.allow: a rule says what they may: may = […]")
    if bool(may & OF_ENTRIES) != bool(rule.entries):
        which = "has entries, and nothing that may be done with them"
        if not rule.entries:
            which = f"allows {min(may & OF_ENTRIES)} and names no entries"
        raise ConfigError(f"agent.allow: a rule {which}")
    return Rule(
        may=may,
        uid=None if rule.user is None else user_number(rule.user),
        gid=None if rule.group is None else group_number(rule.group),
        entries=tuple(Pattern(text) for text in rule.entries),
    )


def user_number(given: str | int) -> int:
    """The number of a user by name or number.

    Raises:
        ConfigError: there is none, or it stands for many.
    """
    return _number("user", given, lambda name: pwd.getpwnam(name).pw_uid)


def group_number(given: str | int) -> int:
    """The number of a group by name or number.

    Raises:
        ConfigError: there is none, or it stands for many.
    """
    return _number("group", given, lambda name: grp.getgrnam(name).gr_gid)


def _number(kind: str, given: str | int, look_up: Callable[[str], int]) -> int:
    number = given
    if isinstance(number, str):
        try:
            number = look_up(number)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"agent: there is no {kind} {given!a}") from error
    if not 0 <= number <= HIGHEST_ID:
        raise ConfigError(f"agent: there is no {kind} {number}")
    if number == OVERFLOW_ID:
        message = f"agent: {kind} {given!a} stands for everybody of other name spaces"
        raise ConfigError(message, hint=f"give the application a {kind} of its own")
    return number
