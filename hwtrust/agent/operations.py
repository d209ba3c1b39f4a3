"""What host applications may ask of the agent, by the socket's threads.

    key store ◀── at once ──┐
    backend   ◀── its line ─┼── socket's threads
    owner     ◀── in turn ──┘   (attest)

Rules:
1. Entries are read and written without the owner: they wait for no attestation.
   A key store that is locked meanwhile refuses (`KeyStoreLockedError`).
2. An event goes to the backend by the agent's line, not by the owner either.
3. Only the owner attests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.device.results import State
from hwtrust.errors import ChannelAnonymousError, KeyStoreLockedError, TpmAwayError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hwtrust.agent.service import Agent
    from hwtrust.device.results import AttestResult, Condition
    from hwtrust.keys import Entry
    from hwtrust.keys.keystore import KeyStore

_PATIENCE_S = 120.0


class AgentOperations:
    """The operations of one agent."""

    def __init__(self, agent: Agent) -> None:
        """`agent` owns the device."""
        self._agent = agent

    def state(self) -> Condition:
        """Where the device stands."""
        return self._agent.condition

    def event(self, kind: str, detail: str) -> bool:
        """Report an event of an application; attests where the backend wants it.

        Raises:
            TpmAwayError: the device is closed until its TPM is back.
            ChannelAnonymousError: the device has not attested yet.
            ChannelError: the backend is away, or refuses.
        """
        if self._agent.condition.state is State.TPM_AWAY:
            raise TpmAwayError("the TPM is away, and the device is closed until it is back")
        keeper = self._agent.keeper
        line = keeper.line if keeper is not None else None
        if line is None:
            raise ChannelAnonymousError("the backend does not know yet who calls")
        wanted = line.report(kind, detail=detail)
        if wanted:
            self._agent.attest_soon(f"event {kind}")
        return wanted

    def attest(self) -> AttestResult:
        """Attest now; gives what the backend made of it.

        Raises:
            HwTrustError: why it could not be asked.
        """
        return self._agent.ask(self._agent.attest_now, limit=_PATIENCE_S)

    def keystore_list(self, prefix: str) -> Iterable[Entry]:
        """The entries whose names begin with `prefix`."""
        return [entry for entry in self._keystore().list() if entry.name.startswith(prefix)]

    def keystore_get(self, name: str) -> bytes:
        """The value of an entry."""
        return self._keystore()[name]

    def keystore_put(self, name: str, value: bytes) -> Entry:
        """Store a value."""
        try:
            return self._keystore().put(name, value)
        finally:
            del value  # an error's traceback may show variables, and must not show this one

    def keystore_delete(self, name: str) -> None:
        """Delete an entry."""
        self._keystore().delete(name)

    def _keystore(self) -> KeyStore:
        keeper = self._agent.keeper
        if keeper is not None and (keystore := keeper.keystore) is not None:
            return keystore
        message = f"the key store is locked: the device is {self._agent.condition.state}"
        raise KeyStoreLockedError(message, hint="hwtrust status says why")
