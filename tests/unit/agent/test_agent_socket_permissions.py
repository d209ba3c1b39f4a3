"""Who may do what at the agent's socket: rules, patterns, and the kernel's word on who asks."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hwtrust.agent.permissions import Allow, Grants, Pattern, Peer, Permission, Permissions
from hwtrust.errors import AgentForbiddenError, ConfigError
from unit.agent.served import APPLICATION, LOCKED, VALUE, Store, allow, peers_are, served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unit.agent.served import Served

OTHER_UID, OTHER_GID, TEAM = 41711, 41712, 41713
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

# --- patterns --------------------------------------------------------------------------

MATCHES = {
    "a name means itself": ("wallet", "wallet", True),
    "not what begins with it": ("wallet", "wallet2", False),
    "not what ends with it": ("wallet", "mywallet", False),
    "not what is below it": ("payments", "payments/pin", False),
    "not what is above it": ("payments/pin", "payments", False),
    "upper case is not lower case": ("wallet", "Wallet", False),
    "a star means one part": ("payments/*", "payments/pin", True),
    "a star means no two parts": ("payments/*", "payments/a/b", False),
    "a star means not the part above": ("payments/*", "payments", False),
    "a star does not reach into another part": ("pay*", "payments/pin", False),
    "a star within a part": ("payments/p*n", "payments/pin", True),
    "a star means at least one character": ("payments/pi*n", "payments/pin", False),
    "before and after do not overlap": ("aba*aba", "ababa", False),
    "a star at the beginning": ("*/pin", "payments/pin", True),
    "two stars mean every depth": ("payments/**", "payments/a/b", True),
    "two stars mean at least one part": ("payments/**", "payments", False),
    "two stars alone mean everything": ("**", "a/b/c", True),
    "two stars do not leave their parts": ("payments/**", "paymentsX/a", False),
    "no other wild card": ("p?n", "pin", False),
    "nor sets of characters": ("[p]in", "pin", False),
    "a full stop is a full stop": ("a.c", "abc", False),
    "dots do not climb": ("payments/**", "payments/../wallet", False),
    "nor for a star": ("payments/*/wallet", "payments/../wallet", False),
    "nor do single ones": ("payments/**", "payments/./pin", False),
    "nor for two stars alone": ("**", "..", False),
    "what has dots among others is a name": ("payments/*", "payments/..a", True),
    "an empty part matches nothing": ("payments/**", "payments//pin", False),
    "nor at the end": ("payments/*", "payments/", False),
}


@pytest.mark.parametrize("case", MATCHES)
def test_a_pattern_means_whole_parts_of_a_name(case: str) -> None:
    """A rule reaches no entry that its reader would not expect."""
    pattern, name, expected = MATCHES[case]
    assert Pattern(pattern).matches(name) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "**/a",
        "a**",
        "a/**b",
        "*a*",
        "a\n",
        "***",
        "a" * 256,
    ],
)
def test_a_pattern_that_could_surprise_is_refused(text: str) -> None:
    """Nobody finds out later what a rule means."""
    with pytest.raises(ConfigError) as refused:
        Pattern(text)
    assert refused.value.code == "config"


# --- rules -----------------------------------------------------------------------------

REFUSED_RULES: dict[str, dict[str, Any]] = {
    "nobody": {"may": ["event"]},
    "a user and a group": {"user": "root", "group": "root", "may": ["event"]},
    "an unknown user": {"user": "nobody-of-this-name", "may": ["event"]},
    "an unknown group": {"group": "no-group-of-this-name", "may": ["event"]},
    "an empty name": {"user": "", "may": ["event"]},
    "a zero byte in a name": {"user": "a\0b", "may": ["event"]},
    "a negative number": {"user": -1, "may": ["event"]},
    "a number that no user has": {"user": 2**32 - 1, "may": ["event"]},
    "everybody of other name spaces, by number": {"user": 65534, "may": ["event"]},
    "everybody of other name spaces, by name": {"user": "nobody", "may": ["event"]},
    "nothing to do": {"user": 1, "may": []},
    "entries and nothing to do with them": {"user": 1, "may": ["event"], "entries": ["a"]},
    "read, of no entries": {"user": 1, "may": ["read"]},
    "a pattern that is none": {"user": 1, "may": ["read"], "entries": ["../a"]},
}


@pytest.mark.parametrize("case", REFUSED_RULES)
def test_a_rule_that_cannot_be_meant_is_refused_at_the_start(case: str) -> None:
    """The agent does not start with a rule that means nobody, everybody or nothing."""
    rule = msgspec.convert(REFUSED_RULES[case], Allow)
    with pytest.raises(ConfigError) as refused:
        Permissions.resolved([rule])
    assert refused.value.code == "config"


def test_a_rule_with_an_unknown_word_is_refused() -> None:
    """A misspelt permission or option is none."""
    for table in ({"user": 1, "may": ["reed"]}, {"user": 1, "may": ["event"], "entry": "a"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(table, Allow)


def test_names_of_users_and_groups_become_numbers() -> None:
    """Names are looked up once, at the start."""
    user, group = pwd.getpwnam("daemon"), grp.getgrnam("daemon")
    rules = [
        Allow(user="daemon", may=(Permission.EVENT,)),
        Allow(group="daemon", may=(Permission.ATTEST,)),
    ]
    permissions = Permissions.resolved(rules, owner=1000)
    by_user = permissions.of(Peer(user.pw_uid, 9999, 1, frozenset()))
    assert by_user.require(Permission.EVENT) == "rule"
    assert not allowed(by_user, Permission.ATTEST)
    for peer in (Peer(9999, group.gr_gid, 1, frozenset()), Peer(9999, 1, 1, frozenset({1, 9}))):
        member = group.gr_gid in {peer.gid, *peer.groups}
        assert allowed(permissions.of(peer), Permission.ATTEST) is member


def allowed(grants: Grants, permission: Permission, name: str | None = None) -> bool:
    """Whether the grants allow it."""
    try:
        grants.require(permission, name=name)
    except AgentForbiddenError:
        return False
    return True


def test_an_agent_that_runs_as_nobody_is_owned_by_nobody_else() -> None:
    """Users of other name spaces look the same, and are not its own."""
    permissions = Permissions.resolved([], owner=65534)
    assert not permissions.of(Peer(65534, 65534, 1, frozenset())).everything
    assert permissions.of(Peer(0, 0, 1, frozenset())).everything


@pytest.mark.parametrize("permission", Permission)
def test_without_a_rule_only_the_state_is_for_everybody(permission: Permission) -> None:
    """Nobody but root and the agent's own user may do anything else."""
    permissions = Permissions.resolved([], owner=1000)
    for uid, everything in ((0, True), (1000, True), (1001, False), (65534, False)):
        grants = permissions.of(Peer(uid, 0, 1, frozenset({0, 1000})))
        expected = everything or permission in {Permission.STATE, Permission.WATCH}
        assert allowed(grants, permission, "wallet") is expected
        assert grants.everything is everything


