"""The agent's socket: its methods, its limits, its file, and what no peer can do to it."""

from __future__ import annotations

import contextlib
import errno
import hmac
import json
import logging
import os
import socket
import stat
import subprocess
import sys
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwtrust.agent import protocol, uses
from hwtrust.agent import socket as agent_socket
from hwtrust.agent.permissions import Permissions
from hwtrust.agent.protocol import PLAIN_LINE, VALUE_LINE
from hwtrust.agent.socket import AgentSocket, Limits
from hwtrust.errors import (
    AgentRequestError,
    AgentRunningError,
    AgentSealedError,
    AgentSocketError,
    ConfigError,
    EntryNameError,
    HwTrustError,
    StatePermissionError,
)
from unit.agent.served import (
    APPLICATION,
    LOCKED,
    NORMAL,
    VALUE,
    Raw,
    Store,
    allow,
    peers_are,
    request,
    served,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from unit.agent.served import Served


def text(value: bytes) -> str:
    """Bytes as the protocol has them."""
    return b64encode(value).decode()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Served]:
    """A socket that is served, with a state of normal."""
    with served(tmp_path) as running:
        yield running


# --- methods ---------------------------------------------------------------------------


def test_the_state_is_that_of_the_start_and_then_what_was_published_last(agent: Served) -> None:
    """Whoever asks is told what whoever watches was told."""
    peer = agent.peer()
    assert peer.ask("state")["result"] == {
        "state": "normal",
        "step": "",
        "layer": "",
        "release": "2026.11",
        "code": "",
        "message": "",
        "since_ms": 1,
        "update": "",
        "restart": False,
    }
    agent.server.publish(LOCKED)
    assert peer.ask("state")["result"]["code"] == "layer:mismatch"


def test_entries_are_stored_listed_read_and_deleted(agent: Served) -> None:
    """The key store's operations, by name."""
    peer = agent.peer()
    stored = peer.ask("keystore.put", name="new", value=text(b"\0\xff"))["result"]
    assert stored == {"name": "new", "version": 1, "epoch": 1, "size": 2}
    listed = peer.ask("keystore.list", prefix="n")["result"]
    assert listed == {"entries": [stored]}
    assert peer.ask("keystore.get", name="new")["result"] == {"value": text(b"\0\xff")}
    assert peer.ask("keystore.delete", name="new")["result"] == {}
    assert peer.code("keystore.get", name="new") == "keystore:entry:missing"


def test_a_locked_key_store_says_so_with_a_hint(agent: Served) -> None:
    """An error of the library keeps its code and its hint."""
    agent.store.locked = True
    error = agent.peer().ask("keystore.get", name="wallet")["error"]
    assert error["code"] == protocol.OURS
    assert error["data"] == {"code": "keystore:locked", "hint": "boot the device first"}


def test_an_event_says_whether_the_backend_wants_an_attestation(agent: Served) -> None:
    """Kind and detail reach the operations as they are."""
    peer = agent.peer()
    assert peer.ask("event", kind="transaction", detail="order 7")["result"] == {"attest": True}
    assert peer.ask("event", kind="other")["result"] == {"attest": False}
    assert agent.store.done == ["event transaction order 7", "event other "]


def test_an_attestation_says_what_the_backend_made_of_it(agent: Served) -> None:
    """As the command line shows it."""
    agent.store.gate.set()
    result = agent.peer().ask("attest")["result"]
    assert (result["standing"], result["mode"], result["findings"]) == ("trusted", "normal", [])


def test_an_entry_is_used_as_the_document_says(agent: Served) -> None:
    """Another program that has the entry computes the same."""
    peer = agent.peer()
    mac = peer.ask("keystore.hmac", name="wallet", data=text(b"data"))["result"]["value"]
    assert b64decode(mac) == hmac.digest(VALUE, b"data", "sha256")
    for size in (16, 64):
        key = peer.ask("keystore.derive", name="wallet", label="pay", size=size)["result"]["value"]
        assert b64decode(key) == HKDF(hashes.SHA256(), size, None, b"pay").derive(VALUE)
    sealed = peer.ask("keystore.seal", name="wallet", data=text(b"data"), context=text(b"c"))
    value = sealed["result"]["value"]
    sealing = HKDF(hashes.SHA256(), 32, b"hwtrust agent seal v1", b"").derive(VALUE)
    message = b64decode(value)
    assert AESGCM(sealing).decrypt(message[:12], message[12:], b"c") == b"data"
    opened = peer.ask("keystore.open", name="wallet", sealed=value, context=text(b"c"))
    assert opened["result"] == {"value": text(b"data")}
    assert peer.code("keystore.open", name="wallet", sealed=value) == "agent:sealed"


