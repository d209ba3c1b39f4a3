"""Measure layers into the application PCR, and keep the log that explains it.

    PCR  reset ─▶ layer ─▶ … ─▶ layer ─▶ cap ─▶ reload ─▶ layer ─▶ …
    log  the same events, one record each, written first

Rules:
1. A record is on disk before its event is extended. A log that is one record
   ahead of the PCR, or whose last record is torn, is cut back; any other
   difference is a conflict, and nothing is extended on top of it.
2. An extend whose outcome is not known is settled against the PCR before the
   log is used again: a record is dropped only when the TPM has not extended it.
3. Every bank that the TPM has is extended in one command, through a salted
   session whose HMAC shows that the TPM did it.
4. A PCR that reads its reset value is a cold start: the log of the last boot is
   set aside as `eventlog.previous`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hwtrust.errors import StateDiskError, StateMissingError, TpmPcrConflictError
from hwtrust.files import read_limited, state_error, sync_directory, write_atomic
from hwtrust.tpm import commands
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import LOG_LIMIT, RESET_VALUE, Event, EventLog
from hwtrust.wire.structures import PcrSelection

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hwtrust.tpm.connection import Tpm
    from hwtrust.tpm.sessions import Session


class MeasuredLog:
    """The application PCR and its event log, held together."""

    def __init__(self, path: Path, *, pcr: int, banks: tuple[Alg, ...]) -> None:
        """`path` is the log's file; `banks` are all that the TPM has allocated."""
        self.path = path
        self.pcr = pcr
        self.banks = banks
        self.log = EventLog()
        self._torn = False
        self._unsettled = True

    def synchronise(self, values: Mapping[int, bytes]) -> bool:
        """Hold the log against the PCR, whose value is in `values`.

        Gives True for a cold start: nothing has been measured since the reset.

        Raises:
            TpmPcrConflictError: the PCR holds what this log does not explain.
        """
        value = values[self.pcr]
        self._unsettled = True
        if value == RESET_VALUE:
            self._set_aside()
            self._unsettled = False
            return True
        log = kept = self._read()
        if log.value() != value:
            log = log.without_last()
        if log.value() != value:
            message = f"PCR {self.pcr} holds what the event log does not explain"
            raise TpmPcrConflictError(message, pcr=self.pcr)
        if log != kept or self._torn:
            write_atomic(self.path, log.encode())
        self.log = log
        self._unsettled = False
        return False

    def extend(self, tpm: Tpm, event: Event, session: Session, *, last: bool = False) -> None:
        """Write a record, then extend its event; `last` ends the session.

        Raises:
            StateError: the record cannot be written; nothing is extended.
            TpmError: the TPM refused, or it is not known whether it has extended.
            TpmPcrConflictError: the PCR holds what this log does not explain.
        """
        self.settle(tpm)
        grown = self.log.appended(event, pcr=self.pcr, banks=self.banks)
        self._unsettled = True
        self._append(grown.records[-1].encode())
        commands.pcr_extend(tpm, self.pcr, event.digests(self.banks), session, last=last)
        self.log = grown
        self._unsettled = False

    def settle(self, tpm: Tpm) -> None:
        """Hold the log against the PCR where that is due; else no command is sent.

        It is due at the start, and after an extend whose outcome is not known.

        Raises:
            TpmPcrConflictError: the PCR holds what this log does not explain.
        """
        if self._unsettled:
            selection = application_selection(self.pcr, ())
            self.synchronise(commands.pcr_read(tpm, selection)[Alg.SHA256])

    def _append(self, record: bytes) -> None:
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            write_atomic(self.path, record)
            return
        except OSError as error:
            raise state_error(error, self.path) from error
        try:
            written = os.write(descriptor, record)
            if written != len(record):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
                message = f"the event log {self.path} cannot grow: the disk is full"
                raise StateDiskError(message, path=str(self.path), reason="full")
            os.fsync(descriptor)
        except OSError as error:
            raise state_error(error, self.path) from error
        finally:
            os.close(descriptor)

    def _read(self) -> EventLog:
        self._torn = False
        try:
            data = read_limited(self.path, limit=LOG_LIMIT)
        except StateMissingError:
            return EventLog()
        log = EventLog.recover(data)
        self._torn = log.encode() != data
        return log

    def _set_aside(self) -> None:
        self.log = EventLog()
        try:
            self.path.replace(self.path.with_suffix(".previous"))
            sync_directory(self.path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise state_error(error, self.path) from error


def application_selection(pcr: int, platform_pcrs: tuple[int, ...]) -> PcrSelection:
    """The SHA-256 PCRs that a device's quotes and approvals cover."""
    return PcrSelection(((Alg.SHA256, tuple(sorted({pcr, *platform_pcrs}))),))
