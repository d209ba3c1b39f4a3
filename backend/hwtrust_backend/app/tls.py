"""The server's TLS: 1.3 and nothing older, client certificates of the device CA.

Rules:
1. A client certificate is optional: a device without one may enrol and may
   attest for a session. One that another CA issued ends the handshake.
2. Whether a device's certificate is in force is judged by the application, by
   its own clock (`keys.authority`), and answered with a code that a device can
   act on. OpenSSL would end the handshake with nothing to read.
3. Private keys reach OpenSSL through a memfd, never through a file on disk.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import ConfigError
from hwtrust_backend.config import Settings
from hwtrust_backend.config.clock import Clock
from hwtrust_backend.keys import KeyRole, KeyVault, issue_server_certificate

_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name (rule 2)."""


def server_context(settings: Settings, vault: KeyVault, *, clock: Clock) -> ssl.SSLContext:
    """The TLS context of the server. `clock` dates its certificate: clients check by real time.

    Raises:
        ConfigError: the configured certificate or key cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_STRICT | _NO_CHECK_TIME
    authority = vault.authority(KeyRole.DEVICE_CA)
    pem = authority.public_bytes(serialization.Encoding.PEM)
    context.load_verify_locations(cadata=pem.decode())
    # A resumed session would not show its client certificate again.
    context.num_tickets = 0
    if settings.server_certificate:
        load_certificate(context, settings)
    else:
        _load_own_certificate(context, settings, vault, now=clock())
    return context


def load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """Load the configured certificate and key.

    Raises:
        ConfigError: they cannot be used.
    """
    try:
        context.load_cert_chain(settings.server_certificate, settings.server_key)
    except OSError as error:
        files = f"{settings.server_certificate} with {settings.server_key}"
        message = f"the server's certificate or key cannot be used: {files}: {error}"
        raise ConfigError(message) from error


def trust_anchor_pem(settings: Settings, vault: KeyVault) -> str:
    """The CA under which devices check this server.

    Raises:
        ConfigError: the configured file cannot be read.
    """
    if not settings.server_certificate:
        return vault.authority(KeyRole.SERVER_CA).public_bytes(serialization.Encoding.PEM).decode()
    path = Path(settings.server_ca or settings.server_certificate)
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as PEM: {error}", path=str(path)) from error


def _load_own_certificate(
    context: ssl.SSLContext, settings: Settings, vault: KeyVault, *, now: int
) -> None:
    """A key that lives as long as this process, certified by the backend's own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    host = urlsplit(settings.url).hostname or "localhost"
    issued = issue_server_certificate(
        key.public_key(),
        hosts=tuple(dict.fromkeys((host, "localhost", "127.0.0.1", "::1"))),
        signer=vault.signer(KeyRole.SERVER_CA),
        authority=vault.authority(KeyRole.SERVER_CA),
        now=now,
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with _in_memory(pem + issued.pem.encode()) as path:
        context.load_cert_chain(path)


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path that holds `content` and is on no disk."""
    handle = os.memfd_create("hwtrust-backend-tls", os.MFD_CLOEXEC)
    try:
        os.write(handle, content)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