def test_an_entry_that_could_be_guessed_is_not_used(agent: Served) -> None:
    """An HMAC under a PIN would give the PIN away."""
    agent.store.values["pin"] = b"0123"
    calls: dict[str, dict[str, str]] = {
        "hmac": {"data": ""},
        "derive": {"label": "a"},
        "seal": {"data": ""},
        "open": {"sealed": text(bytes(40))},
    }
    for method, params in calls.items():
        code = agent.peer().code(f"keystore.{method}", name="pin", **params)
        assert code == "keystore:entry:invalid"
    with pytest.raises(EntryNameError):
        uses.require_key(bytes(15))
    assert uses.require_key(bytes(16)) == bytes(16)


@pytest.mark.parametrize("position", [0, 11, 12, -1])
def test_a_sealed_message_that_was_changed_does_not_open(position: int) -> None:
    """Nonce, ciphertext and tag are all checked; another key does not open it either."""
    sealed = bytearray(uses.seal(VALUE, b"data", context=b""))
    sealed[position] ^= 1
    for key, message in ((VALUE, bytes(sealed)), (VALUE[::-1], uses.seal(VALUE, b"", context=b""))):
        with pytest.raises(AgentSealedError):
            uses.unseal(key, message, context=b"")
    with pytest.raises(AgentSealedError):
        uses.unseal(VALUE, bytes(27), context=b"")


# --- framing ---------------------------------------------------------------------------

OK = request("state")
NO_REQUESTS = {
    "no JSON": (b"hello", -32700),
    "an empty line": (b"", -32700),
    "half a document": (OK[:-3], -32700),
    "two documents": (OK.strip() * 2, -32700),
    "invalid UTF-8": (b'{"jsonrpc":"2.0","id":"\xff","method":"state"}', -32700),
    "deep nesting": (
        b'{"jsonrpc":"2.0","id":1,"method":"state","params":' + b"[" * 50_000,
        -32700,
    ),
    "a batch": (b"[" + OK.strip() + b"]", -32600),
    "no version": (b'{"id":1,"method":"state"}', -32600),
    "version 1.0": (b'{"jsonrpc":"1.0","id":1,"method":"state"}', -32600),
    "no id": (b'{"jsonrpc":"2.0","method":"state"}', -32600),
    "an id that is null": (b'{"jsonrpc":"2.0","id":null,"method":"state"}', -32600),
    "an id that is a fraction": (b'{"jsonrpc":"2.0","id":1.5,"method":"state"}', -32600),
    "an id beyond 2^53": (b'{"jsonrpc":"2.0","id":9007199254740993,"method":"state"}', -32600),
    "an id of 65 characters": (
        b'{"jsonrpc":"2.0","id":"' + b"a" * 65 + b'","method":"state"}',
        -32600,
    ),
    "no method": (b'{"jsonrpc":"2.0","id":1}', -32600),
    "a field too many": (b'{"jsonrpc":"2.0","id":1,"method":"state","uid":0}', -32600),
    "no such method": (b'{"jsonrpc":"2.0","id":1,"method":"keystore.open2"}', -32601),
    "parameters by position": (
        b'{"jsonrpc":"2.0","id":1,"method":"keystore.get","params":["a"]}',
        -32602,
    ),
    "parameters missing": (b'{"jsonrpc":"2.0","id":1,"method":"keystore.get"}', -32602),
    "a parameter too many": (
        b'{"jsonrpc":"2.0","id":1,"method":"state","params":{"uid":0}}',
        -32602,
    ),
}
BAD_PARAMS: dict[str, tuple[str, dict[str, object]]] = {
    "an empty name": ("keystore.get", {"name": ""}),
    "a name of 256 characters": ("keystore.get", {"name": "a" * 256}),
    "a name that is a number": ("keystore.get", {"name": 1}),
    "no base64": ("keystore.put", {"name": "a", "value": "a b"}),
    "base64 for addresses": ("keystore.put", {"name": "a", "value": "_-8="}),
    "base64 without its end": ("keystore.put", {"name": "a", "value": "YQ"}),
    "a key of 15 bytes": ("keystore.derive", {"name": "a", "label": "a", "size": 15}),
    "a key of 65 bytes": ("keystore.derive", {"name": "a", "label": "a", "size": 65}),
    "a label that is empty": ("keystore.derive", {"name": "a", "label": ""}),
    "an event of no kind": ("event", {"kind": ""}),
    "an event with a line break": ("event", {"kind": "a\n"}),
    "an event in upper case": ("event", {"kind": "Transaction"}),
    "an event with a long detail": ("event", {"kind": "a", "detail": "a" * 201}),
}