@pytest.mark.parametrize("granted", sorted(set(Permission) - {"state", "watch"}))
@pytest.mark.parametrize("asked", sorted(set(Permission) - {"state", "watch"}))
def test_a_permission_implies_no_other(granted: Permission, asked: Permission) -> None:
    """Each word of a rule gives one thing."""
    rule = allow(granted) if granted in {"event", "attest"} else allow(granted, entries=("a",))
    grants = Permissions.resolved([rule], owner=1000).of(APPLICATION)
    assert allowed(grants, asked, "a") is (asked == granted)


def test_what_one_rule_allows_is_not_added_to_the_entries_of_another() -> None:
    """Rules are looked at one by one."""
    rules = [allow("read", entries=("a",)), allow("write", entries=("b",))]
    grants = Permissions.resolved(rules, owner=1000).of(APPLICATION)
    assert allowed(grants, Permission.READ, "a")
    assert allowed(grants, Permission.WRITE, "b")
    assert not allowed(grants, Permission.READ, "b")
    assert not allowed(grants, Permission.WRITE, "a")


# --- at the socket, one method after the other -------------------------------------------

DATA = b64encode(b"some data").decode()
CALLS: dict[str, tuple[str, dict[str, object]]] = {
    "event": ("event", {"kind": "transaction"}),
    "attest": ("attest", {}),
    "keystore.list": ("list", {}),
    "keystore.get": ("read", {"name": "payments/pin"}),
    "keystore.put": ("write", {"name": "payments/pin", "value": DATA}),
    "keystore.delete": ("delete", {"name": "payments/pin"}),
    "keystore.hmac": ("use", {"name": "payments/pin", "data": DATA}),
    "keystore.derive": ("use", {"name": "payments/pin", "label": "a"}),
    "keystore.seal": ("use", {"name": "payments/pin", "data": DATA}),
    "keystore.open": ("use", {"name": "payments/pin", "sealed": DATA}),
}


