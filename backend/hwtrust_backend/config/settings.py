"""The backend's settings: a TOML file, and the environment over it.

Rules:
1. A name that is not known is an error, in the file and in the environment:
   a misspelt security setting must not be a silent default.
2. What devices are held to is no setting: policies are in the database, in
   versions (`policies`).
3. No secret is a setting. The passphrase comes by other ways (`keys.passphrase`).

A span is written `30d`, `24h`, `15m`, `30s`. A setting `body_limit` is read from
HWTRUST_BACKEND_BODY_LIMIT too; how, `reading` says.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from sqlalchemy.engine import URL

from hwtrust.errors import ConfigError
from hwtrust.wire.messages import TlsKeyKind
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE, SECOND
from hwtrust_backend.config.kinds import without_password
from hwtrust_backend.config.oidc import OidcSettings
from hwtrust_backend.config.reading import convert, read_toml, set_from_environment
from hwtrust_backend.config.serving import (
    MOST_WORKERS,
    ForwardedHeader,
    LogFormat,
    RateSettings,
)

PREFIX: Final = "HWTRUST_BACKEND_"
CONFIG_NAME: Final = "config.toml"

NOT_SETTINGS: Final = frozenset({"CONFIG", "DATA_DIR", "PASSPHRASE_FILE"})
"""Variables with the prefix that say where to look, and are no settings."""

Span = Annotated[int, Meta(gt=0)]

_LAST_PORT: Final = 0xFFFF


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. Times are milliseconds."""

    data_dir: str
    url: str = "https://localhost:8443"
    listen: str = "127.0.0.1:8443"
    """`HOST:PORT` with TLS, or `unix:PATH` behind a proxy that ends TLS."""
    database: str = ""
    """`sqlite:////PATH` or `postgresql://USER@HOST/NAME`; absent: SQLite in the data directory.

    A password is best in a file that PGPASSFILE or `?passfile=PATH` names, 0600 or a
    credential of systemd: the URL stands in a configuration file.
    """
    server_certificate: str = ""
    server_key: str = ""
    server_ca: str = ""
    """PEM files of the server's own certificate; absent: issued by the backend's CA."""
    ek_ca_dir: str = ""
    certificate_tpm_ms: Span = 30 * DAY
    certificate_attested_ms: Span = 24 * HOUR
    enrolment_lifetime_ms: Span = 15 * MINUTE
    policy_signers: dict[str, str] = {}
    """Who may sign policies: a name and a PEM file of a P-256 public key each. Absent: nobody
    need sign."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose Client-Cert header (RFC 9440) is believed; `unix` for the socket."""
    body_limit: Annotated[int, Meta(ge=4096)] = 1024 * 1024
    request_timeout_ms: Span = 30 * SECOND
    connection_limit: Annotated[int, Meta(ge=1)] = 1000
    address_connection_limit: Annotated[int, Meta(ge=0)] = 256
    """Open connections from one address (IPv6: one /64); 0 is no limit. Proxies have none."""
    wait_limit: Annotated[int, Meta(ge=0)] = 500
    """Devices that wait for a push at one process; they count as connections too."""
    max_clock_skew_ms: Span = 30 * SECOND
    """How far this machine's clock may be from the database's; beyond, nothing is decided."""
    import_limit: Annotated[int, Meta(ge=4096)] = 16 * 1024 * 1024
    """Bytes of a body that an administrator uploads."""
    forwarded_header: ForwardedHeader = ForwardedHeader.NONE
    """Where trusted proxies name their client: `forwarded` (RFC 7239) or `x-forwarded-for`."""
    rates: RateSettings = RateSettings()
    workers: Annotated[int, Meta(ge=1, le=MOST_WORKERS)] = 1
    """Processes that serve; `serve --workers` says otherwise."""
    shutdown_timeout_ms: Span = 10 * SECOND
    """How long requests that are being answered may take to end when the server stops."""
    metrics_listen: str = ""
    """`HOST:PORT` where /metrics, /healthz and /readyz are served without TLS and token."""
    log_format: LogFormat = LogFormat.TEXT
    access_log: bool = False
    """Each request is a line of the log."""
    read_only: bool = False
    """Nothing is changed: attestations and all other changes are answered with 503."""
    result_lifetime_ms: Annotated[int, Meta(ge=10 * SECOND, le=DAY)] = 5 * MINUTE
    """How long an attestation result is good, unless the device's grace ends before."""
    result_key_lifetime_ms: Annotated[int, Meta(ge=HOUR)] = 90 * DAY
    targets_dir: str = ""
    """Where the files of published releases are; absent: `targets` in the data directory."""
    timestamp_lifetime_ms: Annotated[int, Meta(ge=HOUR)] = DAY
    """How long devices believe that what they see is the newest; signed anew at half of it."""
    snapshot_lifetime_ms: Annotated[int, Meta(ge=HOUR)] = 7 * DAY
    targets_lifetime_ms: Annotated[int, Meta(ge=DAY)] = 180 * DAY
    """How long the list of releases is good; publishing and revoking sign it anew."""
    webhook_ca_file: str = ""
    """PEM certificates of the CAs that receivers' certificates are under; absent: the system's."""
    webhook_private_networks: tuple[str, ...] = ()
    """Networks that are not public and may receive events: `10.1.0.0/16`."""
    webhook_unsafe_http_to_loopback: bool = False
    """Events may go to this machine itself without TLS."""
    webhook_timeout_ms: Span = 10 * SECOND
    """How long a receiver may take for all of one delivery."""
    oidc: OidcSettings = OidcSettings()

    def __post_init__(self) -> None:
        if bool(self.server_certificate) != bool(self.server_key):
            raise ConfigError("server_certificate and server_key are set together or not at all")
        try:
            parts = urlsplit(self.url)
        except ValueError as error:
            raise ConfigError(f"the url is none: {self.url!r}") from error
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigError(f"the url must begin with https:// and name a host: {self.url!r}")
        for proxy in self.trusted_proxies:
            _check_proxy(proxy)
        for network in self.webhook_private_networks:
            _check_network(network)
        _ = self.address, self.metrics_address

    def __repr__(self) -> str:
        # Of the database's URL a part may be secret.
        return f"Settings(data_dir={self.data_dir!r}, url={self.url!r}, listen={self.listen!r})"

    @property
    def directory(self) -> Path:
        """The data directory."""
        return Path(self.data_dir)

    @property
    def database_url(self) -> str:
        """Where the database is."""
        if self.database:
            return self.database
        # A path may hold what would end it in a URL.
        file = URL.create("sqlite", database=str(self.directory / "backend.sqlite"))
        return file.render_as_string(hide_password=False)

    @property
    def ek_authorities(self) -> Path:
        """The directory of the TPM vendors' CA certificates."""
        return Path(self.ek_ca_dir) if self.ek_ca_dir else self.directory / "ek-ca"

    @property
    def targets(self) -> Path:
        """The directory of the files of published releases."""
        return Path(self.targets_dir) if self.targets_dir else self.directory / "targets"

    @property
    def address(self) -> tuple[str, int] | Path:
        """Where to listen: host and port, or a socket's path."""
        if self.listen.startswith("unix:"):
            return Path(self.listen.removeprefix("unix:"))
        return _host_and_port(self.listen, "listen is HOST:PORT or unix:PATH")

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Where metrics are served without TLS; None: nowhere."""
        if not self.metrics_listen:
            return None
        return _host_and_port(self.metrics_listen, "metrics_listen is HOST:PORT")

    def certificate_lifetime(self, kind: TlsKeyKind) -> int:
        """How long a certificate for a TLS key of `kind` is good, in milliseconds."""
        if kind is TlsKeyKind.TPM:
            return self.certificate_tpm_ms
        return self.certificate_attested_ms


def load_settings(data_dir: Path, *, file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read `file` (absent: the one in `data_dir`, if there is one) and the environment.

    Raises:
        ConfigError: unreadable, not TOML, an unknown name, a value out of range.
    """
    path = file or data_dir / CONFIG_NAME
    found = read_toml(path) if file is not None or path.exists() else {}
    if "data_dir" in found:
        message = f"{path}: data_dir is no setting; it is --data, or {PREFIX}DATA_DIR"
        raise ConfigError(message, path=str(path))
    sources: dict[str, str] = {}
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and name not in NOT_SETTINGS:
            setting = set_from_environment(
                found, Settings, variable=variable, name=name.lower(), value=value
            )
            sources[setting] = variable
    found["data_dir"] = str(data_dir)
    return convert(found, Settings, source=str(path), sources=sources)


def settings_text(settings: Settings) -> str:
    """The TOML file that `init` writes: what was chosen, for the administrator to change.

    The database too: without it every later command would begin an empty one. A URL with
    a password is left to wherever it came from.
    """
    known = settings.database and without_password(settings.database) == settings.database
    database = f"database = {_quoted(settings.database)}\n" if known else ""
    return f"""\
# hwtrust-backend; see hwtrust-backend serve --help.
url = {_quoted(settings.url)}
listen = {_quoted(settings.listen)}
{database}"""


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _host_and_port(text: str, message: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > _LAST_PORT:
        raise ConfigError(f"{message}, not {text!r}")
    return host.strip("[]"), int(port)


def _check_proxy(proxy: str) -> None:
    if proxy == "unix":
        return
    try:
        ipaddress.ip_address(proxy)
    except ValueError as error:
        message = f"trusted_proxies has IP addresses or 'unix', not {proxy!r}"
        raise ConfigError(message) from error


def _check_network(network: str) -> None:
    try:
        ipaddress.ip_network(network)
    except ValueError as error:
        message = f"webhook_private_networks has networks like 10.1.0.0/16, not {network!r}"
        raise ConfigError(message) from error