@pytest.mark.parametrize("case", NO_REQUESTS)
def test_what_is_no_request_is_refused_and_the_next_one_is_answered(
    agent: Served, case: str
) -> None:
    """One bad line costs nothing but itself."""
    line, number = NO_REQUESTS[case]
    peer = agent.peer()
    peer.say(line + b"\n")
    error = peer.answer()["error"]
    assert (error["code"], error["data"]["code"]) == (number, "agent:request")
    assert "result" in peer.ask("state")


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_parameters_of_another_form_are_refused(agent: Served, case: str) -> None:
    """Nothing that the protocol does not know reaches the operations."""
    method, params = BAD_PARAMS[case]
    error = agent.peer().ask(method, **params)["error"]
    assert (error["code"], error["data"]["code"]) == (-32602, "agent:request")
    assert agent.store.done == []


@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_no_line_raises_anything_but_an_error_of_ours(line: bytes) -> None:
    """The decoders convert whatever is wrong."""
    for decode in (protocol.decode_request, protocol.decode_reply):
        try:
            decode(bytearray(line))
        except HwTrustError as error:
            assert error.code in {"agent:request", "agent:reply"}  # noqa: PT017 - either way is right


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["name", "value", "size", "label", "x"]), inner)
        ),
        max_leaves=8,
    ),
    st.sampled_from(["jsonrpc", "id", "method", "params"]),
)
def test_no_field_of_another_type_raises_anything_but_an_error_of_ours(
    value: object, where: str
) -> None:
    """Whatever JSON stands in a field."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "keystore.derive", "params": {}, where: value}
    line = bytearray(json.dumps(message).encode())
    try:
        asked = protocol.decode_params(protocol.decode_request(line), protocol.DeriveParams)
        assert isinstance(asked.name, str)
    except AgentRequestError as error:
        assert error.data["number"] in {-32700, -32600, -32602}  # noqa: PT017 - either way is right


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.lists(st.integers(1, 90), max_size=12), st.integers(1, 5))
def test_it_does_not_matter_in_which_pieces_a_message_comes(
    agent: Served, cuts: list[int], count: int
) -> None:
    """Requests that are cut anywhere, or sent ahead, are answered one by one, in order."""
    whole = b"".join(request("keystore.get", name=f"n{n}") for n in range(count))
    agent.store.done.clear()
    with Raw(agent.path) as peer:
        while whole:
            size = cuts.pop() if cuts else len(whole)
            peer.say(whole[:size])
            whole = whole[size:]
        for _ in range(count):
            assert peer.answer()["error"]["data"]["code"] == "keystore:entry:missing"
    assert agent.store.done == [f"get n{n}" for n in range(count)]


def test_what_was_asked_before_the_end_is_answered(agent: Served) -> None:
    """`printf … | socat` works: who has no more to say may still listen."""
    peer = agent.peer()
    peer.say(request("keystore.get", name="wallet") + OK + b"the rest is no line")
    peer.sock.shutdown(socket.SHUT_WR)
    assert peer.answer()["result"] == {"value": text(VALUE)}
    assert peer.answer()["result"]["state"] == "normal"
    assert peer.hear() == b""


# --- limits ----------------------------------------------------------------------------


def test_the_largest_value_fits(agent: Served) -> None:
    """1 MiB, there and back."""
    peer = agent.peer()
    value = text(os.urandom(1 << 20))
    assert "result" in peer.ask("keystore.put", name="a" * 255, value=value)
    assert peer.ask("keystore.get", name="a" * 255)["result"]["value"] == value


@pytest.mark.parametrize("writer", [False, True])
def test_a_line_of_the_limit_is_read_and_one_more_byte_is_not(tmp_path: Path, writer: bool) -> None:
    """Who may store nothing needs no long lines. After a refusal the connection ends."""
    rules = [allow("write", entries=("a",))] if writer else []
    limit = VALUE_LINE if writer else PLAIN_LINE
    with served(tmp_path, *rules) as agent, peers_are(APPLICATION):
        for more, code in ((0, "agent:request"), (1, "agent:request:limit")):
            peer = agent.peer()
            peer.say(b"x" * (limit - 1 + more) + b"\n")
            assert peer.answer()["error"]["data"]["code"] == code
            if more:
                assert peer.hear() == b""


def test_a_million_bytes_without_an_end_are_not_waited_for(tmp_path: Path) -> None:
    """The agent keeps no more than the limit, and hangs up."""
    with served(tmp_path) as agent, peers_are(APPLICATION):
        peer = agent.peer()
        with pytest.raises(OSError) as ended:  # noqa: PT011 - the number is looked at below
            peer.say(b"x" * 1_000_000)
        assert ended.value.errno in {errno.EPIPE, errno.ECONNRESET}
        assert peer.answer()["error"]["data"]["code"] == "agent:request:limit"
        assert agent.connections() == []


def test_the_rest_of_a_message_has_to_come_in_time(agent: Served) -> None:
    """A byte now and then does not keep it open; without a message one may wait for ever."""
    slow, idle = agent.peer(), agent.peer()
    assert "result" in slow.ask("state")
    for _ in range(3):
        slow.say(b"{")
        agent.poke()
        agent.clock.now += 3.3
    agent.poke()
    agent.clock.now += 0.2
    agent.poke()
    assert slow.answer()["error"]["data"]["code"] == "agent:request:limit"
    assert slow.hear() == b""
    agent.clock.now += 1e6
    assert "result" in idle.ask("state")


def test_who_takes_no_answer_is_dropped_in_time(agent: Served) -> None:
    """An answer that nobody reads is not kept for ever."""
    agent.store.values["big"] = bytes(1 << 20)
    peer = agent.peer()
    peer.call("keystore.get", name="big")
    while not any(one.outgoing for one in agent.connections()):
        pass
    agent.poke()
    agent.clock.now += 29
    assert len(agent.connections()) == 1
    agent.clock.now += 2
    assert agent.connections() == []


def test_who_reads_slowly_but_reads_is_not_dropped(agent: Served) -> None:
    """The time counts from the last byte that was taken."""
    agent.store.values["big"] = bytes(1 << 20)
    peer = agent.peer()
    peer.call("keystore.get", name="big")
    while not any(one.outgoing for one in agent.connections()):
        pass
    heard = b""
    while not heard.endswith(b"\n"):
        chunk = peer.sock.recv(1 << 18)
        assert chunk, "the agent has hung up"
        heard += chunk
        agent.clock.now += 8
        agent.poke()
    assert agent.clock.now > 31
    assert json.loads(heard)["result"]["value"] == text(bytes(1 << 20))


def test_answers_that_nobody_reads_do_not_pile_up(agent: Served) -> None:
    """A peer that only sends is read no further than its own answers."""
    peer = agent.peer()
    peer.sock.settimeout(0)
    with pytest.raises(BlockingIOError):
        peer.sock.sendall(OK * 1_000_000)
    (connection,) = agent.connections()
    assert len(connection.outgoing) < 1000
    assert len(connection.incoming) <= VALUE_LINE


def test_connections_are_limited_for_each_user_and_in_all(tmp_path: Path) -> None:
    """One user cannot take what others need, and all together not what the owner needs."""
    limits = Limits(connections=6, per_user=4)
    with served(tmp_path, limits=limits) as agent:
        with peers_are(APPLICATION):
            mine = [agent.peer() for _ in range(4)]
            assert all("result" in peer.ask("state") for peer in mine)
            full = agent.peer()
            assert full.answer()["error"]["data"]["code"] == "agent:full"
            assert full.hear() == b""
        with peers_are(type(APPLICATION)(5, 5, 5, frozenset())):
            assert all("result" in agent.peer().ask("state") for _ in range(2))
            assert agent.peer().answer()["error"]["data"]["code"] == "agent:full"
        owners = [agent.poker, *(agent.peer() for _ in range(5))]
        assert all("result" in peer.ask("state") for peer in owners)
        assert agent.peer().answer()["error"]["data"]["code"] == "agent:full"
        mine[0].__exit__()
        while len(agent.connections()) > 10:
            pass
        with peers_are(APPLICATION):
            assert "result" in agent.peer().ask("state")


def test_thousands_of_connections_leave_the_agent_as_it_was(tmp_path: Path) -> None:
    """No descriptor and no entry in a table stays behind."""
    with served(tmp_path, limits=Limits(per_user=4)) as agent:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the numbers only
        with peers_are(APPLICATION):
            for number in range(3000):
                with Raw(agent.path) as peer:
                    if number % 3:
                        with contextlib.suppress(BrokenPipeError):  # there were four already
                            peer.say(b"{" * (number % 50))
        while agent.connections():
            pass
        assert agent.server._counts == {os.geteuid(): 1}
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - the numbers only


def test_without_descriptors_the_agent_waits_and_goes_on(
    agent: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither ends nor spins; who is connected is served meanwhile."""
    peer = agent.peer()
    assert "result" in peer.ask("state")
    calls = 0

    class Exhausted:
        """A listening socket in a process that has no more descriptors."""

        def accept(self) -> None:
            """Fail."""
            nonlocal calls
            calls += 1
            raise OSError(errno.EMFILE, "Too many open files")

        def fileno(self) -> int:
            """That of the real one."""
            return listening.fileno()

    assert agent.server._listener is not None
    listening = agent.server._listener.socket
    with monkeypatch.context() as patch:
        patch.setattr(agent.server._listener, "socket", Exhausted())
        late = agent.peer()
        while not calls:
            peer.ask("state")
        for _ in range(20):
            assert "result" in peer.ask("state")
        assert calls == 1
    agent.clock.now += 1.1
    peer.ask("state")
    assert "result" in late.ask("state")


