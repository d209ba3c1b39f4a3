"""Open a device: its state, its TPM, its channel. Here the TPM stack is loaded."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hwtrust.channel import Channel
from hwtrust.device.context import DeviceContext, trusted_keys
from hwtrust.device.results import State, unwatched
from hwtrust.device.state import DeviceState
from hwtrust.device.trial import resume
from hwtrust.errors import ConfigError, StateError, StateMissingError
from hwtrust.files import read_limited
from hwtrust.measure import MeasuredLog
from hwtrust.tpm.discover import open_tpm
from hwtrust.tpm.tcti import ObservedTcti

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.results import Condition
    from hwtrust.tpm.tcti import TCTI, Exchange

OWNER_AUTH_CREDENTIAL = "hwtrust-owner-auth"
CREDENTIAL_LIMIT = 64


@contextlib.contextmanager
def opened(
    config: DeviceConfig,
    *,
    owner_auth: Callable[[], bytes] | None,
    on_command: Callable[[Exchange], None] | None,
    wrap_tcti: Callable[[TCTI], TCTI] | None,
    on_condition: Callable[[Condition], None] = unwatched,
) -> Iterator[DeviceContext]:
    """Everything that an open device works with; see `Device.open`."""
    trust, release = config.read_trust(), config.read_release()
    policy_key, metadata_key = trusted_keys(trust)
    state = DeviceState(Path(config.state_dir))

    def wrap(inner: TCTI) -> TCTI:
        wrapped = wrap_tcti(inner) if wrap_tcti else inner
        return ObservedTcti(wrapped, on_command) if on_command else wrapped

    with (
        state.locked(),
        open_tpm(
            config.tpm.tcti or None,
            owner_auth=(owner_auth or owner_auth_credential)(),
            wrap=wrap if wrap_tcti or on_command else None,
        ) as tpm,
    ):
        context = DeviceContext(
            config=config,
            trust=trust,
            release=release,
            state=state,
            tpm=tpm,
            channel=Channel(trust.url, tls_ca=trust.tls_ca),
            measured=MeasuredLog(state.event_log, pcr=config.tpm.pcr, banks=config.banks()),
            policy_key=policy_key,
            metadata_key=metadata_key,
            on_condition=on_condition,
            failure=state.failure(),
            heard=(heard := state.heard()),
            heard_on_disk=heard,
        )
        context.become(State.STARTING)
        try:
            resume(context)
            yield context
        finally:
            context.lock()


def owner_auth_credential() -> bytes:
    """The owner password that systemd hands over, or none.

    Raises:
        ConfigError: the credential cannot be read, or is longer than a TPM's password.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return b""
    path = Path(directory) / OWNER_AUTH_CREDENTIAL
    try:
        return read_limited(path, limit=CREDENTIAL_LIMIT).strip(b"\r\n")
    except StateMissingError:
        return b""
    except StateError as error:
        raise ConfigError(error.message, path=str(path)) from error
