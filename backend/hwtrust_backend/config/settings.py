"""The backend's settings: a TOML file, and the environment over it.

Rules:
1. A name that is not known is an error, in the file and in the environment:
   a misspelt security setting must not be a silent default.
2. `tls_keys` has no default that accepts anything: absent, every device is
   refused. `init` writes the choice out.
3. No secret is a setting. The passphrase comes by other ways (`keys.passphrase`).

A span is written `30d`, `24h`, `15m`, `30s`. A setting `root_lifetime` is read
from HWTRUST_BACKEND_ROOT_LIFETIME too, `clock.max_lag` from
HWTRUST_BACKEND_CLOCK_MAX_LAG; lists are separated by commas there.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from hwtrust.errors import ConfigError
from hwtrust.verify.appraise import ClockRules
from hwtrust.wire.messages import TlsKeyKind
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE, SECOND

PREFIX: Final = "HWTRUST_BACKEND_"
CONFIG_NAME: Final = "config.toml"

NOT_SETTINGS: Final = frozenset({"CONFIG", "DATA_DIR", "PASSPHRASE_FILE"})
"""Variables with the prefix that say where to look, and are no settings."""

Span = Annotated[int, Meta(gt=0)]

_LAST_PORT: Final = 0xFFFF
_SPAN: Final = re.compile(r"([1-9][0-9]{0,8})(d|h|m|s)")
_SIZES: Final = {"d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND}


class ClockSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a TPM's clock and firmware passes without a finding."""

    max_lag_ms: Span = 10 * MINUTE
    max_ahead_ms: Span = 10 * MINUTE
    max_drift: Annotated[float, Meta(gt=0, le=1)] = 0.15
    """The part of the time passed by which a clock may run slow or fast."""
    firmware_floor: Annotated[int, Meta(ge=0)] = 0

    @property
    def rules(self) -> ClockRules:
        """The same for `appraise`."""
        return ClockRules(
            max_lag_ms=self.max_lag_ms,
            max_ahead_ms=self.max_ahead_ms,
            max_drift=self.max_drift,
            firmware_floor=self.firmware_floor,
        )


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. Times are milliseconds."""

    data_dir: str
    url: str = "https://localhost:8443"
    listen: str = "127.0.0.1:8443"
    """`HOST:PORT` with TLS, or `unix:PATH` behind a proxy that ends TLS."""
    database: str = ""
    """An SQLAlchemy URL; absent: SQLite in the data directory."""
    server_certificate: str = ""
    server_key: str = ""
    server_ca: str = ""
    """PEM files of the server's own certificate; absent: issued by the backend's CA."""
    ek_ca_dir: str = ""
    tls_keys: frozenset[TlsKeyKind] = frozenset()
    root_lifetime_ms: Span = 30 * DAY
    offline_grace_ms: Span = 7 * DAY
    certificate_tpm_ms: Span = 30 * DAY
    certificate_attested_ms: Span = 24 * HOUR
    enrolment_lifetime_ms: Span = 15 * MINUTE
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose Client-Cert header (RFC 9440) is believed; `unix` for the socket."""
    body_limit: Annotated[int, Meta(ge=4096)] = 1024 * 1024
    request_timeout_ms: Span = 30 * SECOND
    connection_limit: Annotated[int, Meta(ge=1)] = 1000
    clock: ClockSettings = ClockSettings()

    def __post_init__(self) -> None:
        if bool(self.server_certificate) != bool(self.server_key):
            raise ConfigError("server_certificate and server_key are set together or not at all")
        if urlsplit(self.url).scheme != "https" or not urlsplit(self.url).hostname:
            raise ConfigError(f"the url must begin with https:// and name a host: {self.url!r}")
        for proxy in self.trusted_proxies:
            _check_proxy(proxy)
        _ = self.address

    @property
    def directory(self) -> Path:
        """The data directory."""
        return Path(self.data_dir)

    @property
    def database_url(self) -> str:
        """Where the database is."""
        return self.database or f"sqlite:///{self.directory / 'backend.sqlite'}"

    @property
    def ek_authorities(self) -> Path:
        """The directory of the TPM vendors' CA certificates."""
        return Path(self.ek_ca_dir) if self.ek_ca_dir else self.directory / "ek-ca"

    @property
    def address(self) -> tuple[str, int] | Path:
        """Where to listen: host and port, or a socket's path."""
        if self.listen.startswith("unix:"):
            return Path(self.listen.removeprefix("unix:"))
        host, colon, port = self.listen.rpartition(":")
        if (
            not colon
            or not host
            or not (port.isascii() and port.isdigit())
            or int(port) > _LAST_PORT
        ):
            raise ConfigError(f"listen is HOST:PORT or unix:PATH, not {self.listen!r}")
        return host.strip("[]"), int(port)

    def certificate_lifetime(self, kind: TlsKeyKind) -> int:
        """How long a certificate for a TLS key of `kind` is good, in milliseconds."""
        if kind is TlsKeyKind.TPM:
            return self.certificate_tpm_ms
        return self.certificate_attested_ms


