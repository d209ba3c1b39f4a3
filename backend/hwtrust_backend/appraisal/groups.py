"""Attestations in groups: what came in meanwhile is decided in one transaction.

    verify      signatures, by the keys as they are remembered; no lock is held
    lock        the rows of all devices, in one statement, in the order of their names
    decide      each in its turn, as if it were alone; refusals leave their records
    commit      once; nobody is answered before

Rules:
1. Nothing is said of an attestation until what it changed, and its audit record,
   are committed.
2. What can be refused is refused before anything is changed, or in a savepoint:
   a bad attestation changes nothing, and nothing for its neighbours.
3. Should something unforeseen happen to a group, all of it is rolled back and each
   attestation is decided alone; what it happened to has the error to itself.
4. Evidence is verified before its device's row is locked, by the keys that are
   remembered of it. If they are not those of the locked row, it is verified again:
   neither a verdict nor a refusal by old keys counts.
5. Two attestations of one device in a group are two in a row: the second meets the
   nonce that the first has used up.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.orm import Session

from hwtrust.errors import DatabaseError, DeviceUnknownError, HwTrustError
from hwtrust.wire.messages import AttestReply, AttestRequest
from hwtrust_backend.appraisal.service import (
    Attestations,
    Opened,
    Verified,
    held,
    purpose_of,
)
from hwtrust_backend.audit import Event, evidence_digest, record_refusal
from hwtrust_backend.config import Clock
from hwtrust_backend.db import Database
from hwtrust_backend.enrolment import (
    DeviceKeys,
    DeviceState,
    keys_of,
    lock_states,
    write_states,
)
from hwtrust_backend.keys import DeviceIdentity
from hwtrust_backend.observe import traces

GROUP_LIMIT: Final = 64
"""Attestations in one transaction: so many share a commit, and wait for each other."""

KEYS_KEPT: Final = 20_000
"""Devices whose public keys are kept in memory, about a kilobyte each."""

_log = logging.getLogger("hwtrust_backend")


@dataclass(frozen=True, slots=True)
class Asked:
    """An attestation that waits for its answer, and who brings it.

    `refusal` is why its client certificate was refused; `trace`, where its spans belong.
    """

    request: AttestRequest
    identity: DeviceIdentity | None
    refusal: HwTrustError | None = None
    trace: traces.Place | None = None


Outcome = AttestReply | Exception
"""What one is answered, or the error that it is refused or fails with."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Decides attestations together."""

    attestations: Attestations
    database: Database
    clock: Clock
    _keys: dict[str, DeviceKeys] = field(default_factory=dict)
    """Of devices that were here before; what they were is compared with the locked row."""

    def answer(self, group: Sequence[Asked]) -> list[Outcome]:
        """What each is answered, in the same order; when this returns, it is committed."""
        try:
            return self._together(group, savepoints=False)
        except DatabaseError as error:
            if self.database.is_down(error):
                return [error] * len(group)
            _log.warning("%s: %s; each attestation is decided alone", error.code, error.message)
        except Exception:  # noqa: BLE001 - each may have it to itself
            _log.exception("a group of attestations failed; each is decided alone")
        return [self._alone(asked) for asked in group]

    def _alone(self, asked: Asked) -> Outcome:
        try:
            (outcome,) = self._together([asked], savepoints=True)
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            return error
        return outcome

    def _together(self, group: Sequence[Asked], *, savepoints: bool) -> list[Outcome]:
        names = sorted({asked.request.device.hex() for asked in group})
        self._read_keys(names)
        times = [self.clock() for _ in group]
        places = [asked.trace for asked in group]
        with traces.joint_span("verify", places, hwtrust_group_size=len(group)):
            by_keys = {name: self._keys.get(name) for name in names}
            verified = self._verified(group, times)

        def work(session: Session) -> list[Outcome]:
            devices = lock_states(session, names)
            changed = self._note_keys(devices, by_keys)
            self.attestations.rotation.prepare(session, list(devices))
            outcomes: list[Outcome] = []
            for asked, result, now in zip(group, verified, times, strict=True):
                known = result
                if asked.request.device.hex() in changed:
                    (known,) = self._verified([asked], [now])
                with traces.span("appraise", within=asked.trace):
                    outcomes.append(
                        self._turn(session, devices, asked, known, now, savepoints=savepoints)
                    )
            write_states(session, devices.values())
            return outcomes

        with traces.joint_span("commit", places, hwtrust_group_size=len(group)):
            return self.database.run(work)

    def _read_keys(self, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in self._keys]
        if not missing:
            return
        if len(self._keys) > KEYS_KEPT:
            self._keys.clear()
            missing = list(names)
        with self.database.reading() as session:
            self._keys.update(keys_of(session, missing))

    def _note_keys(
        self, devices: Mapping[str, DeviceState], by_keys: Mapping[str, DeviceKeys | None]
    ) -> set[str]:
        """Remember the keys of locked rows; gives the devices that were verified by others.

        `by_keys` are those: what is remembered is newer where a transaction is done again.
        """
        found = {name: DeviceKeys.of(device) for name, device in devices.items()}
        changed = {name for name, keys in found.items() if by_keys.get(name) != keys}
        self._keys.update(found)
        return changed

    def _verified(
        self, group: Sequence[Asked], times: Sequence[int]
    ) -> list[Verified | HwTrustError]:
        """By the keys as they are remembered; all signatures one after the other."""
        opened = [self._opened(asked, now) for asked, now in zip(group, times, strict=True)]
        verified = iter(
            self.attestations.verify_all([one for one in opened if isinstance(one, Opened)])
        )
        return [next(verified) if isinstance(one, Opened) else one for one in opened]

    def _opened(self, asked: Asked, now: int) -> Opened | HwTrustError:
        try:
            if asked.refusal is not None:
                raise asked.refusal
            purpose_of(asked.request, asked.identity)
            known = self._keys.get(asked.request.device.hex())
            if known is None:
                raise DeviceUnknownError("this device is not enrolled here")
            return self.attestations.open(
                asked.request, keys=known, identity=asked.identity, now=now
            )
        except HwTrustError as error:
            return error

    def _turn(
        self,
        session: Session,
        devices: dict[str, DeviceState],
        asked: Asked,
        verified: Verified | HwTrustError,
        now: int,
        *,
        savepoints: bool,
    ) -> Outcome:
        try:
            device, verified = self._admitted(session, devices, verified, now)
        except HwTrustError as error:
            return _refused(session, asked, error, now)
        if not savepoints and not asked.request.csr:
            # What this raises was not foreseen: rule 3.
            return self.attestations.decide(session, device, verified, now=now)
        before = copy(device)
        try:
            with session.begin_nested():
                return self.attestations.decide(session, device, verified, now=now)
        except HwTrustError as error:
            devices[device.id] = before
            return _refused(session, asked, error, now)

    def _admitted(
        self,
        session: Session,
        devices: Mapping[str, DeviceState],
        verified: Verified | HwTrustError,
        now: int,
    ) -> tuple[DeviceState, Verified]:
        """The locked row, and evidence that was verified against it; nothing is changed."""
        if isinstance(verified, HwTrustError):
            raise verified
        device = held(devices, verified.keys.id)
        return device, self.attestations.admit(session, device, verified, now=now)


def _refused(session: Session, asked: Asked, error: HwTrustError, now: int) -> HwTrustError:
    """Leave a record of a refusal; gives the error."""
    if isinstance(error, DatabaseError):
        raise error
    if isinstance(error, DeviceUnknownError):
        # Anybody can name a device that does not exist: no record for that.
        return error
    record_refusal(
        session,
        Event.EVIDENCE_REFUSED,
        error,
        now=now,
        device=asked.request.device.hex(),
        evidence=evidence_digest(asked.request.evidence),
    )
    return error