@pytest.mark.parametrize("method", CALLS)
def test_a_method_is_refused_without_its_permission(tmp_path: Path, method: str) -> None:
    """A peer with every other permission for the entry, and this one for another, gets nothing."""
    needed, params = CALLS[method]
    others = sorted(set(Permission) - {needed})
    rules = [allow(*others, entries=("payments/*",))]
    if needed not in {"event", "attest", "list"}:
        rules.append(allow(needed, entries=("other", "payments/pin/*")))
    with served(tmp_path, *rules) as agent, peers_are(APPLICATION):
        before = dict(agent.store.values)
        assert agent.peer().code(method, **params) == "agent:forbidden"
        assert agent.store.done == []
        assert agent.store.values == before


@pytest.mark.parametrize("method", CALLS)
def test_a_method_is_done_with_its_permission_alone(tmp_path: Path, method: str) -> None:
    """The counter-check: that permission, for that entry, is enough."""
    needed, params = CALLS[method]
    plain = needed in {"event", "attest"}
    rule = allow(needed) if plain else allow(needed, entries=("payments/*",))
    with served(tmp_path, rule) as agent, peers_are(APPLICATION):
        agent.store.gate.set()
        answer = agent.peer().ask(method, **params)
        if method == "keystore.open":
            assert answer["error"]["data"]["code"] == "agent:sealed"
        else:
            assert "error" not in answer


def test_a_refusal_does_not_say_whether_the_entry_exists(tmp_path: Path) -> None:
    """The same bytes for an entry that is there, and for one that is not."""
    with served(tmp_path, allow("list", entries=("a",))) as agent, peers_are(APPLICATION):
        peer = agent.peer()
        for method in ("keystore.get", "keystore.delete"):
            there = peer.ask(method, name="payments/pin")
            assert there == peer.ask(method, name="payments/nothing")
            assert "payments" not in str(there)
        assert agent.store.done == []


def test_a_list_shows_what_its_reader_may_list_and_nothing_else(tmp_path: Path) -> None:
    """Not even the number of the others."""
    rules = [allow("list", entries=("payments/*",)), allow("read", entries=("wallet",))]
    with served(tmp_path, *rules) as agent, peers_are(APPLICATION):
        peer = agent.peer()
        for prefix in ("", "payments"):
            entries = peer.ask("keystore.list", prefix=prefix)["result"]["entries"]
            assert [entry["name"] for entry in entries] == ["payments/pin"]
        assert peer.ask("keystore.list", prefix="wallet")["result"]["entries"] == []


def test_the_state_is_for_everybody_who_can_connect(tmp_path: Path) -> None:
    """An application without any rule learns that it has to disable something."""
    with served(tmp_path) as agent, peers_are(APPLICATION):
        peer = agent.peer()
        assert peer.ask("state")["result"]["state"] == "normal"
        assert peer.ask("watch")["result"]["state"] == "normal"
        agent.server.publish(LOCKED)
        assert peer.answer()["params"]["state"] == "locked"


def test_a_key_is_used_by_whom_may_not_read_it(tmp_path: Path) -> None:
    """No method of `use` gives the value away."""
    with (
        served(tmp_path, allow("use", entries=("payments/*",))) as agent,
        peers_are(APPLICATION),
    ):
        peer = agent.peer()
        for method, (needed, params) in CALLS.items():
            if needed != "use":
                continue
            said = str(peer.ask(method, **params))
            assert b64encode(VALUE).decode() not in said
        assert peer.code("keystore.get", name="payments/pin") == "agent:forbidden"


