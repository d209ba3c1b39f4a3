"""Administration on the backend's own machine: the commands do what the API does."""

from __future__ import annotations

import csv
import io
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust_backend.admin.principals import Role, authenticate
from hwtrust_backend.audit import AuditRecord
from hwtrust_backend.cli import main
from hwtrust_backend.config import system_clock
from hwtrust_backend.db import Database
from simulators.backend_shell import Shell
from simulators.device_rows import add_device, add_enclave, add_groups, device_name
from simulators.ek_authority import EkAuthority
from simulators.enclaves import MACHINES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line of an installed backend with three devices."""
    made = Shell(tmp_path / "data", capsys)
    made.run("init", "--generate-passphrase", str(tmp_path / "passphrase"))
    with opened(made) as database, database.transaction() as session:
        add_groups(session, "eu")
        add_device(session, 1)
        add_device(session, 2, label="hall 2", silent_since=1)
        add_device(session, 3, group="eu")
    return made


@contextmanager
def opened(shell: Shell) -> Iterator[Database]:
    """The backend's database."""
    database = Database(f"sqlite:///{shell.data / 'backend.sqlite'}")
    yield database
    database.close()


def names(rows: list[dict[str, Any]]) -> set[str]:
    """The devices of a list."""
    return {row["device"] for row in rows}


def test_an_enclave_is_listed_by_its_kind_and_shown_with_its_facts(shell: Shell) -> None:
    """In words for people, as they are for programs; nothing of a TPM is said of it."""
    with opened(shell) as database, database.transaction() as session:
        add_enclave(session, 4, MACHINES["nitro"])
    assert names(shell.json("devices", "--kind", "nitro")) == {device_name(4)}
    assert {row["kind"] for row in shell.json("devices", "--kind", "tpm")} == {"tpm"}
    shell.run("devices", "--kind", "vax", code=2)
    report = shell.json("device", device_name(4))
    assert (report["summary"]["kind"], report["facts"]["debug"]) == ("nitro", False)
    said, _ = shell.run("device", device_name(4))
    for words in ("AWS Nitro Enclave (nitro)", "launch measurement", "what this kind does not do"):
        assert words in said
    assert "application PCR" not in said
    of_tpm, _ = shell.run("device", device_name(1))
    assert "application PCR" in of_tpm
    assert "what this kind does not do" not in of_tpm


def test_devices_are_searched_filtered_and_limited(shell: Shell) -> None:
    """A list that was cut says so, and where the rest is."""
    everything = {device_name(number) for number in (1, 2, 3)}
    assert names(shell.json("devices")) == everything
    assert names(shell.json("devices", "--search", "HALL")) == {device_name(2)}
    assert names(shell.json("devices", "--overdue")) == {device_name(2)}
    assert names(shell.json("devices", "--group", "eu")) == {device_name(3)}
    assert shell.json("devices", "--standing", "failed") == []
    out, err = shell.run("devices", "--limit", "1")
    assert len(out.splitlines()) == 2
    assert "--all" in err
    assert names(shell.json("devices", "--limit", "1", "--all")) == everything
    assert "hall 2" in shell.run("devices")[0]
    shell.run("devices", "--standing", "superb", code=2)
    assert "policy list" in shell.run("devices", "--group", "moon", code=1)[1]


def test_a_device_is_labelled_moved_locked_and_retired(shell: Shell) -> None:
    """Each command says what has become of the device, and leaves a record of its user."""
    name = device_name(1)
    assert shell.json("label", name[:20], "line 3")["label"] == "line 3"
    assert shell.json("move", name, "eu")["group"] == "eu"
    shell.run("move", name, "moon", code=1)
    shell.run("lock", name, code=2)
    assert shell.json("lock", name, "--reason", "stolen")["mode"] == "locked"
    assert "stolen" in shell.run("device", name)[0]
    assert shell.json("rotate", name)["rotation_asked_at"] > 0
    assert shell.json("unlock", name)["locked_at"] is None
    shell.run("unlock", name, code=1)
    assert shell.json("retire", name, "--reason", "sold")["retired_at"] > 0
    assert name not in names(shell.json("devices"))
    assert names(shell.json("devices", "--retired")) == {name}
    assert "readmit" in shell.run("rotate", name, code=1)[1]
    shell.run("readmit", name, "--reason", "it is back")
    with opened(shell) as database, database.reading() as session:
        records = session.query(AuditRecord).filter_by(device=name).all()
    assert len(records) == 7
    assert all(row.actor.startswith("cli:") for row in records)


