"""Settings: no misspelt name and no absent policy passes silently."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.errors import ConfigError, ReadOnlyError
from hwtrust_backend.admin.principals import local_administrator
from hwtrust_backend.admin.switches import read_only_state, switch_read_only
from hwtrust_backend.app.caller import trusted_peers
from hwtrust_backend.app.server import check_settings, listening_socket
from hwtrust_backend.app.serving import ReadOnly
from hwtrust_backend.cli import main
from hwtrust_backend.config import (
    CONFIG_NAME,
    Settings,
    load_settings,
    make_private_directory,
    parse_span,
    settings_text,
    spell_span,
    write_file,
)
from hwtrust_backend.config.reference import all_settings, settings_in_force
from hwtrust_backend.config.settings import NOT_SETTINGS
from hwtrust_backend.db import Database
from hwtrust_backend.testing import DAY, HOUR, MINUTE, SECOND

if TYPE_CHECKING:
    from hwtrust_backend.app.backend import Backend


def load(directory: Path, text: str, **environ: str) -> object:
    """The settings that a file and an environment give."""
    (directory / CONFIG_NAME).write_text(text)
    return load_settings(directory, file=None, environ=environ)


def test_what_init_writes_is_what_is_read(tmp_path: Path) -> None:
    """The file that is written spells out the settings that were chosen."""
    (tmp_path / CONFIG_NAME).write_text('url = "https://b.example:1"\nlisten = "127.0.0.1:1"\n')
    chosen = load_settings(tmp_path, file=None, environ={})
    (tmp_path / CONFIG_NAME).write_text(settings_text(chosen))
    assert load_settings(tmp_path, file=None, environ={}) == chosen
    assert chosen.url == "https://b.example:1"


def test_init_writes_down_which_database_it_has_made(tmp_path: Path) -> None:
    """A later command without the variable would show an empty fleet; no password is copied."""
    for url, is_written in (
        ("postgresql://hwtrust@db.example/hwtrust?passfile=/etc/pgpass", True),
        ("postgresql://hwtrust:s3cret@db.example/hwtrust", False),
        ("postgresql://db.example/hwtrust?user=u&password=s3cret", False),
    ):
        text = settings_text(Settings(data_dir=str(tmp_path), database=url))
        assert (url in text) is is_written
        assert "s3cret" not in text


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    """Spans, lists, numbers and nested settings can come from variables."""
    (tmp_path / CONFIG_NAME).write_text('certificate_tpm = "10d"\n')
    environ = {
        "HWTRUST_BACKEND_CERTIFICATE_TPM": "12h",
        "HWTRUST_BACKEND_TRUSTED_PROXIES": "10.1.2.3, unix",
        "HWTRUST_BACKEND_BODY_LIMIT": "5000",
        "HWTRUST_BACKEND_PASSPHRASE_FILE": "/somewhere",
        "HWTRUST_BACKEND_DATA_DIR": "/elsewhere",
        "UNRELATED": "x",
    }
    settings = load_settings(tmp_path, file=None, environ=environ)
    assert settings.certificate_tpm_ms == 12 * HOUR
    assert settings.trusted_proxies == ("10.1.2.3", "unix")
    assert settings.body_limit == 5000
    assert settings.data_dir == str(tmp_path)


OIDC = """
[oidc]
issuer = "https://id.example"
client_id = "hwtrust"
administrators = ["admins"]
"""

BAD = {
    "a misspelt name": 'lissen = "127.0.0.1:1"',
    "a policy's field": 'tls_keys = ["tpm"]',
    "no TOML": "url = ",
    "a bare number for a span": "certificate_tpm = 30",
    "milliseconds": "certificate_tpm_ms = 30",
    "a span of nothing": 'certificate_tpm = "0d"',
    "a span without a unit": 'certificate_tpm = "30"',
    "plain HTTP": 'url = "http://b.example"',
    "no port": 'listen = "127.0.0.1"',
    "a port that is none": 'listen = "127.0.0.1:99999"',
    "a certificate without a key": 'server_certificate = "cert.pem"',
    "a proxy by name": 'trusted_proxies = ["proxy.example"]',
    "a body limit of nothing": "body_limit = 0",
    "a number of many digits": "body_limit = " + "9" * 5_000,
    "an address that is cut short": 'url = "https://[::1"',
    "an issuer that is cut short": '[oidc]\nissuer = "https://[::1"\nclient_id = "x"',
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_setting_is_an_error(tmp_path: Path, case: str) -> None:
    """Whatever is not understood stops the backend."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, BAD[case])
    assert caught.value.code == "config"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HWTRUST_BACKEND_TLS_KEY", "tpm"),
        ("HWTRUST_BACKEND_BODY_LIMIT", "many"),
        ("HWTRUST_BACKEND_CLOCK_LAG", "1m"),
    ],
)
def test_a_wrong_variable_is_an_error(tmp_path: Path, name: str, value: str) -> None:
    """The environment is held to the same rules."""
    with pytest.raises(ConfigError):
        load(tmp_path, "", **{name: value})