def default_settings(data_dir: Path) -> Settings:
    """What is in force without a file: every device is refused (rule 2)."""
    return Settings(data_dir=str(data_dir))


def load_settings(data_dir: Path, *, file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read `file` (absent: the one in `data_dir`, if there is one) and the environment.

    Raises:
        ConfigError: unreadable, not TOML, an unknown name, a value out of range.
    """
    path = file or data_dir / CONFIG_NAME
    found: dict[str, Any] = {"data_dir": str(data_dir)}
    if file is not None or path.exists():
        found |= _read_toml(path)
    for name, value in environ.items():
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in NOT_SETTINGS:
            _set_from_environment(found, name, value)
    try:
        return msgspec.convert(_with_spans(found, Settings), Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}", path=str(path)) from error


def settings_text(settings: Settings) -> str:
    """The TOML file that `init` writes: what was chosen, for the administrator to change."""
    kinds = ", ".join(f'"{kind}"' for kind in sorted(settings.tls_keys))
    return f"""\
# hwtrust-backend; see hwtrust-backend serve --help.
url = {_quoted(settings.url)}
listen = {_quoted(settings.listen)}

# Which TLS keys of devices are accepted: "tpm" (held by the TPM) and "attested"
# (made in memory at each start, bound into the quote). Without this line: none.
tls_keys = [{kinds}]

# How long a root is good, and how long a device may run without a heartbeat.
root_lifetime = "{_spelt(settings.root_lifetime_ms)}"
offline_grace = "{_spelt(settings.offline_grace_ms)}"
"""


def parse_span(text: str) -> int:
    """`30d`, `24h`, `15m` or `30s` in milliseconds.

    Raises:
        ConfigError: another spelling.
    """
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no span of time; write it like 30d, 24h, 15m or 30s")
    return int(match[1]) * _SIZES[match[2]]


def _spelt(span_ms: int) -> str:
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m")):
        if span_ms % size == 0:
            return f"{span_ms // size}{unit}"
    return f"{max(span_ms // SECOND, 1)}s"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {error}", path=str(path)) from error


def _set_from_environment(found: dict[str, Any], variable: str, value: str) -> None:
    name = variable.removeprefix(PREFIX).lower()
    target = found
    cls: type[msgspec.Struct] = Settings
    if name.startswith("clock_"):
        name, cls = name.removeprefix("clock_"), ClockSettings
        target = found.setdefault("clock", {})
    fields = {field.name.removesuffix("_ms"): field for field in msgspec.structs.fields(cls)}
    if name not in fields:
        raise ConfigError(f"{variable} is no setting of hwtrust-backend", variable=variable)
    field = fields[name]
    if field.name in {"tls_keys", "trusted_proxies"}:
        target[name] = [item.strip() for item in value.split(",") if item.strip()]
    elif field.name in {"body_limit", "connection_limit", "firmware_floor", "max_drift"}:
        try:
            target[name] = float(value) if field.name == "max_drift" else int(value)
        except ValueError as error:
            raise ConfigError(f"{variable} must be a number", variable=variable) from error
    else:
        target[name] = value


def _with_spans(found: Mapping[str, Any], cls: type[msgspec.Struct]) -> dict[str, Any]:
    """`root_lifetime = "30d"` as `root_lifetime_ms = 2592000000`; all else as it is."""
    spans = {
        field.name.removesuffix("_ms")
        for field in msgspec.structs.fields(cls)
        if field.name.endswith("_ms")
    }
    converted: dict[str, Any] = {}
    for name, value in found.items():
        if name in spans:
            if not isinstance(value, str):
                raise ConfigError(f'{name} is a span of time in quotes, such as "30d"')
            converted[f"{name}_ms"] = parse_span(value)
        elif name == "clock" and isinstance(value, dict):
            converted[name] = _with_spans(value, ClockSettings)
        elif name.endswith("_ms"):
            raise ConfigError(f"{name} is no setting; write {name.removesuffix('_ms')}")
        else:
            converted[name] = value
    return converted


def _check_proxy(proxy: str) -> None:
    if proxy == "unix":
        return
    try:
        ipaddress.ip_address(proxy)
    except ValueError as error:
        message = f"a trusted proxy is an IP address or 'unix', not {proxy!r}"
        raise ConfigError(message) from error