def test_a_refusal_is_logged_once_a_minute_with_who_and_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody who tries a thousand names does not write a thousand lines."""
    caplog.set_level(logging.INFO)
    with served(tmp_path) as agent, peers_are(APPLICATION):
        peer = agent.peer()
        for number in range(50):
            peer.ask("keystore.get", name=f"name-{number}")
        peer.ask("keystore.put", name="a", value=DATA)
        assert len(caplog.messages) == 2
        assert "uid 4711" in caplog.messages[0]
        assert "keystore.get" in caplog.messages[0]
        agent.clock.now += 61
        peer.ask("keystore.get", name="a")
    assert len(caplog.messages) == 3
    assert "name-" not in caplog.text
    assert DATA not in caplog.text


# --- other users, as the kernel knows them -----------------------------------------------

PEER = """
import os, socket, sys
uid, gid, team, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
os.setgroups([int(team)] if team else [])
os.setgid(gid)
os.setuid(uid)
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(20)
    sock.connect(path)
    for line in sys.stdin.buffer:
        sock.sendall(line)
        print(sock.makefile().readline(), end="")
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can look into."""
    # Not in TMPDIR, which may be private.
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def asked(
    agent: Served, *lines: bytes, uid: int = OTHER_UID, gid: int = OTHER_GID, team: str = ""
) -> list[dict[str, Any]]:
    """What a process of that user is answered."""
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PEER, str(uid), str(gid), team, str(agent.path)],
        input=b"".join(lines),
        capture_output=True,
        check=True,
    ).stdout
    return [msgspec.json.decode(line) for line in said.splitlines()]


GET = b'{"jsonrpc":"2.0","id":1,"method":"keystore.get","params":{"name":"payments/pin"}}\n'


@needs_root
def test_102_another_user_gets_what_the_rules_give_it(public: Path) -> None:
    """User, group and supplementary groups are the kernel's; nothing else counts."""
    read = (Permission.READ,)
    entries = ("payments/*",)
    rules = {
        "user": Allow(user=OTHER_UID, may=read, entries=entries),
        "group": Allow(group=OTHER_GID, may=read, entries=entries),
        "team": Allow(group=TEAM, may=read, entries=entries),
    }
    for case, rule in rules.items():
        with served(public / case, rule, mode=0o666) as agent:
            for uid, gid, team in (
                (OTHER_UID, 1, ""),
                (1, OTHER_GID, ""),
                (1, 1, str(TEAM)),
                (1, 1, ""),
            ):
                mine = {"user": uid == OTHER_UID, "group": gid == OTHER_GID, "team": bool(team)}
                answer = asked(agent, GET, uid=uid, gid=gid, team=team)[0]
                assert ("result" in answer) is mine[case], (case, uid, gid, team)


@needs_root
@pytest.mark.parametrize(
    "claim",
    [
        (
            b'{"jsonrpc":"2.0","id":1,"method":"keystore.get",'
            b'"params":{"name":"payments/pin","uid":0}}\n'
        ),
        (
            b'{"jsonrpc":"2.0","id":1,"uid":0,"method":"keystore.get",'
            b'"params":{"name":"payments/pin"}}\n'
        ),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"keystore.get","params":{"name":"a"},'
            b'"params":{"name":"payments/pin"}}\n'
        ),
    ],
)
def test_102_credentials_cannot_be_claimed(public: Path, claim: bytes) -> None:
    """Nothing that a peer sends says who it is."""
    with served(
        public, Allow(user=OTHER_UID, may=(Permission.READ,), entries=("a",)), mode=0o666
    ) as agent:
        (answer,) = asked(agent, claim)
        assert answer["error"]["data"]["code"] in {"agent:forbidden", "agent:request"}
        assert agent.store.done == []


@needs_root
def test_102_who_may_not_use_the_socket_file_does_not_connect(public: Path) -> None:
    """The file's mode and group are the first door."""
    with served(public, group=TEAM) as agent:
        assert agent.path.stat().st_mode & 0o7777 == 0o660
        assert agent.path.stat().st_gid == TEAM
        assert asked(agent, GET, team=str(TEAM))[0]["error"]["data"]["code"] == "agent:forbidden"
        with pytest.raises(subprocess.CalledProcessError) as refused:
            asked(agent, GET)
        assert b"PermissionError" in refused.value.stderr


def test_102_the_agents_own_user_may_do_everything(tmp_path: Path) -> None:
    """Without any rule, `hwtrust keystore` works for who runs the agent."""
    with served(tmp_path, store=Store()) as agent:
        answer = agent.peer().ask("keystore.get", name="payments/pin")
        assert answer["result"] == {"value": b64encode(VALUE).decode()}