def test_a_slow_attestation_keeps_no_entry_waiting(agent: Served) -> None:
    """As many attestations as there are workers, and more, and entries are read all the same."""
    slow = [agent.peer() for _ in range(5)]
    for peer in slow:
        peer.call("attest")
    assert agent.store.entered.wait(20)
    quick = agent.peer()
    assert quick.ask("keystore.get", name="wallet")["result"] == {"value": text(VALUE)}
    assert quick.ask("state")["result"]["state"] == "normal"
    agent.store.gate.set()
    assert all("result" in peer.answer() for peer in slow)


def test_a_peer_that_goes_while_it_is_served_harms_nobody(agent: Served) -> None:
    """The answer is thrown away."""
    with Raw(agent.path) as peer:
        peer.call("attest")
        assert agent.store.entered.wait(20)
    agent.store.gate.set()
    while agent.connections():
        pass
    assert "result" in agent.peer().ask("state")


# --- watching --------------------------------------------------------------------------


def test_whoever_watches_is_told_every_change_in_order(agent: Served) -> None:
    """Two peers, five hundred changes, none left out, none twice."""
    peers = [agent.peer() for _ in range(2)]
    for peer in peers:
        assert peer.ask("watch")["result"]["state"] == "normal"
    for number in range(500):
        agent.server.publish(type(NORMAL)(state=LOCKED.state, since_ms=number))
        if number % 100 == 0:
            assert "result" in agent.peer().ask("state")
        if number % 50 == 49:
            for peer in peers:
                told = [peer.answer()["params"]["since_ms"] for _ in range(50)]
                assert told == list(range(number - 49, number + 1))


