"""A device's life by the `hwtrust` command alone, as the README tells it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

from hwtrust.cli import run
from hwtrust.device import Device, DeviceConfig
from hwtrust.tpm import commands
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.provision import make_storage_key, nv_indices, persistent_handles
from hwtrust.tpm.sessions import hmac_session
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.messages import Release
from hwtrust.wire.structures import PcrSelection
from hwtrust_backend.testing import DAY

if TYPE_CHECKING:
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.plugin import TpmFactory
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust_backend.testing import BackendServer

PROGRAM = Path(sys.executable).with_name("hwtrust")
LAYERS = ("kernel", "frontend")
SECRET = b"\x00\xff\n\r\n secret \x80"
"""No text: control characters, no UTF-8, spaces at the end and a newline inside."""


class Said(NamedTuple):
    """What a command printed."""

    out: str
    err: list[str]

    @property
    def document(self) -> dict[str, object]:
        """The JSON document on standard output, and nothing beside it."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


class Shell:
    """A directory in which somebody types `hwtrust` commands."""

    def __init__(
        self,
        home: Path,
        tpm: Swtpm,
        backend: BackendServer,
        capture: pytest.CaptureFixture[str],
    ) -> None:
        self.home = home
        self.tpm = tpm
        self.backend = backend
        self._capture = capture
        for name in LAYERS:
            (home / name).write_bytes(name.encode() * 100)
        (home / "trust.json").write_bytes(backend.trust_file.read_bytes())

    def run(self, *arguments: str, code: int = 0) -> Said:
        """Run one command; it ends in `code`."""
        self._capture.readouterr()
        ended = run(arguments)
        out, err = self._capture.readouterr()
        assert ended == code, err
        assert "Traceback" not in err
        if code not in {0, 3}:
            assert re.fullmatch(r"hwtrust: .+ \[[a-z:, -]+\]", err.splitlines()[-2])
            assert err.splitlines()[-1].startswith("hint: ")
        return Said(out, err.splitlines())

    def pipe(self, *arguments: str, given: bytes = b"") -> bytes:
        """Run one command as a process of its own, bytes in and bytes out."""
        done = subprocess.run(
            [PROGRAM, *arguments], input=given, capture_output=True, check=False, cwd=self.home
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def release(self) -> Release:
        """Measure the layers, and have the backend accept them as release 1.0."""
        layers = [f"{name}={self.home / name}" for name in LAYERS]
        document = self.run("measure", "--release", "1.0", *layers).out
        (self.home / "release.json").write_text(document)
        release = msgspec.json.decode(document, type=Release)
        self.backend.accept(release)
        return release

    @property
    def init_line(self) -> tuple[str, ...]:
        """What sets the device up."""
        layers = [f"--layer={name}={self.home / name}" for name in LAYERS]
        files = ("--trust", "trust.json", "--release", "release.json")
        return ("init", *files, *layers, "--tcti", self.tpm.tcti, "--tls-key", "attested")

    def init(self, *more: str, code: int = 0) -> Said:
        """Write the configuration."""
        return self.run(*self.init_line, *more, code=code)

    def token_file(self, token: str | None = None) -> str:
        """A file with a token, a new one if none is given."""
        path = self.home / "token"
        path.write_text((token or self.backend.token()) + "\n")
        return str(path)

    def enrol(self) -> str:
        """Set up and enrol; gives the device's name in hexadecimal."""
        self.release()
        self.init()
        enrolled = self.run("enrol", "--token-file", self.token_file(), "--json").document
        return str(enrolled["device"])


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are typed in the test's directory, and nobody hands a password over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def shell(
    tpm: Swtpm,
    backend: BackendServer,
    tpm_vendor: Vendor,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    """A directory with layers and a trust file, and a backend that trusts the TPM's vendor."""
    backend.add_ek_ca(tpm_vendor.ca_pem)
    return Shell(Path.cwd(), tpm, backend, capsys)


def extend(tcti: str, *pcrs: int) -> None:
    """What another program does that uses these PCRs."""
    digests = {Alg.SHA1: bytes(20), Alg.SHA256: bytes(32)}
    with Tpm(tcti) as tpm:
        salt, _ = make_storage_key(tpm, 0x81000099)
        with hmac_session(tpm, salt) as session:
            for pcr in pcrs:
                commands.pcr_extend(tpm, pcr, digests, session)
        commands.evict_control(tpm, tpm.at(salt), salt.handle)


# --- the story --------------------------------------------------------------------------


def test_the_whole_life_by_commands(shell: Shell) -> None:
    """From a TPM that nobody has looked at to a second root, every step as typed."""
    assert shell.run("tpm", "info", "--tcti", shell.tpm.tcti, "--json").document["p256"] is True
    shell.release()
    assert "PCR 8" in shell.init().out
    device = shell.run("enrol", "--token-file", shell.token_file()).out
    name = re.search(r"enrolled as ([0-9a-f]{68})", device)
    assert name
    booted = shell.run("boot").out
    assert "standing: trusted" in booted
    assert shell.run("keystore", "list", "--json").out.strip() == "[]"
    first = shell.run("status", "--json").document
    assert (first["device"], first["release"]) == (name[1], "1.0")
    shell.backend.rotate(bytes.fromhex(name[1]))
    rotated = shell.run("attest", "--json").document
    assert rotated["standing"] == "trusted"
    assert rotated["rotated_to"] == int(str(first["epoch"])) + 1
    second = shell.run("status", "--json").document
    assert second["epoch"] == second["counter"] == rotated["rotated_to"]
    shell.tpm.reboot()
    assert shell.run("boot", "--json").document["epoch"] == second["epoch"]


def test_every_command_that_prints_json_prints_json_alone(shell: Shell) -> None:
    """One document on standard output; words and traces go elsewhere."""
    shell.release()
    shell.init()
    lines = {
        "init": (*shell.init_line, "--force", "--json"),
        "enrol": ("enrol", "--token-file", shell.token_file(), "--json", "--trace"),
        "boot": ("boot", "--json", "--trace"),
        "attest": ("attest", "--json", "--trace"),
        "status": ("status", "--json"),
        "eventlog": ("eventlog", "--json"),
        "keystore list": ("keystore", "list", "--json"),
        "tpm info": ("tpm", "info", "--tcti", shell.tpm.tcti, "--json"),
    }
    printed = {title: json.loads(shell.run(*line).out) for title, line in lines.items()}
    kinds = {title: type(document) for title, document in printed.items()}
    assert kinds == dict.fromkeys(lines, dict) | {"eventlog": list, "keystore list": list}
    assert [event["event"] for event in printed["eventlog"]][:3] == ["layer", "layer", "cap"]


def test_words_are_printed_where_json_is_not_asked_for(shell: Shell) -> None:
    """Each command tells what it did, and the next step."""
    shell.release()
    assert "next: hwtrust enrol" in shell.init().out
    assert "next: hwtrust boot" in shell.run("enrol", "--token-file", shell.token_file()).out
    assert "nothing has been measured" in shell.run("eventlog").out
    assert "nothing yet" in shell.run("status").out
    assert "booted: root of epoch" in shell.run("boot", "--no-attest").out
    assert "standing: trusted" in shell.run("attest").out
    assert "kernel 1.0" in shell.run("eventlog").out
    assert "epoch" in shell.run("status").out
    assert "manufacturer" in shell.run("tpm", "info", "--tcti", shell.tpm.tcti).out


# --- init -------------------------------------------------------------------------------


def test_init_overwrites_nothing_unasked(shell: Shell) -> None:
    """An existing configuration stays, byte by byte, until --force."""
    shell.release()
    config = shell.home / "hwtrust.toml"
    config.write_text("mine")
    said = shell.init(code=9)
    assert config.read_text() == "mine"
    assert "--force" in said.err[-1]
    shell.init("--force")
    assert DeviceConfig.load(config).tpm.pcr == 8


def test_init_takes_the_first_pcr_that_is_free(shell: Shell) -> None:
    """PCRs that somebody has extended are passed over, and never shared."""
    shell.release()
    extend(shell.tpm.tcti, 8, 9)
    assert shell.init("--json").document["pcr"] == 10
    assert DeviceConfig.load(shell.home / "hwtrust.toml").tpm.pcr == 10


def test_init_refuses_a_pcr_that_is_in_use(shell: Shell) -> None:
    """The one that was asked for, or all of them; nothing is written."""
    shell.release()
    extend(shell.tpm.tcti, 8)
    assert shell.init("--pcr=8", code=4).err[0].endswith("[tpm:pcr:conflict]")
    extend(shell.tpm.tcti, *range(9, 16))
    assert shell.init(code=4).err[0].endswith("[tpm:pcr:conflict]")
    assert not (shell.home / "hwtrust.toml").exists()


def test_init_refuses_a_tpm_in_lockout(shell: Shell, tpm_factory: TpmFactory) -> None:
    """A device that is set up in lockout would fail later, with less to say."""
    shell.release()
    shell.tpm = tpm_factory(locked_out=True)
    assert shell.init(code=4).err[0].endswith("[tpm:lockout]")
    assert not (shell.home / "hwtrust.toml").exists()


def test_init_changes_nothing_in_the_tpm(shell: Shell) -> None:
    """Looking is free: no PCR, no handle, no clock is touched."""
    shell.release()
    with Tpm(shell.tpm.tcti) as tpm:
        before = inventory(tpm)
    shell.init()
    with Tpm(shell.tpm.tcti) as tpm:
        assert inventory(tpm) == before


def inventory(tpm: Tpm) -> tuple[object, ...]:
    """What is in a TPM."""
    pcrs = commands.pcr_read(tpm, PcrSelection.parse("sha1:all+sha256:all"))
    return nv_indices(tpm), persistent_handles(tpm), pcrs


# --- enrol ------------------------------------------------------------------------------


def test_a_token_is_read_from_standard_input(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--token-file -`: the token is in no file and on no command line (104)."""
    shell.release()
    shell.init()
    token = shell.backend.token()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(token.encode() + b"\n")))
    assert "enrolled as" in shell.run("enrol", "--token-file", "-").out


def test_a_wrong_token_ends_in_the_backends_exit_code_and_both_codes(shell: Shell) -> None:
    """42: exit code 5; that it was refused and why; the token itself is not shown."""
    shell.release()
    shell.init()
    said = shell.run("enrol", "--token-file", shell.token_file("guessed-token"), code=5)
    assert said.err[-2].endswith("[channel:refused, enrolment:token:refused]")
    assert "token create" in said.err[-1]
    assert "guessed-token" not in said.out + "".join(said.err)


def test_an_enrolled_device_is_not_enrolled_by_accident(shell: Shell) -> None:
    """Enrolling again costs the key store: it has to be asked for."""
    shell.enrol()
    shell.run("boot")
    shell.pipe("keystore", "put", "name", given=SECRET)
    said = shell.run("enrol", "--token-file", shell.token_file(), code=10)
    assert said.err[-2].endswith("[state:enrolled]")
    assert shell.pipe("keystore", "get", "name") == SECRET


def test_a_refused_new_enrolment_leaves_the_device_what_it_is(shell: Shell) -> None:
    """Nothing is given up before the backend believes EK and token."""
    shell.enrol()
    shell.run("boot")
    shell.pipe("keystore", "put", "name", given=SECRET)
    wrong = shell.token_file("guessed")
    said = shell.run("enrol", "--again", "--token-file", wrong, code=5)
    assert said.err[-2].endswith("[channel:refused, enrolment:token:refused]")
    assert shell.pipe("keystore", "get", "name") == SECRET
    assert "standing: trusted" in shell.run("attest").out
    shell.run("enrol", "--again", "--token-file", shell.token_file())
    assert "key store with 0 entries" in shell.run("boot").out


def test_enrolling_after_the_state_was_deleted_names_the_conflict(shell: Shell) -> None:
    """Handles that this state does not know of are taken: nothing is overwritten."""
    shell.enrol()
    shutil.rmtree(shell.home / "state")
    with Tpm(shell.tpm.tcti) as tpm:
        before = inventory(tpm)
    said = shell.run("enrol", "--token-file", shell.token_file(), code=4)
    assert said.err[-2].endswith("[tpm:object:conflict]")
    assert "handles" in said.err[-1]
    with Tpm(shell.tpm.tcti) as tpm:
        assert inventory(tpm) == before


def test_every_command_asks_for_the_enrolment_first(shell: Shell) -> None:
    """Exit code 10, and what to do."""
    shell.release()
    shell.init()
    for line in ("boot", "attest", "status", "keystore list", "keystore get x"):
        assert shell.run(*line.split(), code=10).err[-2].endswith("[state:not-enrolled]")


# --- what goes wrong later ----------------------------------------------------------------


def test_a_backend_that_is_away_is_exit_code_5(shell: Shell) -> None:
    """Booting needs nobody; attesting does."""
    shell.enrol()
    shell.run("boot")
    shell.backend.__exit__(None, None, None)
    shell.run("boot", "--no-attest")
    assert shell.run("attest", code=5).err[-2].endswith("[channel:unreachable]")


def test_a_changed_layer_is_exit_code_8_and_a_failed_standing_exit_code_3(shell: Shell) -> None:
    """The layer is named; what the backend thinks of it is the result, not an error."""
    shell.enrol()
    shell.run("boot")
    (shell.home / "frontend").write_bytes(b"changed")
    said = shell.run("boot", code=8)
    assert "frontend" in said.err[-2]
    assert said.err[-2].endswith("[layer:mismatch]")
    document = shell.run("attest", "--json", code=3).document
    assert document["standing"] == "failed"
    assert "log:violation" in str(document["findings"])
    assert "log:violation" in shell.run("attest", code=3).out


def test_a_failed_boot_says_what_the_device_is_and_what_the_backend_makes_of_it(
    shell: Shell,
) -> None:
    """The error keeps its exit code; beside it stands that the backend knows."""
    shell.enrol()
    (shell.home / "frontend").write_bytes(b"changed")
    said = shell.run("boot", code=8)
    assert said.err[-3].startswith("locked: the load failed at verify frontend")
    assert "has been told, and finds the device failed" in said.err[-3]
    assert said.err[-2].endswith("[layer:mismatch]")
    document = shell.run("status", "--json").document
    assert document["failure"] is None
    assert str(document["heard"]).startswith("{'mode': 'locked'")
    assert "locked, as heard" in shell.run("status").out


def test_status_shows_what_failed_while_the_backend_was_away(shell: Shell) -> None:
    """Until it has been told."""
    shell.enrol()
    (shell.home / "frontend").unlink()
    shell.backend.__exit__(None, None, None)
    said = shell.run("boot", code=8)
    assert "has not been told yet" in said.err[-3]
    assert "[channel:unreachable]" in said.err[-3]
    assert said.err[-2].endswith("[layer:unreadable]")
    assert "measure frontend" in shell.run("status").out
    failure = shell.run("status", "--json").document["failure"]
    assert isinstance(failure, dict)
    assert (failure["step"], failure["code"]) == ("measure", "layer:unreadable")


def test_a_root_that_has_expired_is_exit_code_6_and_attesting_recovers(shell: Shell) -> None:
    """The hint is what helps."""
    shell.enrol()
    shell.run("boot")
    until = int(str(shell.run("status", "--json").document["not_after_ms"]))
    with Tpm(shell.tpm.tcti) as tpm:
        commands.clock_set(tpm, until)
    shell.tpm.reboot()
    assert "EXPIRED" in shell.run("status").out
    said = shell.run("boot", code=6)
    assert said.err[-2].endswith("[root:expired]")
    assert "attest" in said.err[-1]
    shell.run("attest")
    shell.run("boot")


def test_a_device_that_was_away_boots_for_its_next_root(shell: Shell) -> None:
    """`attest` alone brings the next root in, though the device has not booted."""
    shell.enrol()
    shell.run("boot")
    shell.pipe("keystore", "put", "name", given=SECRET)
    first = int(str(shell.run("status", "--json").document["epoch"]))
    shell.backend.clock.advance(60 * DAY)
    shell.tpm.reboot()
    assert shell.run("attest", "--json").document["rotated_to"] == first + 1
    assert shell.pipe("keystore", "get", "name") == SECRET


def test_a_device_in_use_is_exit_code_10(shell: Shell) -> None:
    """69: an agent holds the device; a command does not meddle."""
    shell.enrol()
    with Device.open(DeviceConfig.load(shell.home / "hwtrust.toml")):
        assert shell.run("boot", code=10).err[-2].endswith("[state:busy]")


# --- the key store --------------------------------------------------------------------------


def test_a_value_comes_out_as_it_went_in(shell: Shell) -> None:
    """Bytes by standard input or a file, bytes by standard output: nothing is text."""
    shell.enrol()
    shell.pipe("keystore", "put", "piped", given=SECRET)
    (shell.home / "value").write_bytes(SECRET[::-1])
    shell.run("keystore", "put", "filed", "--file", str(shell.home / "value"))
    shell.pipe("keystore", "put", "empty", given=b"")
    assert shell.pipe("keystore", "get", "piped") == SECRET
    assert shell.pipe("keystore", "get", "filed") == SECRET[::-1]
    assert shell.pipe("keystore", "get", "empty") == b""


def test_entries_are_listed_replaced_and_deleted(shell: Shell) -> None:
    """Names, versions and sizes; a missing entry is exit code 7."""
    shell.enrol()
    shell.pipe("keystore", "put", "name", given=b"one")
    shell.pipe("keystore", "put", "name", given=b"three")
    (entry,) = json.loads(shell.run("keystore", "list", "--json").out)
    assert (entry["name"], entry["version"], entry["size"]) == ("name", 2, 5)
    assert "name" in shell.run("keystore", "list").out
    shell.run("keystore", "delete", "name")
    for line in ("get", "delete"):
        ended = run(["keystore", line, "name"])
        assert ended == 7
    assert json.loads(shell.run("keystore", "list", "--json").out) == []


def test_no_secret_is_printed_but_by_get(shell: Shell) -> None:
    """104: neither results nor traces nor errors show a value, a token or a key."""
    shell.release()
    shell.init()
    secret, token = b"correct horse battery staple", shell.backend.token()
    path = shell.token_file(token)
    (shell.home / "value").write_bytes(secret)
    said = [
        shell.run("enrol", "--token-file", path, "--trace"),
        shell.run("keystore", "put", "name", "--file", "value"),
        shell.run("boot", "--trace"),
        shell.run("attest", "--trace"),
        shell.run("status", "--json"),
        shell.run("keystore", "list"),
    ]
    (shell.home / "kernel").write_bytes(b"changed")
    said.append(shell.run("keystore", "get", "name", code=8))
    shown = "".join(item.out + "".join(item.err) for item in said)
    assert "TPM2_Unseal" in shown
    for hidden in (secret.decode(), secret.hex(), token):
        assert hidden not in shown


def test_an_open_device_shows_no_secret_of_its_own(shell: Shell) -> None:
    """104: what a traceback or a log would print of a device holds no key and no value."""
    shell.enrol()
    with Device.open(DeviceConfig.load(shell.home / "hwtrust.toml")) as device:
        store = device.boot()
        store.put("name", b"correct horse battery staple")
        device.attest()
        context = device._context
        client_key = context.client_key
        assert client_key is not None
        shown = repr(device) + repr(context) + repr(store) + repr(client_key)
        private = client_key.key_pem().split(b"\n")[1].decode()
    assert "horse" not in shown
    assert private not in shown


def test_the_environment_names_the_configuration(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HWTRUST_CONFIG stands for --config, from any directory."""
    name = shell.enrol()
    monkeypatch.setenv("HWTRUST_CONFIG", str(shell.home / "hwtrust.toml"))
    monkeypatch.chdir(os.sep)
    assert shell.run("status", "--json").document["device"] == name
