"""Who acts, and what they may do: roles, groups, API tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.errors import (
    ApiTokenConflictError,
    ApiTokenUnknownError,
    CredentialsError,
    ForbiddenError,
    HwTrustError,
    PolicyUnknownError,
    RequestError,
)
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.api_tokens import (
    LONGEST_LIFETIME_MS,
    api_token,
    api_token_page,
    create_api_token,
    revoke_api_token,
)
from hwtrust_backend.admin.models import ApiToken
from hwtrust_backend.admin.principals import (
    Principal,
    Role,
    authenticate,
    note_use,
    was_used_lately,
)
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.testing import DAY, MINUTE
from simulators.device_rows import add_groups

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust_backend.app.backend import Backend

ROOT = Principal(name="cli:root", role=Role.ADMINISTRATOR, groups=None)


@pytest.fixture(autouse=True)
def _groups(backend: Backend) -> None:
    with backend.database.transaction() as session:
        add_groups(session, "eu", "us")


def make_token(
    backend: Backend,
    name: str = "ci",
    *,
    role: Role = Role.VIEWER,
    groups: list[str] | None = None,
    lifetime_ms: int = DAY,
    by: Principal = ROOT,
) -> str:
    """A new API token."""
    with backend.database.transaction() as session:
        _, token = create_api_token(
            session,
            name=name,
            role=role,
            groups=groups,
            lifetime_ms=lifetime_ms,
            by=by,
            now=backend.clock(),
        )
    return token


def principal_of(backend: Backend, token: str) -> Principal:
    """Whose token this is now."""
    with backend.database.reading() as session:
        return authenticate(session, token, now=backend.clock())


@pytest.mark.parametrize(
    ("has", "needed", "passes"),
    [
        pytest.param(Role.VIEWER, Role.VIEWER, True, id="a viewer sees"),
        pytest.param(Role.VIEWER, Role.OPERATOR, False, id="a viewer operates nothing"),
        pytest.param(Role.OPERATOR, Role.VIEWER, True, id="an operator sees"),
        pytest.param(
            Role.OPERATOR, Role.ADMINISTRATOR, False, id="an operator does not administer"
        ),
        pytest.param(Role.ADMINISTRATOR, Role.OPERATOR, True, id="an administrator operates"),
    ],
)
def test_a_role_includes_the_lesser_ones(has: Role, needed: Role, passes: bool) -> None:
    """What takes a role is refused to lesser ones."""
    principal = Principal(name="token:x", role=has, groups=None)
    if passes:
        principal.require(needed)
        return
    with pytest.raises(ForbiddenError) as caught:
        principal.require(needed)
    assert caught.value.code == "access:forbidden"


def test_who_is_limited_to_groups_may_not_do_what_concerns_all_devices() -> None:
    """A limit to groups is a limit, also for an administrator."""
    limited = Principal(name="token:x", role=Role.ADMINISTRATOR, groups=frozenset({"eu"}))
    assert (limited.sees("eu"), limited.sees("us")) == (True, False)
    limited.require(Role.ADMINISTRATOR)
    with pytest.raises(ForbiddenError):
        limited.require_all_groups(Role.ADMINISTRATOR)
    ROOT.require_all_groups(Role.ADMINISTRATOR)


def test_a_token_is_whom_it_was_made_for(backend: Backend) -> None:
    """Name, role and groups of the caller come from the token."""
    token = make_token(backend, role=Role.OPERATOR, groups=["us", "eu"])
    assert token.startswith("hwt_")
    assert principal_of(backend, token) == Principal(
        name="token:ci", role=Role.OPERATOR, groups=frozenset({"eu", "us"})
    )


def test_a_token_is_not_in_the_database(backend: Backend) -> None:
    """Whoever reads the database, or the audit trail, cannot call with what is there."""
    token = make_token(backend)
    with backend.database.reading() as session:
        row = session.query(ApiToken).one()
        told = session.query(AuditRecord).filter_by(event=Event.API_TOKEN_CREATED).one()
    stored = b"".join(
        value if isinstance(value, bytes) else str(value).encode()
        for record in (row, told)
        for value in vars(record).values()
    )
    assert token.encode() not in stored
    assert token.removeprefix("hwt_").encode() not in stored
    assert told.actor == "cli:root"


def revoked(backend: Backend, token: str, name: str) -> str:
    """The token, revoked."""
    with backend.database.transaction() as session:
        revoke_api_token(session, name, by=ROOT, now=backend.clock())
    return token


def expired(backend: Backend, token: str, _: str) -> str:
    """The token, a day later."""
    backend.clock.advance(DAY)  # type: ignore[attr-defined]
    return token


def other(_: Backend, token: str, __: str) -> str:
    """A token of the right form that nobody made."""
    return token[:-1] + ("A" if token[-1] != "A" else "B")


REFUSED: dict[str, Callable[[Backend, str, str], str]] = {
    "none at all": lambda _, __, ___: "",
    "another one of the right form": other,
    "one without its prefix": lambda _, token, __: token.removeprefix("hwt_"),
    "one with something behind it": lambda _, token, __: token + "x",
    "letters beyond ASCII": lambda _, token, __: token[:-1] + "\u00e9",
    "half of a surrogate pair": lambda _, token, __: token[:-1] + "\ud800",
    "one that was revoked": revoked,
    "one that is expired": expired,
}


def test_what_is_no_token_in_force_is_refused_in_the_same_words(backend: Backend) -> None:
    """Whoever tries tokens learns nothing of which exist."""
    refusals = set()
    for number, change in enumerate(REFUSED.values()):
        presented = change(backend, make_token(backend, f"t{number}"), f"t{number}")
        with pytest.raises(CredentialsError) as caught:
            principal_of(backend, presented)
        assert caught.value.code == "access:credentials"
        refusals.add((caught.value.message, *caught.value.data))
    assert len(refusals) == 1


def test_when_a_token_was_used_is_noted_once_a_minute(backend: Backend) -> None:
    """A busy program costs a write a minute, not one a request."""
    token = make_token(backend)
    first = backend.clock()

    def used_at(now: int) -> int | None:
        with backend.database.transaction() as session:
            assert was_used_lately(session, token, now=now) is (first < now < first + MINUTE)
            note_use(session, token, now=now)
        with backend.database.reading() as session:
            return session.query(ApiToken).one().last_used_at

    assert used_at(first) == first
    assert used_at(first + MINUTE - 1) == first
    assert used_at(first + MINUTE) == first + MINUTE


BAD: dict[str, tuple[dict[str, Any], type[HwTrustError]]] = {
    "no lifetime": ({"lifetime_ms": 0}, RequestError),
    "a lifetime of more than a year": ({"lifetime_ms": LONGEST_LIFETIME_MS + 1}, RequestError),
    "limited to no group at all": ({"groups": []}, RequestError),
    "limited to a group that is none": ({"groups": ["eu", "moon"]}, PolicyUnknownError),
    "a name of two words": ({"name": "two words"}, RequestError),
    "a name with a line break": ({"name": "ci\n"}, RequestError),
    "no name": ({"name": ""}, RequestError),
}


def test_a_token_that_makes_no_sense_is_not_made(backend: Backend) -> None:
    """Every token ends, says who it is, and is limited to what exists."""
    for changes, error in BAD.values():
        with pytest.raises(error) as caught:
            make_token(backend, **changes)
        assert caught.value.code == error.code
    with backend.database.reading() as session:
        assert session.query(ApiToken).count() == 0


def test_a_name_is_given_once(backend: Backend) -> None:
    """The audit trail says who acted, also years later."""
    make_token(backend)
    with backend.database.transaction() as session:
        revoke_api_token(session, "ci", by=ROOT, now=backend.clock())
    with pytest.raises(ApiTokenConflictError) as caught:
        make_token(backend)
    assert caught.value.code == "api-token:conflict"


LESSER = {
    "a viewer": Principal("t", Role.VIEWER, None),
    "an operator": Principal("t", Role.OPERATOR, None),
    "an administrator of a group": Principal("t", Role.ADMINISTRATOR, frozenset({"eu"})),
}


def test_tokens_are_for_administrators_of_all_devices(backend: Backend) -> None:
    """Nobody gives himself, or somebody else, more than he has; nor does he see who has it."""
    make_token(backend)
    now = backend.clock()
    for by in LESSER.values():
        with pytest.raises(ForbiddenError):
            make_token(backend, "own", groups=["eu"], by=by)
        with backend.database.transaction() as session:
            with pytest.raises(ForbiddenError):
                revoke_api_token(session, "ci", by=by, now=now)
            with pytest.raises(ForbiddenError):
                api_token(session, "ci", by=by, now=now)
            with pytest.raises(ForbiddenError):
                api_token_page(session, by=by, now=now)
    with backend.database.reading() as session:
        assert [row.revoked_at for row in session.query(ApiToken)] == [None]


def test_tokens_are_listed_page_by_page(backend: Backend) -> None:
    """Each token is in one page, in the order of the names."""
    names = [f"t{number}" for number in range(5)]
    for name in names:
        make_token(backend, name)
    found: list[str] = []
    cursor = None
    with backend.database.reading() as session:
        for _ in range(3):
            page = api_token_page(session, by=ROOT, now=backend.clock(), cursor=cursor, limit=2)
            found += [row.name for row in page.tokens]
            cursor = page.next
        with pytest.raises(ApiTokenUnknownError):
            api_token(session, "t9", by=ROOT, now=backend.clock())
    assert (found, cursor) == (names, None)


def test_the_command_line_acts_in_the_name_of_its_user() -> None:
    """What is done on the machine itself is somebody's doing."""
    principal = local_administrator()
    assert principal.name.startswith("cli:")
    assert len(principal.name) > len("cli:")
    principal.require_all_groups(Role.ADMINISTRATOR)