def test_what_has_not_changed_is_not_told(agent: Served) -> None:
    """A notification is a change."""
    peer = agent.peer()
    peer.ask("watch")
    for condition in (NORMAL, LOCKED, LOCKED, NORMAL):
        agent.server.publish(condition)
    assert [peer.answer()["params"]["state"] for _ in range(2)] == ["locked", "normal"]
    assert peer.ask("state")["result"]["state"] == "normal"


def test_who_watches_may_ask_meanwhile(agent: Served) -> None:
    """Notifications come between answers, never within one."""
    peer = agent.peer()
    peer.ask("watch")
    peer.call("attest")
    assert agent.store.entered.wait(20)
    agent.server.publish(LOCKED)
    assert peer.answer()["method"] == "condition"
    agent.store.gate.set()
    assert peer.answer()["result"]["standing"] == "trusted"


def test_who_does_not_read_what_it_watches_is_dropped(
    agent: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end comes instead of an endless queue, and nobody else notices."""
    deaf, other = agent.peer(), agent.peer()
    deaf.ask("watch")
    other.ask("watch")
    changes = 0
    while len(agent.connections()) == 2:
        changes += 1
        agent.server.publish(type(NORMAL)(state=LOCKED.state, since_ms=changes))
        assert other.answer()["params"]["since_ms"] == changes
        assert changes < 10_000
    told = 0
    while deaf.hear():
        told += 1
    assert 0 < told < changes
    assert "does not read" in caplog.text


# --- faults ----------------------------------------------------------------------------


def test_104_a_fault_in_an_operation_is_an_answer_and_shows_no_value(
    agent: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """What an unknown exception says may hold anything: neither peer nor log gets it."""

    class Faulty(Store):
        """Operations with a fault."""

        def keystore_get(self, name: str) -> bytes:
            """Fail with the value in the message."""
            raise KeyError(name, VALUE)

    agent.server._operations = Faulty()
    peer = agent.peer()
    assert peer.code("keystore.get", name="wallet") == "agent:fault"
    assert "KeyError at" in caplog.text
    assert VALUE.decode() not in caplog.text
    assert "result" in peer.ask("state")


def test_a_fault_at_one_peers_message_ends_that_peer_only(
    agent: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent goes on."""
    victim, other = agent.peer(), agent.peer()
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "decode_request", lambda _: 1 / 0)
        victim.say(OK)
        assert victim.hear() == b""
    assert "ZeroDivisionError at" in caplog.text
    assert "result" in other.ask("state")
    assert agent.server.alive