NAMED = {
    "a misspelt name": ("databse = 1", {}, "databse", CONFIG_NAME),
    "a misspelt name in a table": ("[rates]\nadress = 1", {}, "rates.adress", CONFIG_NAME),
    "a table that is none": ("rates = 1", {}, "rates", CONFIG_NAME),
    "a span out of bounds": ('result_lifetime = "2d"', {}, "result_lifetime", CONFIG_NAME),
    "a span without a unit": ('shutdown_timeout = "10"', {}, "shutdown_timeout", CONFIG_NAME),
    "a bare number for a span": ("shutdown_timeout = 10", {}, "shutdown_timeout", CONFIG_NAME),
    "a number in a table": ("[rates]\ntotal = -1", {}, "rates.total", CONFIG_NAME),
    "a variable over a good file": (
        "workers = 2",
        {"HWTRUST_BACKEND_WORKERS": "many"},
        "workers",
        "HWTRUST_BACKEND_WORKERS",
    ),
    "a variable of a table": (
        "[rates]\ntotal = 1",
        {"HWTRUST_BACKEND_RATES_DEVICE": "-1"},
        "rates.device",
        "HWTRUST_BACKEND_RATES_DEVICE",
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_a_wrong_setting_is_named_with_the_place_where_it_stands(tmp_path: Path, case: str) -> None:
    """As it is written, and in the file or the variable: there it has to be put right."""
    text, environ, setting, place = NAMED[case]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environ)
    assert caught.value.data["setting"] == setting
    assert Path(str(caught.value.data["path"])).name == place
    assert setting in caught.value.message


def test_a_file_does_not_say_where_the_data_directory_is(tmp_path: Path) -> None:
    """`--data` has said it already: half of the backend would be elsewhere."""
    with pytest.raises(ConfigError):
        load(tmp_path, 'data_dir = "/elsewhere"')


def test_a_settings_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    """A file that was asked for by name is not optional."""
    with pytest.raises(ConfigError):
        load_settings(tmp_path, file=tmp_path / "missing.toml", environ={})


def test_addresses_are_read_in_every_form(tmp_path: Path) -> None:
    """IPv4, IPv6 and Unix sockets."""
    cases = {
        "127.0.0.1:1": ("127.0.0.1", 1),
        "[::1]:8443": ("::1", 8443),
        "unix:/run/b.sock": Path("/run/b.sock"),
    }
    for text, expected in cases.items():
        settings = load_settings(tmp_path, file=None, environ={"HWTRUST_BACKEND_LISTEN": text})
        assert settings.address == expected


def test_spans_are_read_and_spelt() -> None:
    """Days, hours, minutes, seconds."""
    cases = {"30d": 30 * DAY, "24h": DAY, "15m": 15 * MINUTE, "30s": 30 * SECOND}
    assert {text: parse_span(text) for text in cases} == cases
    assert spell_span(3 * DAY + 4 * HOUR + MINUTE) == "3d 4h"
    assert spell_span(-5) == "0s"


def test_a_private_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    """Mode 0600, whole, and an existing file stays as it is."""
    path = tmp_path / "secret"
    write_file(path, b"one", mode=0o600, replace=False)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError):
        write_file(path, b"two", mode=0o600, replace=False)
    assert path.read_bytes() == b"one"
    write_file(path, b"two", mode=0o600, replace=True)
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    """The data directory is its owner's alone."""
    path = tmp_path / "open"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    with pytest.raises(ConfigError):
        make_private_directory(path)
    make_private_directory(tmp_path / "new" / "deep")
    assert (tmp_path / "new" / "deep").stat().st_mode & 0o777 == 0o700


def test_the_unix_proxy_is_trusted_on_the_unix_socket_alone(tmp_path: Path) -> None:
    """A TCP peer whose address is not known any more is no proxy."""
    proxies = ("unix", "127.0.0.1")
    over_tcp = Settings(data_dir=str(tmp_path), trusted_proxies=proxies)
    behind = Settings(data_dir=str(tmp_path), trusted_proxies=proxies, listen="unix:/run/b")
    assert trusted_peers(over_tcp) == {"127.0.0.1"}
    assert trusted_peers(behind) == set(proxies)


# --- what is in force, and what is documented ------------------------------------------------


