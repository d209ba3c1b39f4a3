"""The application's side of the agent's socket, and the document for other languages."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hwtrust
from hwtrust import errors
from hwtrust.agent import client as agent_client
from hwtrust.agent import protocol
from hwtrust.agent.client import AgentClient
from hwtrust.agent.methods import METHODS
from hwtrust.agent.permissions import Permission
from hwtrust.errors import (
    AgentError,
    AgentForbiddenError,
    AgentFullError,
    AgentImpostorError,
    AgentLimitError,
    AgentRequestError,
    AgentSealedError,
    AgentTimeoutError,
    AgentUnreachableError,
    EntryNotFoundError,
    HwTrustError,
    KeyStoreLockedError,
    all_errors,
)
from unit.agent.served import APPLICATION, LOCKED, VALUE, Raw, allow, peers_are, served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from unit.agent.served import Served

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "agent-protocol.md"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Served]:
    """A socket that is served."""
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def client(agent: Served) -> Iterator[AgentClient]:
    """A client of it."""
    with AgentClient(agent.path) as made:
        yield made


# --- what it does ------------------------------------------------------------------------


def test_the_key_store_is_used_as_the_librarys_own(agent: Served, client: AgentClient) -> None:
    """What the two have in common has the same names."""
    store = client.keystore
    entry = store.put("new", b"\0\xff")
    assert (entry.name, entry.version, entry.size) == ("new", 1, 2)
    assert store["new"] == store.get("new") == b"\0\xff"
    assert store.list("n") == (entry,)
    assert list(store) == ["new", "payments/a/b", "payments/pin", "wallet"]
    assert len(store) == 4
    assert "new" in store
    store.delete("new")
    assert "new" not in store
    assert store.get("new") is None
    assert store.get("new", b"default") == b"default"
    with pytest.raises(EntryNotFoundError):
        store.delete("new")
    assert "new" not in agent.store.values


def test_entries_are_used_without_being_read(client: AgentClient) -> None:
    """HMAC, derived key, sealed message."""
    store = client.keystore
    assert len(store.hmac("wallet", b"data")) == 32
    assert store.derive("wallet", "a") != store.derive("wallet", "b")
    assert len(store.derive("wallet", "a", size=64)) == 64
    sealed = store.seal("wallet", b"data", context=b"order 7")
    assert store.open("wallet", sealed, context=b"order 7") == b"data"
    with pytest.raises(AgentSealedError) as refused:
        store.open("wallet", sealed, context=b"order 8")
    assert refused.value.code == "agent:sealed"


def test_state_event_and_attestation(agent: Served, client: AgentClient) -> None:
    """What an application asks for."""
    agent.store.gate.set()
    assert client.state().state == "normal"
    assert client.event("transaction", detail="order 7") is True
    attested = client.attest()
    assert (attested.standing, attested.mode, attested.findings) == ("trusted", "normal", ())


def test_watching_tells_the_present_and_every_change(agent: Served, client: AgentClient) -> None:
    """A connection of its own: the client stays of use meanwhile."""
    watch = client.watch()
    assert next(watch).state == "normal"
    agent.server.publish(LOCKED)
    assert client.keystore["wallet"] == VALUE
    told = next(watch)
    assert (told.state, told.layer, told.code) == ("locked", "kernel", "layer:mismatch")
    watch.close()  # type: ignore[attr-defined]
    while len(agent.connections()) > 1:
        pass


def test_who_watches_an_agent_that_ends_is_told_so(tmp_path: Path) -> None:
    """Nothing is known of the device any more; that is no reason to go on."""
    with served(tmp_path) as agent:
        watch = AgentClient(agent.path).watch()
        next(watch)
    with pytest.raises(AgentUnreachableError) as ended:
        next(watch)
    assert ended.value.code == "agent:unreachable"


def test_several_threads_may_use_one_client(client: AgentClient) -> None:
    """Each gets its own answer."""
    wrong: list[str] = []

    def work(number: int) -> None:
        name, value = f"n{number}", bytes([number]) * 100
        client.keystore.put(name, value)
        wrong.extend(name for _ in range(30) if client.keystore[name] != value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_client_finds_an_agent_that_was_started_anew(tmp_path: Path) -> None:
    """The call that failed is not repeated; the next one connects."""
    client = AgentClient(tmp_path / "run" / "agent.sock")
    with served(tmp_path):
        assert client.state().state == "normal"
    for _ in range(2):
        with pytest.raises(AgentUnreachableError):
            client.state()
    with served(tmp_path):
        assert client.state().state == "normal"
        client.close()
        assert client.state().state == "normal"
    client.close()


# --- errors ------------------------------------------------------------------------------


def test_an_error_of_the_agent_is_raised_as_the_librarys(
    agent: Served, client: AgentClient
) -> None:
    """Type, code and hint; a caller need not know where the key store is."""
    agent.store.locked = True
    with pytest.raises(KeyStoreLockedError) as refused:
        client.keystore["wallet"]
    assert refused.value.code == "keystore:locked"
    assert refused.value.data["hint"] == "boot the device first"
    with pytest.raises(AgentRequestError):
        client.keystore.derive("wallet", "a", size=1)


def test_every_error_of_the_tree_passes_the_socket() -> None:
    """An error of any class arrives as that class, with what the protocol carries of it."""
    assert len(all_errors()) > 100
    for kind in all_errors().values():
        line = protocol.encode_error(7, kind("what happened", reason="r", problem="p", secret="s"))
        reply = protocol.decode_reply(bytes(line))
        assert reply.error is not None
        arrived = agent_client._raised(reply.error)
        assert type(arrived) is kind
        assert arrived.message == "what happened"
        assert (arrived.data["reason"], arrived.data["problem"]) == ("r", "p")
        assert arrived.data.get("hint", "") == kind.hint
        assert "secret" not in arrived.data


def test_an_error_of_a_later_agent_is_an_agents_error() -> None:
    """An unknown code is kept beside."""
    failure = protocol.Failure(-32000, "new", protocol.Problem("agent:new-thing"))
    error = agent_client._raised(failure)
    assert type(error) is AgentError
    assert error.data == {"problem": "agent:new-thing"}


def test_a_refused_application_gets_the_refusal(tmp_path: Path) -> None:
    """Forbidden, too many, too long: each its own error."""
    with (
        served(tmp_path, allow("read", entries=("a",))) as agent,
        peers_are(APPLICATION),
        AgentClient(agent.path) as client,
    ):
        with pytest.raises(AgentForbiddenError):
            client.keystore["wallet"]
        with pytest.raises(AgentLimitError):
            client.keystore.put("a", bytes(1 << 20))
        with pytest.raises(AgentForbiddenError):
            client.keystore["wallet"]
        others = [agent.peer() for _ in range(15)]
        assert all("result" in other.ask("state") for other in others)
        with AgentClient(agent.path) as late, pytest.raises(AgentFullError):
            late.state()


def test_without_an_agent_the_error_says_so(tmp_path: Path) -> None:
    """No file, a file that nobody serves, a path that cannot be one."""
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(dead))
    for path in (tmp_path / "none", dead, tmp_path / ("a" * 200), tmp_path):
        with pytest.raises(AgentUnreachableError) as refused:
            AgentClient(path).state()
        assert refused.value.code == "agent:unreachable"


def test_an_agent_that_does_not_answer_is_not_waited_for(agent: Served, tmp_path: Path) -> None:
    """Nor one that takes no connection; a late answer is not that of the next call."""
    with AgentClient(agent.path, slow_timeout=0.05) as client:
        with pytest.raises(AgentTimeoutError) as late:
            client.attest()
        assert late.value.code == "agent:timeout"
        agent.store.gate.set()
        assert client.state().state == "normal"
    deaf = tmp_path / "deaf"
    with socket.socket(socket.AF_UNIX) as bound, socket.socket(socket.AF_UNIX) as first:
        bound.bind(str(deaf))
        bound.listen(0)
        first.connect(str(deaf))
        with pytest.raises(AgentTimeoutError):
            AgentClient(deaf, timeout=0.05).state()


def answered_by(tmp_path: Path, *lines: bytes) -> AgentClient:
    """A client of something that answers with these lines, and hangs up."""
    path = tmp_path / "odd.sock"
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    bound.listen()

    def serve() -> None:
        with bound, bound.accept()[0] as peer:
            peer.recv(1 << 16)
            for line in lines:
                try:
                    peer.sendall(line)
                except OSError:
                    return

    threading.Thread(target=serve).start()
    return AgentClient(path)


ANSWERS = {
    "no JSON": (b"hello\n", "agent:reply"),
    "invalid UTF-8": (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}\n', "agent:reply"),
    "an answer to something else": (
        b'{"jsonrpc":"2.0","id":2,"result":{"state":"normal"}}\n',
        "agent:reply",
    ),
    "an answer to nobody": (
        b'{"jsonrpc":"2.0","id":null,"result":{"state":"normal"}}\n',
        "agent:reply",
    ),
    "neither result nor error": (b'{"jsonrpc":"2.0","id":1}\n', "agent:reply"),
    "another result": (b'{"jsonrpc":"2.0","id":1,"result":{"value":1}}\n', "agent:reply"),
    "deep nesting": (b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 50_000 + b"\n", "agent:reply"),
    "no end": (b"x" * (4 * protocol.VALUE_LINE), "agent:reply"),
    "nothing": (b"", "agent:unreachable"),
    "half a line": (b'{"jsonrpc":"2.0"', "agent:unreachable"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_none_is_an_error_of_ours(tmp_path: Path, case: str) -> None:
    """Whatever serves at the socket, nothing from outside the tree is raised."""
    line, code = ANSWERS[case]
    with answered_by(tmp_path, line) as client, pytest.raises(HwTrustError) as refused:
        client.state()
    assert refused.value.code == code


IMPOSTOR = """
import os, socket, sys
os.setgid(41711); os.setuid(41711)
with socket.socket(socket.AF_UNIX) as sock:
    sock.bind(sys.argv[1])
    sock.listen()
    print("ready", flush=True)
    print(sock.accept()[0].recv(1000))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_102_somebody_else_at_the_socket_is_told_nothing() -> None:
    """In a directory where everybody may write, whoever comes first has the socket."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    directory.chmod(0o1777)
    path = directory / "agent.sock"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", IMPOSTOR, str(path)], stdout=subprocess.PIPE
    ) as impostor:
        assert impostor.stdout is not None
        assert impostor.stdout.readline() == b"ready\n"
        with pytest.raises(AgentImpostorError) as refused:
            AgentClient(path).keystore.put("a", VALUE)
        assert refused.value.data["uid"] == 41711
        assert impostor.stdout.read() == b"b''\n"
    shutil.rmtree(directory)


# --- secrets, weight ---------------------------------------------------------------------


def test_104_a_value_is_in_no_traceback_of_the_client(
    agent: Served, client: AgentClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even in one that shows the variables of every frame."""
    agent.store.values.clear()

    def failing_put() -> None:
        client.keystore.put("a" * 256, bytes(VALUE))

    def failing_seal() -> None:
        client.keystore.seal("a", bytes(VALUE))

    for fail in (failing_put, failing_seal):
        shown = report(fail) + caplog.text
        assert "client.py" in shown
        assert "self = " in shown
        for form in (repr(VALUE)[2:-1], b64encode(VALUE).decode()):
            assert form not in shown