def test_104_no_value_is_logged_or_shown(agent: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Not at any level, and not by the repr of anything that holds one."""
    caplog.set_level(logging.DEBUG)
    peer = agent.peer()
    peer.ask("keystore.get", name="wallet")
    peer.ask("keystore.put", name="a", value=text(VALUE))
    assert "keystore.get by owner" in caplog.text
    put = protocol.PutParams(name="a", value=VALUE)
    held = agent_socket._Connection(peer.sock, APPLICATION, None, 1)  # type: ignore[arg-type]
    held.incoming += VALUE
    held.outgoing += VALUE
    shown = f"{caplog.text} {put!r} {put} {protocol.Value(VALUE)!r} {held!r} {agent.server!r}"
    for form in (VALUE.decode(), text(VALUE), VALUE.hex()):
        assert form not in shown
    assert "wallet" not in shown


def test_104_what_was_received_and_sent_is_overwritten() -> None:
    """A buffer that held a message holds zeros before it is let go."""
    line = protocol.encode_call(1, "keystore.put", protocol.PutParams(name="a", value=VALUE))
    view = line[:]
    request_ = protocol.decode_request(view)
    assert protocol.decode_params(request_, protocol.PutParams).value == VALUE
    protocol.wipe(view)
    assert view == bytes(len(line))
    protocol.erase(line, 5)
    assert line.startswith(b'nrpc"')
    protocol.erase(line)
    assert line == b""


# --- the socket's file -------------------------------------------------------------------


def test_the_file_is_there_while_it_is_served(tmp_path: Path) -> None:
    """With its mode, in a directory that others can enter, and alone."""
    before = os.umask(0o077)
    try:
        with served(tmp_path, mode=0o622) as agent:
            status = agent.path.lstat()
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o622
            assert stat.S_IMODE(agent.path.parent.stat().st_mode) == 0o755
            assert os.listdir(agent.path.parent) == ["agent.sock"]  # noqa: PTH208 - the names
    finally:
        os.umask(before)
    assert not agent.path.exists()
    assert not agent.server.alive


def test_102_nobody_can_connect_before_the_mode_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the socket lies in a directory that only its maker enters."""
    seen: list[int] = []
    chmod = type(tmp_path).chmod

    def look(path: Path, mode: int) -> None:
        if path.name == "s":
            seen.append(stat.S_IMODE(path.parent.stat().st_mode))
            assert not (path.parent.parent / "agent.sock").exists()
        chmod(path, mode)

    monkeypatch.setattr(type(tmp_path), "chmod", look)
    before = os.umask(0)
    try:
        with served(tmp_path):
            assert seen == [0o700]
    finally:
        os.umask(before)


@pytest.mark.parametrize("group", [None, os.getegid()])
def test_a_group_is_set_only_where_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int | None
) -> None:
    """A service whose system calls are filtered may have none that gives files away."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with served(tmp_path, group=group) as agent:
        assert agent.path.stat().st_gid == os.getegid()
    with pytest.raises(AgentSocketError) as refused, served(tmp_path, group=os.getegid() + 1):
        pass
    assert "socket_group" in str(refused.value.data["hint"])


def test_69_the_socket_of_a_living_agent_is_not_taken(agent: Served) -> None:
    """Two agents do not serve one device."""
    with pytest.raises(AgentRunningError) as refused:
        AgentSocket(agent.path, Store(), Permissions.resolved([])).__enter__()
    assert refused.value.code == "agent:running"
    assert "result" in agent.peer().ask("state")


def test_the_socket_that_a_dead_agent_left_is_replaced(tmp_path: Path) -> None:
    """After kill -9 the next start needs nobody's hand."""
    path = tmp_path / "run" / "agent.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with served(tmp_path) as agent:
        assert "result" in agent.peer().ask("state")