def documented() -> dict[str, tuple[str, str, str, str]]:
    """The rows of the documented reference: kind, default, variable and meaning by name."""
    path = Path(__file__).parents[3] / "docs" / "configuration.md"
    row = re.compile(
        r"^\| `([a-z_.]+)` \| (.+?) \| `(.*?)` \| (?:`(\w+)`|[^`|]+) \| (.+) \|$", re.MULTILINE
    )
    found = row.findall(path.read_text())
    return {
        name: (kind, default, variable, meaning) for name, kind, default, variable, meaning in found
    }


def test_the_documented_settings_are_those_that_exist() -> None:
    """Name, kind, default and variable of each, and a meaning; none is left out or left over."""
    settings = all_settings()
    rows = documented()
    assert len(settings) > 30
    assert rows.keys() == {setting.name for setting in settings}
    for setting in settings:
        kind, default, variable, meaning = rows[setting.name]
        assert (kind, default, variable) == (setting.kind, setting.default, setting.variable)
        assert meaning.endswith(".")


def test_the_documented_places_are_those_that_are_looked_at() -> None:
    """The variables with the prefix that are no settings."""
    text = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `HWTRUST_BACKEND_([A-Z_]+)` \|", text, re.MULTILINE)
    assert set(rows) == NOT_SETTINGS


def test_every_documented_variable_is_read(tmp_path: Path) -> None:
    """A setting's default, given by its variable, is that default."""
    for setting in all_settings():
        if not setting.variable:
            continue
        value = setting.default
        if setting.kind == "list":
            value = ",".join(msgspec.json.decode(value))
        environ = {setting.variable: value.strip('"')}
        settings = load_settings(tmp_path, file=None, environ=environ)
        changed = {
            field
            for field in Settings.__struct_fields__
            if getattr(settings, field) != getattr(Settings(data_dir=str(tmp_path)), field)
        }
        # A list of scopes has an order; its documented form is sorted.
        assert changed <= {"oidc"}, setting.name


def in_force(directory: Path, text: str, **environ: str) -> dict[str, tuple[str, str]]:
    """Value and source of each setting."""
    (directory / CONFIG_NAME).write_text(text)
    found = settings_in_force(directory, file=None, environ=environ)
    return {item.name: (item.value, item.source) for item in found}


def test_each_setting_is_shown_with_its_source(tmp_path: Path) -> None:
    """The file, the environment over it, and the default for the rest."""
    found = in_force(
        tmp_path,
        "body_limit = 5000\nworkers = 2\n[rates]\naddress = 7\n",
        HWTRUST_BACKEND_WORKERS="3",
        HWTRUST_BACKEND_RATES_DEVICE="9",
    )
    path = str(tmp_path / CONFIG_NAME)
    assert found["body_limit"] == ("5000", path)
    assert found["rates.address"] == ("7", path)
    assert found["workers"] == ("3", "HWTRUST_BACKEND_WORKERS")
    assert found["rates.device"] == ("9", "HWTRUST_BACKEND_RATES_DEVICE")
    assert found["request_timeout"] == ("30s", "default")
    assert found["data_dir"] == (f'"{tmp_path}"', "--data")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://hwtrust:s3cret@db.example/hwtrust",
        "postgresql://hwtrust:s3cret@/hwtrust?host=/run/pg",
        "postgresql://db.example/hwtrust?user=hwtrust&password=s3cret",
        "postgresql://hwtrust:s3cret@[db.example/hwtrust",
        "postgresql://hwtrust:1#s3cret@db.example/hwtrust",
        "postgresql://hwtrust:1/s3cret@db.example/hwtrust",
        "postgresql://hwtrust:1?s3cret@db.example/hwtrust",
    ],
)
def test_the_password_of_the_database_is_not_shown(tmp_path: Path, url: str) -> None:
    """Wherever in the URL it stands, and however wrong that is."""
    found = in_force(tmp_path, f'database = "{url}"\n')
    assert "s3cret" not in repr(found)
    assert "***" in found["database"][0]
    assert "s3cret" not in settings_text(Settings(data_dir=str(tmp_path), database=url))


def test_the_database_without_a_password_is_shown_as_it_is(tmp_path: Path) -> None:
    """What is no secret helps."""
    url = "postgresql://hwtrust@db.example/hwtrust?passfile=/etc/pgpass"
    assert in_force(tmp_path, f'database = "{url}"\n')["database"][0] == f'"{url}"'


def test_rates_limits_and_workers_have_their_bounds(tmp_path: Path) -> None:
    """Whatever makes no sense is refused."""
    for text in (
        "workers = 0",
        "workers = 1000",
        "[rates]\naddress = -1",
        "[rates]\nadress = 1",
        'log_format = "xml"',
        'forwarded_header = "x-real-ip"',
        'metrics_listen = "9464"',
        "access_log = 1",
    ):
        with pytest.raises(ConfigError):
            load(tmp_path, text)


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command line."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    return int(str(caught.value.code or 0)), out, err


