"""The keys that sign results: made, published, turned and withdrawn.

        made ──▶ next ──▶ current ──▶ previous ──▶ gone
        published: ├─────────────────────────┤

Rules:
1. The next key is published a while before it signs: whoever keeps the set of keys
   for as long as it may be kept knows every key that can have signed.
2. A previous key stays published until all that it can have signed has expired.
   Its private half is removed at once.
3. Whoever changes the keys locks the ring's row first and then looks again: of
   several replicas one acts, and the others see that it is done.
4. Private keys lie in the database sealed, bound to their names.
5. A key that was compromised is withdrawn at once. Every result that it signed is
   refused from then on by whoever fetches the set of keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from hwtrust.errors import DatabaseError, ResultKeyEarlyError, SealedError
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import Settings, spell_span
from hwtrust_backend.config.clock import DAY, HOUR
from hwtrust_backend.keys import KeyVault, Secret
from hwtrust_backend.keys.sealing import seal_value, unseal_value
from hwtrust_backend.results.jwks import Jwks, coordinates, jwk, thumbprint
from hwtrust_backend.results.models import KeyState, ResultKey, ResultKeyRing

PURPOSE: Final = "result keys"
"""For what the vault derives the key that seals private keys."""
MAX_AGE_SECONDS: Final = 3600
"""How long the set of keys may be kept by who has fetched it."""
LEAD_MS: Final = 2 * HOUR
"""How long a key is published before it signs: the set may be kept for half of that."""
TAIL_MS: Final = DAY + HOUR
"""How long it stays published afterwards: no result is good for more than a day."""

_PUBLISHED: Final = (KeyState.NEXT, KeyState.CURRENT, KeyState.PREVIOUS)


class KeyReport(msgspec.Struct, frozen=True, kw_only=True):
    """A key as lists show it. Times are UTC milliseconds."""

    kid: str
    state: str
    made_at: int
    current_at: int | None
    retired_at: int | None


@dataclass(frozen=True, slots=True)
class ResultKeys:
    """The keys of one backend; every method works in its caller's transaction."""

    settings: Settings
    vault: KeyVault

    def signing(self, session: Session, *, now: int) -> tuple[str, ec.EllipticCurvePrivateKey]:
        """The name of the current key, and the key; the first one is made here.

        Raises:
            SealedError: the database is another backend's.
        """
        row = _in_state(session, KeyState.CURRENT)
        if row is None:
            self.keep(session, now=now)
            row = _in_state(session, KeyState.CURRENT)
        if row is None or row.private is None:
            raise SealedError("there is no key that signs results")
        plain = unseal_value(self._sealer, row.private, context=_context(row.kid))
        key = load_der_private_key(plain.reveal(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SealedError("the key that signs results is of another kind")
        return row.kid, key

    def published(self, session: Session) -> Jwks:
        """The set of keys for relying parties; what signs comes first."""
        rows = session.scalars(select(ResultKey).where(ResultKey.state.in_(_PUBLISHED)))
        order = (KeyState.CURRENT, KeyState.NEXT, KeyState.PREVIOUS)
        ordered = sorted(rows, key=lambda row: (order.index(row.state), -row.made_at, row.kid))
        return Jwks(keys=tuple(jwk(row.x, row.y) for row in ordered))

    def report(self, session: Session) -> list[KeyReport]:
        """Every key that there ever was, the newest first."""
        rows = session.scalars(select(ResultKey).order_by(ResultKey.made_at.desc(), ResultKey.kid))
        return [
            KeyReport(
                kid=row.kid,
                state=row.state.value,
                made_at=row.made_at,
                current_at=row.current_at,
                retired_at=row.retired_at,
            )
            for row in rows
        ]

    def is_due(self, session: Session, *, now: int) -> bool:
        """Whether `keep` has something to do."""
        current, following = (
            _in_state(session, state) for state in (KeyState.CURRENT, KeyState.NEXT)
        )
        if current is None or following is None or self._turns(current, following, now):
            return True
        return bool(_over(session, now))

    def keep(self, session: Session, *, now: int) -> None:
        """Do what is due: make missing keys, turn at the end of a key's life, drop old ones."""
        _lock(session)
        if _in_state(session, KeyState.NEXT) is None:
            self._make(session, now)
        current, following = self._both(session)
        if current is None or self._turns(current, following, now):
            self._turn(session, now=now, by="", reason="age" if current else "first")
        for row in _over(session, now):
            row.state = KeyState.GONE

    def rotate(self, session: Session, *, by: str, now: int) -> str:
        """Let the next key sign from now on; gives its name.

        Raises:
            ResultKeyEarlyError: it was published too short a time ago.
        """
        self.keep(session, now=now)
        _, following = self._both(session)
        early = following.made_at + LEAD_MS - now
        if early > 0:
            message = f"the next key may not sign for another {spell_span(early)}"
            raise ResultKeyEarlyError(message)
        return self._turn(session, now=now, by=by, reason="asked")

    def withdraw(self, session: Session, *, by: str, now: int) -> str:
        """Drop every key that has signed, at once, and sign with a new one; gives its name.

        The next key goes too: it was kept beside the one that is compromised.
        """
        _lock(session)
        for state in _PUBLISHED:
            for row in _all_in_state(session, state):
                row.state, row.private = KeyState.GONE, None
                row.retired_at = row.retired_at or now
                reason = f"key {row.kid} was {state}"
                record(session, Event.RESULT_KEY_WITHDRAWN, now=now, reason=reason, actor=by)
        session.flush()
        self._make(session, now)
        return self._turn(session, now=now, by=by, reason="compromised")

    @property
    def _sealer(self) -> Secret:
        return self.vault.derive(PURPOSE)

    def _both(self, session: Session) -> tuple[ResultKey | None, ResultKey]:
        following = _in_state(session, KeyState.NEXT)
        if following is None:
            raise DatabaseError("there is no next key for results")
        return _in_state(session, KeyState.CURRENT), following

    def _turns(self, current: ResultKey, following: ResultKey, now: int) -> bool:
        age = now - (current.current_at or current.made_at)
        published = now - following.made_at
        return age >= self.settings.result_key_lifetime_ms and published >= LEAD_MS

    def _turn(self, session: Session, *, now: int, by: str, reason: str) -> str:
        current, following = self._both(session)
        if current is not None:
            current.state, current.retired_at, current.private = KeyState.PREVIOUS, now, None
        following.state, following.current_at = KeyState.CURRENT, now
        session.flush()
        self._make(session, now)
        told = f"key {following.kid}, {reason}"
        record(session, Event.RESULT_KEY_TURNED, now=now, reason=told, actor=by)
        return following.kid

    def _make(self, session: Session, now: int) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        x, y = coordinates(key.public_key())
        kid = thumbprint(x, y)
        plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        row = ResultKey(
            kid=kid,
            state=KeyState.NEXT,
            x=x,
            y=y,
            private=seal_value(self._sealer, plain, context=_context(kid)),
            made_at=now,
            current_at=None,
            retired_at=None,
        )
        session.add(row)
        session.flush()


def _lock(session: Session) -> None:
    moved = session.execute(
        update(ResultKeyRing)
        .where(ResultKeyRing.id == 1)
        .values(changes=ResultKeyRing.changes + 1),
        execution_options={"synchronize_session": False},
    )
    if moved.rowcount != 1:  # type: ignore[attr-defined]
        raise DatabaseError("the keys of results have no ring")


def _all_in_state(session: Session, state: KeyState) -> list[ResultKey]:
    query = select(ResultKey).where(ResultKey.state == state).order_by(ResultKey.made_at)
    # What another replica has changed before this one got the lock counts.
    return list(session.scalars(query.execution_options(populate_existing=True)))


def _in_state(session: Session, state: KeyState) -> ResultKey | None:
    found = _all_in_state(session, state)
    return found[-1] if found else None


def _over(session: Session, now: int) -> list[ResultKey]:
    return [
        row
        for row in _all_in_state(session, KeyState.PREVIOUS)
        if row.retired_at is None or now - row.retired_at >= TAIL_MS
    ]


def _context(kid: str) -> str:
    return f"result key {kid}"