def report(fail: Callable[[], None]) -> str:
    """All that is known of the error that `fail` ends in, the variables of all frames included."""
    with pytest.raises(HwTrustError) as refused:
        fail()
    logging.getLogger("test").error("it failed", exc_info=refused.value)
    found = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    return "".join(found.format())


def test_the_client_loads_no_tpm_stack_and_no_cipher() -> None:
    """An application that asks an agent pays for asking."""
    code = (
        "import sys, hwtrust; assert 'hwtrust.agent' not in sys.modules; "
        "hwtrust.AgentClient('x').keystore; print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    loaded = set(ran.stdout.split())
    assert "hwtrust.agent.client" in loaded
    heavy = {"tpm2_pytss", "cryptography", "pyudev", "asyncio", "tuf", "concurrent.futures"}
    assert not heavy & loaded
    assert not {"hwtrust.device", "hwtrust.keys", "hwtrust.tpm", "hwtrust.agent.service"} & loaded
    assert hwtrust.AgentClient is AgentClient


# --- the document ------------------------------------------------------------------------


def test_the_document_names_every_method_permission_and_error() -> None:
    """A table that lacks one is found here."""
    text = DOCUMENT.read_text()
    for name in (*METHODS, "state", "watch", *map(str, Permission)):
        assert f"`{name}`" in text, name
    for code, error in errors.all_errors().items():
        name = error.__name__
        if name.startswith("Agent") and name not in {"AgentError", "AgentStoppedError"}:
            assert f"`{code}`" in text, name
    for number in (protocol.PLAIN_LINE, protocol.VALUE_LINE):
        assert f"{number:,}" in text


def test_the_transcript_of_the_document_is_what_is_said(agent: Served) -> None:
    """Raw bytes, line by line: → is sent, ← is what comes back."""
    block = re.search(r"```text\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block is not None
    said = 0
    agent.store.values["payments/pin"] = b"0123456789abcdef"
    with Raw(agent.path) as peer:
        for line in block[1].splitlines():
            arrow, _, text = line.partition(" ")
            if arrow == "→":
                peer.say(text.encode() + b"\n")
                said += 1
            elif arrow == "←":
                assert json.loads(peer.hear()) == json.loads(text)
            else:
                assert line == "(the kernel layer is changed)"
                agent.server.publish(LOCKED)
    assert said >= 4


@pytest.mark.skipif(shutil.which("perl") is None, reason="the example is in Perl")
def test_the_example_in_another_language_works(agent: Served) -> None:
    """It has no library of ours, and reads an entry."""
    block = re.search(r"```perl\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block is not None
    ran = subprocess.run(
        ["perl", "-", str(agent.path), "payments/pin"],
        input=block[1].encode(),
        capture_output=True,
        check=True,
    )
    assert ran.stdout == VALUE
    with pytest.raises(subprocess.CalledProcessError) as refused:
        subprocess.run(
            ["perl", "-", str(agent.path), "nothing"],
            input=block[1].encode(),
            capture_output=True,
            check=True,
        )
    assert b"keystore:entry:missing" in refused.value.stderr