def test_the_settings_are_shown_and_checked_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a table, as JSON; what cannot be used is refused with a reason."""
    data = ["--data", str(tmp_path)]
    (tmp_path / CONFIG_NAME).write_text("workers = 2\n")
    code, out, _ = run([*data, "config", "show"], capsys)
    assert code == 0
    assert re.search(r"^workers +2 +/.*config.toml$", out, re.MULTILINE)
    code, out, _ = run([*data, "config", "show", "--json"], capsys)
    assert {"name": "log_format", "value": '"text"', "source": "default"} in msgspec.json.decode(
        out
    )
    assert run([*data, "config", "check"], capsys)[0] == 0
    (tmp_path / CONFIG_NAME).write_text(
        'server_certificate = "/nonexistent"\nserver_key = "/nonexistent"\n'
    )
    code, _, err = run([*data, "config", "check"], capsys)
    assert code == 1
    assert err.startswith("hwtrust-backend: the server's certificate")
    (tmp_path / CONFIG_NAME).write_text('database = "mysql://x"\n')
    assert run([*data, "config", "check"], capsys)[0] == 1


@pytest.mark.parametrize(
    "text",
    [
        'webhook_ca_file = "FILE"',
        'policy_signers = {release = "FILE"}',
        f'{OIDC}ca_file = "FILE"',
        f'{OIDC}client_secret_file = "FILE.missing"',
    ],
)
def test_the_files_that_settings_name_are_tried(tmp_path: Path, text: str) -> None:
    """Before the first webhook, policy or sign-in finds out."""
    file = tmp_path / "file.pem"
    file.write_text("this is no PEM")
    (tmp_path / CONFIG_NAME).write_text(text.replace("FILE", str(file)))
    with pytest.raises(ConfigError):
        check_settings(load_settings(tmp_path, file=None, environ={}))


def test_a_socket_on_which_another_process_listens_is_not_taken_from_it(tmp_path: Path) -> None:
    """One that is left over from a process that died is."""
    settings = Settings(data_dir=str(tmp_path), listen=f"unix:{tmp_path / 'socket'}")
    with listening_socket(settings), pytest.raises(ConfigError):
        listening_socket(settings)
    listening_socket(settings).close()


def test_a_socket_whose_server_is_busy_is_not_waited_for(tmp_path: Path) -> None:
    """It is somebody's all the same."""
    path = tmp_path / "socket"
    with contextlib.ExitStack() as open_:
        busy = open_.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):
            caller = open_.enter_context(socket.socket(socket.AF_UNIX))
            caller.settimeout(0)
            caller.connect_ex(str(path))
        with pytest.raises(ConfigError):
            listening_socket(Settings(data_dir=str(tmp_path), listen=f"unix:{path}"))
    assert path.exists()


def test_read_only_is_turned_and_shown_on_the_command_line(
    backend: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On with a reason, off again, and who did it."""
    config = tmp_path / "database.toml"
    config.write_text(f'database = "{backend.settings.database}"\n')
    place = ["--data", str(backend.settings.directory), "--config", str(config), "read-only"]
    assert run([*place, "status"], capsys)[1].split() == ["read-only", "off"]
    code, out, _ = run([*place, "on", "--reason", "moving", "--json"], capsys)
    state = msgspec.json.decode(out)
    assert (code, state["is_on"], state["reason"]) == (0, True, "moving")
    assert state["changed_by"].startswith("cli:")
    reading = ReadOnly(backend)
    assert reading.is_on()
    with pytest.raises(ReadOnlyError):
        reading.require_off()
    assert run([*place, "off"], capsys)[0] == 0
    assert not ReadOnly(backend).is_on()
    with backend.database.reading() as session:
        assert not read_only_state(session).is_on


def test_the_setting_read_only_needs_no_database(tmp_path: Path, backend: Backend) -> None:
    """And what the database said last counts while it does not answer."""
    settings = msgspec.structs.replace(backend.settings, read_only=True)
    assert ReadOnly(dataclasses.replace(backend, settings=settings)).is_on()
    times = itertools.count(0.0, 100.0)
    reading = ReadOnly(backend, clock=lambda: next(times))
    with backend.database.transaction() as session:
        switch_read_only(session, to=True, reason="", by=local_administrator(), now=1)
    assert reading.is_on()
    gone = dataclasses.replace(backend, database=Database("sqlite:////nonexistent/x"))
    reading._backend = gone
    assert reading.is_on()
