"""Settings: no misspelt name and no absent policy passes silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwtrust.errors import ConfigError
from hwtrust_backend.app.caller import trusted_peers
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
from hwtrust_backend.testing import DAY, HOUR, MINUTE, SECOND


def load(directory: Path, text: str, **environ: str) -> object:
    """The settings that a file and an environment give."""
    (directory / CONFIG_NAME).write_text(text)
    return load_settings(directory, file=None, environ=environ)


def test_what_init_writes_is_what_is_read(tmp_path: Path) -> None:
    """The file that is written spells out the settings that were chosen."""
    (tmp_path / CONFIG_NAME).write_text(
        'url = "https://b.example:1"\nlisten = "127.0.0.1:1"\n'
    )
    chosen = load_settings(tmp_path, file=None, environ={})
    (tmp_path / CONFIG_NAME).write_text(settings_text(chosen))
    assert load_settings(tmp_path, file=None, environ={}) == chosen
    assert chosen.url == "https://b.example:1"


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