def test_the_first_api_token_is_made_on_the_machine(shell: Shell) -> None:
    """It is printed once, alone on standard output, and is as good as it was asked for."""
    arguments = ("api-token", "create", "--name", "ci", "--role", "operator", "--expires", "90d")
    out, err = shell.run(*arguments, "--group", "eu")
    token = out.strip()
    with opened(shell) as database, database.reading() as session:
        principal = authenticate(session, token, now=system_clock())
    assert (principal.name, principal.role) == ("token:ci", Role.OPERATOR)
    assert principal.groups == frozenset({"eu"})
    assert token not in err
    assert token not in shell.run("api-token", "list")[0]
    shell.run(*arguments, code=1)
    shell.run("api-token", "create", "--name", "x", "--role", "viewer", code=2)
    shell.run("api-token", "create", "--name", "x", "--role", "viewer", "--expires", "400d", code=1)
    assert shell.json("api-token", "revoke", "ci")["state"] == "revoked"
    assert [row["state"] for row in shell.json("api-token", "list")] == ["revoked"]


def test_an_enrolment_token_is_for_a_group_and_a_number_of_devices(shell: Shell) -> None:
    """What a token allows is in the list."""
    shell.run("token", "create", "--uses", "20", "--group", "eu")
    shell.run("token", "create", "--expires", "400d", code=1)
    (row,) = shell.json("token", "list")
    assert (row["group"], row["uses"], row["uses_allowed"]) == ("eu", 0, 20)


def test_an_allow_list_goes_in_and_out_as_a_file(shell: Shell, tmp_path: Path) -> None:
    """A file with a bad line is refused whole, and the line is named."""
    file = tmp_path / "list.csv"
    file.write_text(f"{device_name(7)},x,eu\nnothing\n")
    _, err = shell.run("ek", "import", str(file), code=1)
    assert "line 2" in err
    assert shell.json("ek", "list") == []
    file.write_text(f"{device_name(7)},x,eu\n")
    assert shell.json("ek", "import", str(file)) == {"added": 1, "changed": 0, "unchanged": 0}
    exported = list(csv.reader(shell.run("ek", "export")[0].splitlines()))
    assert exported == [["name", "label", "group"], [device_name(7), "x", "eu"]]


def test_a_vendors_cas_are_added_listed_and_removed(shell: Shell, tmp_path: Path) -> None:
    """A CA below a root is an anchor only where that is said."""
    file = tmp_path / "ca.der"
    file.write_bytes(EkAuthority.new().intermediate.der)
    added = shell.json("ek-ca", "add", str(file), "--anchor", "--label", "odd vendor")
    assert (added["roots"], added["intermediates"]) == (1, 0)
    listed = shell.json("ek-ca", "list")
    assert [row["kind"] for row in listed["authorities"]] == ["anchors"]
    assert len(listed["roots"]) == 1
    assert "odd vendor" in shell.run("ek-ca", "list")[0]
    shell.run("ek-ca", "remove", added["id"])
    shell.run("ek-ca", "remove", added["id"], code=1)
    assert shell.json("ek-ca", "list")["roots"] == []
    shell.run("ek-ca", "add", str(file), "--anchor", "--crl", code=2)


def test_an_auditor_gets_files(shell: Shell) -> None:
    """One line for each device, in either form."""
    head, *rows = csv.reader(shell.run("export", "devices")[0].splitlines())
    assert {dict(zip(head, row, strict=True))["device"] for row in rows} == {
        device_name(number) for number in (1, 2, 3)
    }
    lines = shell.run("export", "devices", "--format", "jsonl")[0].splitlines()
    assert {json.loads(line)["device"] for line in lines} == {row[0] for row in rows}
    assert shell.run("export", "policies", "--format", "jsonl")[0].count("\n") == 1
    assert shell.run("export", "roots")[0].startswith("device,epoch,state")
    assert shell.run("export", "roots", "--format", "jsonl")[0] == ""


def test_an_argument_that_is_no_text_is_wrong_usage(shell: Shell) -> None:
    """No database keeps bytes that are no UTF-8; nothing is changed by them."""
    bad = "caf\udce9"
    for arguments in (
        ("label", device_name(1), bad),
        ("lock", device_name(1), "--reason", bad),
        ("devices", "--search", bad),
        ("ek", "allow", bad),
        ("release", "accept", bad),
        ("token", "create", "--group", bad),
        (
            *("api-token", "create", "--name", "x", "--role", "viewer"),
            *("--expires", "1d", "--group", bad),
        ),
    ):
        assert "no UTF-8" in shell.run(*arguments, code=2)[1]


def test_a_text_that_a_terminal_would_obey_is_refused(shell: Shell) -> None:
    """Control characters of either range, and line breaks: what is shown is one line."""
    for text in ("a\nb", "a\x1b[31m", "a\x7f", "a\x9b31m", "a\x85b"):
        assert "one line" in shell.run("label", device_name(1), text, code=1)[1]
    assert shell.json("label", device_name(1), "Größe Ω")["label"] == "Größe Ω"


def test_a_list_that_cannot_be_written_says_so(
    shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal that has no such letter ends in a message, in no traceback."""
    shell.run("label", device_name(1), "Größe Ω")
    with capsys.disabled(), monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        with pytest.raises(SystemExit) as caught:
            main(["--data", str(shell.data), "export", "devices"])
    assert caught.value.code == 1
