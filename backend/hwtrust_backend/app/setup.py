"""Installing a backend in a data directory, and opening one.

DATA/config.toml      settings
DATA/keys.vault       all private keys, encrypted, 0600
DATA/backend.sqlite   devices, roots, audit trail
DATA/ek-ca/           certificates of TPM vendors
DATA/audit-key.pem    what tree heads of the audit trail are checked with
DATA/targets/         files of published releases
DATA/trust.json       what devices are given before they ever connect
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives import serialization

from hwtrust.errors import ConfigError, VaultExistsError
from hwtrust.wire.messages import TrustAnchor
from hwtrust_backend.app.backend import VAULT_NAME, Backend, make_backend
from hwtrust_backend.app.fence import require_newest
from hwtrust_backend.app.tls import trust_anchor_pem
from hwtrust_backend.config import (
    CONFIG_NAME,
    Clock,
    Settings,
    make_private_directory,
    settings_text,
    write_file,
)
from hwtrust_backend.db import Database, migrate
from hwtrust_backend.keys import FileVault, KeyRole, KeyVault, Passphrase
from hwtrust_backend.policies import DEFAULT_DOCUMENT, first_policy
from hwtrust_backend.repository import TufRole, newest

TRUST_NAME: Final = "trust.json"
AUDIT_KEY_NAME: Final = "audit-key.pem"


def install(
    settings: Settings,
    *,
    passphrase: Passphrase,
    clock: Clock,
    cost: int,
    policy: str = DEFAULT_DOCUMENT,
) -> Path:
    """Make directory, keys, database and the trust file; gives the trust file's path.

    `policy` is the document that the group `default` is held to from the start.

    What was interrupted can be called again; existing keys are never replaced.

    Raises:
        VaultExistsError: this is a complete backend already.
        ConfigError: a file or directory cannot be made.
        DatabaseError: the database cannot be made.
    """
    directory = settings.directory
    make_private_directory(directory)
    trust, vault_file = directory / TRUST_NAME, directory / VAULT_NAME
    if trust.exists():
        raise VaultExistsError(f"{directory} holds a backend already", path=str(directory))
    make_private_directory(settings.ek_authorities)
    config = directory / CONFIG_NAME
    if not config.exists():
        write_file(config, settings_text(settings).encode(), mode=0o600, replace=False)
    vault: KeyVault
    if vault_file.exists():
        vault = FileVault.open(vault_file, passphrase=passphrase)
    else:
        vault = FileVault.create(vault_file, passphrase=passphrase, now=clock(), cost=cost)
    database = Database(settings.database_url)
    try:
        migrate(database)
        with database.transaction() as session:
            first_policy(session, policy, now=clock())
        _write_audit_key(settings, vault)
        # Last: it is what says that the rest is there.
        write_trust(settings, vault, database, replace=False)
    finally:
        database.close()
    return trust


def open_backend(settings: Settings, *, passphrase: Passphrase, clock: Clock) -> Backend:
    """Open keys and database, bring the database up to date, and put the services together.

    Raises:
        VaultError: the keys cannot be opened.
        DatabaseError: the database cannot be used.
        DatabaseOlderError: it is older than what this backend has signed for.
    """
    vault, database = _opened(settings, passphrase)
    return make_backend(settings, database=database, vault=vault, clock=clock)


def open_keys(settings: Settings, *, passphrase: Passphrase) -> KeyVault:
    """Open the keys and bring the database up to date, for processes that are made then.

    No connection to the database is left.

    Raises:
        VaultError: the keys cannot be opened.
        DatabaseError: the database cannot be used.
        DatabaseOlderError: it is older than what this backend has signed for.
    """
    vault, database = _opened(settings, passphrase)
    database.close()
    return vault


def write_trust(settings: Settings, vault: KeyVault, database: Database, *, replace: bool) -> Path:
    """Write the trust file, with the newest root of the repository; gives its path.

    Raises:
        ConfigError: it cannot be written, or is there and may not be replaced.
    """
    with database.reading() as session:
        root = newest(session, TufRole.ROOT)
    anchor = trust_anchor(settings, vault, releases=b"" if root is None else root.content)
    content = msgspec.json.format(msgspec.json.encode(anchor), indent=2)
    path = settings.directory / TRUST_NAME
    write_file(path, content + b"\n", mode=0o644, replace=replace)
    return path


def trust_anchor(settings: Settings, vault: KeyVault, *, releases: bytes) -> TrustAnchor:
    """What a device needs to know of this backend before it ever connects."""
    return TrustAnchor(
        url=settings.url,
        tls_ca=trust_anchor_pem(settings, vault),
        policy_key=_pem(vault, KeyRole.POLICY),
        metadata_key=_pem(vault, KeyRole.METADATA),
        releases=releases,
    )


def _opened(settings: Settings, passphrase: Passphrase) -> tuple[KeyVault, Database]:
    """The keys, and the database brought up to date and found to be the newest."""
    vault = FileVault.open(settings.directory / VAULT_NAME, passphrase=passphrase)
    database = Database(settings.database_url)
    try:
        migrate(database)
        require_newest(database, settings, vault)
        _write_audit_key(settings, vault)
    except BaseException:
        database.close()
        raise
    return vault, database


def _write_audit_key(settings: Settings, vault: KeyVault) -> None:
    """Lay the audit public key beside the trust file, unless it is there."""
    path = settings.directory / AUDIT_KEY_NAME
    if path.exists():
        return
    try:
        write_file(path, _pem(vault, KeyRole.AUDIT).encode(), mode=0o644, replace=False)
    except ConfigError:
        # Another process of this backend was faster.
        if not path.exists():
            raise


def _pem(vault: KeyVault, role: KeyRole) -> str:
    key = vault.signer(role).public_key
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