def test_what_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    """A path that was mistyped costs nobody a file."""
    path = tmp_path / "run" / "agent.sock"
    path.parent.mkdir()
    makers: tuple[Callable[[], object], ...] = (
        path.touch,
        lambda: path.symlink_to("/dev/null"),
        path.mkdir,
    )
    for make in makers:
        make()
        with pytest.raises(AgentSocketError) as refused, served(tmp_path):
            pass
        assert refused.value.code == "agent:socket"
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def test_102_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """They could put a socket of their own in the place."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(StatePermissionError), served(tmp_path):
        pass


def test_a_path_or_group_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """As an error of ours, before anything is made."""
    with pytest.raises(AgentSocketError), served(tmp_path / ("a" * 100)):
        pass
    with pytest.raises(ConfigError), served(tmp_path, group="no-group-of-this-name"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_socket_that_took_the_place_is_left_there(agent: Served, tmp_path: Path) -> None:
    """At its end the agent removes its own file, and no other."""
    agent.path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(agent.path))
        assert agent.server._listener is not None
        agent.server._listener.close()
        assert agent.path.exists()


PASSED = """
import os, socket, sys
sys.path[:0] = sys.argv[2:]
listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if sys.argv[1] == "good" else 2)
listening.bind("\\0hwtrust-test-%d" % os.getpid())
address = listening.getsockname()
os.dup2(listening.fileno(), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
from hwtrust.agent.listening import Listener
passed = Listener.passed(os.environ)
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(address)
    assert passed.socket.accept()
assert not os.get_inheritable(3) and "LISTEN_FDS" not in os.environ
assert Listener.passed(os.environ) is None
"""


@pytest.mark.parametrize(("kind", "code"), [("good", 0), ("datagrams", 1)])
def test_a_socket_that_the_service_manager_passes_on_is_served(kind: str, code: int) -> None:
    """As sd_listen_fds(3) says; what is no stream socket is refused."""
    ran = subprocess.run(
        [sys.executable, "-c", PASSED, kind, *sys.path],
        capture_output=True,
        check=False,
        pass_fds=(),
        text=True,
    )
    assert ran.returncode == code, ran.stderr
    assert ("AgentSocketError" in ran.stderr) is bool(code)
