"""What the parts of a device's life share while it is open.

enrol · boot · attest · rotate  ── work on ──▶  DeviceContext
config, state, tpm, channel,
measured log, open key store
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hwtrust.device.results import Step, silent
from hwtrust.errors import ConfigError, KeyStoreLockedError, RootMissingError
from hwtrust.keys.unseal import Anchorage
from hwtrust.measure import application_selection
from hwtrust.wire.root import policy_key_public

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.channel import Channel, ClientKey
    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.state import DeviceState, Identity, StoredRoot
    from hwtrust.keys.keystore import KeyStore
    from hwtrust.measure import MeasuredLog
    from hwtrust.tpm.connection import Tpm
    from hwtrust.wire.messages import Release, TrustAnchor
    from hwtrust.wire.structures import PcrSelection, Public


@dataclass(slots=True)
class DeviceContext:
    """An open device."""

    config: DeviceConfig
    trust: TrustAnchor
    release: Release
    state: DeviceState
    tpm: Tpm
    channel: Channel
    measured: MeasuredLog
    policy_key: Public
    metadata_key: ec.EllipticCurvePublicKey
    identity: Identity | None = None
    client_key: ClientKey | None = field(default=None, repr=False)
    keystore: KeyStore | None = field(default=None, repr=False)
    challenge: bytes = b""
    on_step: Callable[[Step], None] = silent

    @property
    def selection(self) -> PcrSelection:
        """The PCRs that quotes and approvals cover."""
        return application_selection(self.config.tpm.pcr, self.config.tpm.platform_pcrs)

    def known(self) -> Identity:
        """Who the device is.

        Raises:
            NotEnrolledError: nobody yet.
        """
        if self.identity is None:
            self.identity = self.state.identity()
        return self.identity

    def anchorage(self) -> Anchorage:
        """Where this device's roots hang."""
        identity = self.known()
        return Anchorage(identity.storage_key, identity.counter, self.policy_key)

    def opened(self) -> KeyStore:
        """The key store.

        Raises:
            KeyStoreLockedError: the device has not booted.
        """
        if self.keystore is None:
            raise KeyStoreLockedError("the key store is locked: the device has not booted")
        return self.keystore

    def lock(self) -> None:
        """Forget the keys."""
        if self.keystore is not None:
            self.keystore.close()
            self.keystore = None

    def newest_root(self) -> StoredRoot:
        """The root with the highest epoch.

        Raises:
            RootMissingError: there is none.
        """
        roots = self.state.roots()
        if not roots:
            raise RootMissingError("the device holds no root")
        return roots[max(roots)]

    @contextlib.contextmanager
    def step(self, name: str, detail: str = "") -> Iterator[None]:
        """Report what is done within a `with`, once it has succeeded."""
        start = time.perf_counter()
        yield
        self.on_step(Step(name, detail, (time.perf_counter() - start) * 1000))


def trusted_keys(trust: TrustAnchor) -> tuple[Public, ec.EllipticCurvePublicKey]:
    """The policy key as a TPM loads it, and the metadata key.

    Raises:
        ConfigError: the trust file holds something else.
    """
    policy_key = _p256(trust.policy_key, "policy_key")
    return policy_key_public(policy_key), _p256(trust.metadata_key, "metadata_key")


def _p256(pem: str, option: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError as error:
        raise ConfigError(f"the trust file's {option} is not a PEM public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"the trust file's {option} is not a P-256 key")
    return key
