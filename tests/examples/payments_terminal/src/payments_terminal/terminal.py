"""The terminal: what it does with a device, and what it does without its keys.

The signing key lies in hwtrust's key store, so that it is there on this device, in
the software that the vendor approved, and until the root is replaced or revoked.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from hwtrust.device import State
from hwtrust.errors import EntryNotFoundError, KeyStoreError

if TYPE_CHECKING:
    from hwtrust.device import Device

SIGNING_KEY: Final = "payments/signing"


class OutOfServiceError(Exception):
    """The terminal takes no payments now: the display says so, and the log says why."""


class Terminal:
    """A terminal on an open device."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def start(self) -> bool:
        """Load the device; gives whether payments can be taken."""
        return self._device.load().state is State.NORMAL

    def keep(self, key: bytes) -> None:
        """Keep the signing key that the bank has sent."""
        self._device.keystore.put(SIGNING_KEY, key)

    def sign(self, order: str, *, cents: int) -> str:
        """Sign a payment, as hexadecimal HMAC-SHA256.

        Raises:
            OutOfServiceError: the key is not open, or was never kept.
        """
        try:
            key = self._device.keystore[SIGNING_KEY]
        except (KeyStoreError, EntryNotFoundError) as error:
            raise OutOfServiceError(error.code) from error
        return hmac.new(key, f"{order}:{cents}".encode(), "sha256").hexdigest()
