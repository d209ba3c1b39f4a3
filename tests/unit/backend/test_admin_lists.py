"""What lets devices in, what they are held to, and the trail, as administrators manage them."""

from __future__ import annotations

import csv
import hashlib
import threading
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import (
    AuditRecordUnknownError,
    EkAuthorityConflictError,
    EkAuthorityRefusedError,
    EkAuthorityUnknownError,
    EkImportError,
    EkUnlistedError,
    ForbiddenError,
    HwTrustError,
    PolicyUnknownError,
    ReleaseMissingError,
    RequestError,
    TokenError,
    TokenUnknownError,
    WebhookUnknownError,
)
from hwtrust_backend.admin import authorities, eks, hooks, releases, rules, tokens, trail
from hwtrust_backend.admin.paging import cursor_of
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.audit import AuditRecord, Event, record
from hwtrust_backend.enrolment import AllowedEk, EnrolmentToken
from hwtrust_backend.enrolment.authorities import AuthorityKind
from hwtrust_backend.enrolment.tokens import create_token, find_token, use_token
from hwtrust_backend.policies import DEFAULT_DOCUMENT
from hwtrust_backend.testing import DAY, HOUR
from hwtrust_backend.webhooks import Topic
from simulators.device_rows import add_device, add_groups, device_name
from simulators.ek_authority import EkAuthority, new_ek

if TYPE_CHECKING:
    from hwtrust_backend.app.backend import Backend

ROOT = Principal(name="cli:root", role=Role.ADMINISTRATOR, groups=None)
EU = Principal(name="token:eu", role=Role.ADMINISTRATOR, groups=frozenset({"eu"}))
VIEWER = Principal(name="token:ro", role=Role.VIEWER, groups=None)
OPERATOR = Principal(name="token:op", role=Role.OPERATOR, groups=None)


@pytest.fixture(autouse=True)
def _groups(backend: Backend) -> None:
    with backend.database.transaction() as session:
        add_groups(session, "eu", "us")


# --- enrolment tokens --------------------------------------------------------------


def test_of_many_devices_that_race_for_a_token_as_many_win_as_it_allows(backend: Backend) -> None:
    """One use of a token lets one device in, on every database (42)."""
    with backend.database.transaction() as session:
        text = create_token(session, label="", lifetime_ms=HOUR, uses=3, now=backend.clock())
        digest = find_token(session, text, now=backend.clock())
    won: list[int] = []
    lost: list[int] = []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        barrier.wait()
        try:
            with backend.database.transaction() as session:
                use_token(session, digest, device=device_name(number), now=backend.clock())
        except TokenError:
            lost.append(number)
        else:
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (3, 5)
    with backend.database.reading() as session:
        assert session.get_one(EnrolmentToken, digest).uses == 3
        with pytest.raises(TokenError) as caught:
            find_token(session, text, now=backend.clock())
        assert caught.value.code == "enrolment:token:refused"


def test_a_token_counts_neither_when_revoked_nor_when_expired_nor_when_guessed(
    backend: Backend,
) -> None:
    """What is refused is refused in the same words, and is not used up (43)."""
    now = backend.clock()
    with backend.database.transaction() as session:
        report, revoked = tokens.create_token(session, lifetime_ms=HOUR, by=ROOT, now=now)
        _, expired = tokens.create_token(session, lifetime_ms=HOUR, by=ROOT, now=now - 2 * HOUR)
        tokens.revoke_token(session, report.id, by=ROOT, now=now)
    refusals = set()
    with backend.database.transaction() as session:
        for text in (revoked, expired, revoked[:-1], "", "\u00e9", "\ud800"):
            with pytest.raises(TokenError) as caught:
                find_token(session, text, now=now)
            refusals.add(caught.value.message)
        for row in session.query(EnrolmentToken):
            with pytest.raises(TokenError):
                use_token(session, row.digest, device="", now=now)
            assert row.uses == 0
    assert len(refusals) == 1


def test_a_token_is_made_for_a_time_and_a_number_and_a_group(backend: Backend) -> None:
    """None lasts for ever, none lets everybody in, none leads to a group of others."""
    now = backend.clock()
    with backend.database.transaction() as session:
        for lifetime in (0, tokens.LONGEST_LIFETIME_MS + 1):
            with pytest.raises(RequestError):
                tokens.create_token(session, lifetime_ms=lifetime, by=ROOT, now=now)
        for uses in (0, tokens.MOST_USES + 1):
            with pytest.raises(RequestError):
                tokens.create_token(session, lifetime_ms=1, uses=uses, by=ROOT, now=now)
        for group in ("us", "default", "moon"):
            with pytest.raises(PolicyUnknownError):
                tokens.create_token(session, lifetime_ms=1, group=group, by=EU, now=now)
        with pytest.raises(ForbiddenError):
            tokens.create_token(session, lifetime_ms=1, by=VIEWER, now=now)
        assert session.query(EnrolmentToken).count() == 0


def test_a_tenant_sees_its_own_tokens_page_by_page(backend: Backend) -> None:
    """Another's token can neither be listed nor revoked."""
    made = []
    with backend.database.transaction() as session:
        for number in range(5):
            report, _ = tokens.create_token(
                session, group="eu", lifetime_ms=DAY, by=ROOT, now=backend.clock() + number
            )
            made.append(report.id)
        other, _ = tokens.create_token(
            session, group="us", lifetime_ms=DAY, by=ROOT, now=backend.clock()
        )
    found: list[str] = []
    cursor = None
    with backend.database.transaction() as session:
        for _ in range(3):
            page = tokens.token_page(session, by=EU, now=backend.clock(), cursor=cursor, limit=2)
            found += [row.id for row in page.tokens]
            cursor = page.next
        assert (found, cursor) == (made, None)
        with pytest.raises(TokenUnknownError) as caught:
            tokens.revoke_token(session, other.id, by=EU, now=backend.clock())
        assert caught.value.code == "token:unknown"
        assert tokens.token(session, other.id, by=ROOT, now=backend.clock()).state == "open"


# --- endorsement keys --------------------------------------------------------------

NAMES = [device_name(number) for number in range(4)]


def imported(backend: Backend, content: str | bytes, by: Principal = ROOT) -> eks.EkImport:
    """What a file comes to."""
    encoded = content.encode() if isinstance(content, str) else content
    with backend.database.transaction() as session:
        return eks.import_eks(session, encoded, by=by, now=backend.clock())


def listed(backend: Backend) -> dict[str, tuple[str, str]]:
    """Label and group of every EK on the list."""
    with backend.database.reading() as session:
        return {row.name: (row.label, row.group) for row in session.query(AllowedEk)}


def test_a_file_is_imported_and_what_is_exported_is_the_same(backend: Backend) -> None:
    """Header, byte order mark, quotes, empty lines and upper case are no obstacle."""
    file = (
        "\ufeffName,Label,Group\r\n"
        f'{NAMES[0]},"hall 2, left",eu\r\n\r\n'
        f"{NAMES[1].upper()}\r\n"
        f"{NAMES[1]}\r\n"
    )
    assert imported(backend, file) == eks.EkImport(added=2, changed=0, unchanged=0)
    wanted = {NAMES[0]: ("hall 2, left", "eu"), NAMES[1]: ("", "default")}
    assert listed(backend) == wanted
    with backend.database.reading() as session:
        exported = "".join(eks.export_eks(session, by=VIEWER))
        own = list(csv.reader(eks.export_eks(session, by=EU)))
    assert own == [["name", "label", "group"], [NAMES[0], "hall 2, left", "eu"]]
    assert imported(backend, exported) == eks.EkImport(added=0, changed=0, unchanged=2)
    assert imported(backend, f"{NAMES[1]},new") == eks.EkImport(added=0, changed=1, unchanged=0)
    with backend.database.reading() as session:
        told = session.query(AuditRecord).filter_by(event=Event.EK_IMPORTED).all()
    assert [row.actor for row in told] == ["cli:root"] * 3


BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "a name that is none": (f"{NAMES[0]}\nnone\n", "2"),
    "a name that is too short": (f"name\n{NAMES[0][:-2]}\n", "2"),
    "a column too many": (f"{NAMES[0]},a,eu,b\n", "1"),
    "a group that is none": (f"{NAMES[0]}\n{NAMES[1]},,moon\n", "2"),
    "a label with a line break": (f'{NAMES[0]},"a\nb"\n', "2"),
    "a label that is too long": (f"{NAMES[0]},{'x' * 201}\n", "1"),
    "a NUL": (f"{NAMES[0]},a\x00\n", "1"),
    "one name with two labels": (f"{NAMES[0]},a\n{NAMES[1]}\n{NAMES[0]},b\n", "3"),
    "a quote that is not closed": (f'{NAMES[0]},"a\n', "1"),
    "bytes that are no UTF-8": (f"{NAMES[0]}\n".encode() + b"\xff\n", "2"),
    "two bad lines, both of which are named": (f"x\n{NAMES[0]}\ny\n", "1 3"),
}


def test_a_file_with_a_bad_line_is_refused_with_its_number_and_changes_nothing(
    backend: Backend,
) -> None:
    """All or nothing: half a delivery on the list would be found out much later."""
    for sentence, (content, lines) in BAD_FILES.items():
        with pytest.raises(EkImportError) as caught:
            imported(backend, content)
        assert caught.value.code == "ek:import", sentence
        assert caught.value.data["lines"] == lines, sentence
    with pytest.raises(EkImportError):
        imported(backend, b"x" * (eks.FILE_LIMIT + 1))
    assert listed(backend) == {}


def test_a_tenant_touches_no_ek_of_others(backend: Backend) -> None:
    """Neither by a file, nor one by one; nor does it put one into another's group."""
    imported(backend, f"{NAMES[0]},theirs,us\n{NAMES[1]},own,eu\n")
    before = listed(backend)
    with pytest.raises(EkImportError) as caught:
        imported(backend, f"{NAMES[1]},x,eu\n{NAMES[0]},x,eu\n", EU)
    assert caught.value.data["lines"] == "2"
    with pytest.raises(EkImportError):
        imported(backend, f"{NAMES[2]},x,us\n", EU)
    with backend.database.transaction() as session:
        with pytest.raises(ForbiddenError):
            eks.allow_ek(session, NAMES[0], group="eu", by=EU, now=1)
        with pytest.raises(PolicyUnknownError):
            eks.allow_ek(session, NAMES[2], group="us", by=EU, now=1)
        for do in (
            lambda: eks.remove_ek(session, NAMES[0], by=EU, now=1),
            lambda: eks.ek(session, NAMES[0], by=EU),
        ):
            with pytest.raises(EkUnlistedError):
                do()
        assert [row.name for row in eks.ek_page(session, by=EU).eks] == [NAMES[1]]
    assert listed(backend) == before


def test_a_tenant_cannot_have_the_device_of_another_enrol_into_its_group(
    backend: Backend,
) -> None:
    """The list comes before tokens, so that it would take the device over."""
    with backend.database.transaction() as session:
        add_device(session, 2, group="us")
    with pytest.raises(EkImportError):
        imported(backend, f"{device_name(2)},x,eu\n", EU)
    with backend.database.transaction() as session, pytest.raises(ForbiddenError) as caught:
        eks.allow_ek(session, device_name(2), group="eu", by=EU, now=1)
    assert caught.value.code == "access:forbidden"
    assert listed(backend) == {}
    assert imported(backend, f"{device_name(2)},x,us\n").added == 1


# --- TPM vendors -------------------------------------------------------------------


def import_ca(
    backend: Backend,
    content: bytes,
    kind: AuthorityKind = AuthorityKind.CERTIFICATES,
    by: Principal = ROOT,
) -> authorities.AuthorityImport:
    """What importing a file comes to."""
    with backend.database.transaction() as session:
        return authorities.import_authority(
            session,
            content,
            authorities=backend.enrolments.authorities,
            kind=kind,
            by=by,
            now=backend.clock(),
        )


def anchors(backend: Backend) -> int:
    """How many trust anchors are in force."""
    with backend.database.reading() as session:
        return len(backend.enrolments.authorities.load(session).roots)


def test_what_is_imported_counts_at_once_and_until_it_is_removed(backend: Backend) -> None:
    """The vendors are in the database, so that every replica knows them."""
    vendor = EkAuthority.new()
    assert anchors(backend) == 0
    found = [import_ca(backend, file) for file in vendor.files]
    assert anchors(backend) == sum(item.roots for item in found) == 1
    with pytest.raises(EkAuthorityConflictError) as caught:
        import_ca(backend, vendor.files[0])
    assert caught.value.code == "ek-authority:conflict"
    with backend.database.transaction() as session:
        for item in found:
            authorities.drop_authority(session, item.authority.id, by=ROOT, now=1)
        with pytest.raises(EkAuthorityUnknownError):
            authorities.drop_authority(session, found[0].authority.id, by=ROOT, now=1)
    assert anchors(backend) == 0


def test_an_intermediate_is_an_anchor_where_an_administrator_says_so(backend: Backend) -> None:
    """A CA that has not signed itself counts below a root, unless it was named an anchor."""
    intermediate = EkAuthority.new().intermediate.der
    as_told = import_ca(backend, intermediate, AuthorityKind.CERTIFICATES)
    assert (as_told.roots, as_told.intermediates, anchors(backend)) == (0, 1, 0)
    with backend.database.transaction() as session:
        authorities.drop_authority(session, as_told.authority.id, by=ROOT, now=1)
    as_anchor = import_ca(backend, intermediate, AuthorityKind.ANCHORS)
    assert (as_anchor.roots, anchors(backend)) == (1, 1)


def test_a_certificate_that_is_not_used_is_named_with_the_reason(backend: Backend) -> None:
    """A vendor's bundle may hold odd ones; they cost only themselves, and are told."""
    vendor = EkAuthority.new()
    no_ca = vendor.issue(new_ek())
    result = import_ca(backend, vendor.root.der + no_ca)
    assert (result.roots, len(result.refused)) == (1, 1)
    assert result.refused[0].sha256 == hashlib.sha256(no_ca).hexdigest()
    for content in (
        no_ca,
        b"",
        b"x",
        b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----",
    ):
        with pytest.raises(EkAuthorityRefusedError) as caught:
            import_ca(backend, content)
        assert caught.value.code == "ek-authority:refused"


def test_a_file_that_does_not_fit_the_others_is_refused(backend: Backend) -> None:
    """A revocation list that does not verify would stop every enrolment, not just one."""
    vendor, namesake = EkAuthority.new(), EkAuthority.new()
    import_ca(backend, vendor.root.der)
    forged = namesake.root.revoke(1)
    with pytest.raises(EkAuthorityRefusedError):
        import_ca(backend, forged, AuthorityKind.REVOCATIONS)
    genuine = import_ca(backend, vendor.root.revoke(1), AuthorityKind.REVOCATIONS)
    assert (genuine.revocation_lists, anchors(backend)) == (1, 1)


def test_only_an_administrator_of_all_devices_trusts_a_vendor(backend: Backend) -> None:
    """A vendor's CA lets in every TPM of that vendor, into every group that has a token."""
    for by in (VIEWER, OPERATOR, EU):
        with pytest.raises(ForbiddenError):
            import_ca(backend, EkAuthority.new().files[0], by=by)
        with backend.database.transaction() as session, pytest.raises(ForbiddenError):
            authorities.drop_authority(session, "0" * 32, by=by, now=1)
    assert anchors(backend) == 0


def test_the_directory_is_read_besides_what_was_imported(backend: Backend) -> None:
    """A package may bring vendors' certificates; they count on this machine."""
    directory = backend.settings.ek_authorities
    vendor = EkAuthority.new()
    for number, file in enumerate(vendor.files):
        (directory / f"{number}.pem").write_bytes(file)
    assert anchors(backend) == 1
    import_ca(backend, EkAuthority.new().files[0])
    with backend.database.reading() as session:
        listed = authorities.authority_list(
            session, authorities=backend.enrolments.authorities, by=VIEWER
        )
    assert (len(listed.authorities), len(listed.roots)) == (1, anchors(backend))


# --- groups, policies, releases ------------------------------------------------------


def test_what_holds_for_all_devices_is_changed_by_administrators_of_all_devices(
    backend: Backend,
) -> None:
    """Policies, groups and releases are no tenant's, and no operator's."""
    settings = backend.settings
    for by in (VIEWER, OPERATOR, EU):
        with backend.database.transaction() as session:
            with pytest.raises(ForbiddenError):
                rules.set_group(session, "new", policy="default", by=by, now=1)
            with pytest.raises(ForbiddenError):
                rules.add_policy(session, "new", DEFAULT_DOCUMENT, settings=settings, by=by, now=1)
            with pytest.raises(ForbiddenError):
                rules.activate_policy(session, "default", 1, settings=settings, by=by, now=1)
            with pytest.raises(ForbiddenError):
                releases.accept_release(session, "1.0", by=by, now=1)
            with pytest.raises(ForbiddenError):
                releases.retire_release(session, "1.0", by=by, now=1)


def test_a_tenant_sees_the_policies_that_it_is_held_to(backend: Backend) -> None:
    """Another's group and another's policy do not exist."""
    settings = backend.settings
    with backend.database.transaction() as session:
        rules.add_policy(session, "theirs", DEFAULT_DOCUMENT, settings=settings, by=ROOT, now=1)
        rules.activate_policy(session, "theirs", 1, settings=settings, by=ROOT, now=1)
        rules.set_group(session, "us", policy="theirs", by=ROOT, now=1)
        with pytest.raises(PolicyUnknownError):
            rules.set_group(session, "us", policy="none", by=ROOT, now=1)
    with backend.database.reading() as session:
        assert [row.name for row in rules.groups(session, by=EU)] == ["eu"]
        assert {row.name for row in rules.policy_versions(session, by=EU)} == {"default"}
        assert rules.group(session, "us", by=ROOT).policy_version == 1
        assert rules.policy(session, "default", None, by=EU).document == DEFAULT_DOCUMENT
        for do in (
            lambda: rules.group(session, "us", by=EU),
            lambda: rules.policy(session, "theirs", 1, by=EU),
            lambda: rules.policy_versions(session, "theirs", by=EU),
            lambda: rules.try_policy(session, DEFAULT_DOCUMENT, group="us", limit=1, by=EU),
        ):
            with pytest.raises(PolicyUnknownError) as caught:
                do()
            assert caught.value.code == "policy:unknown"


def test_a_release_that_was_never_added_is_missing(backend: Backend) -> None:
    """Nothing is accepted, retired or shown that nobody has added."""
    with backend.database.transaction() as session:
        for do in (releases.accept_release, releases.retire_release):
            with pytest.raises(ReleaseMissingError) as caught:
                do(session, "9.9", by=ROOT, now=1)
            assert caught.value.code == "release:missing"
        with pytest.raises(ReleaseMissingError):
            releases.release(session, "9.9", by=VIEWER)
        (row,) = releases.releases(session, by=VIEWER)
        assert (row.name, row.state, row.current) == ("1.0", "accepted", True)


# --- webhooks, trail -----------------------------------------------------------------


def test_a_tenants_webhook_hears_of_its_own_devices(backend: Backend) -> None:
    """A receiver of all devices is for those who see all, and a tenant sees its own only."""
    url, topics = "https://receiver.example.org/", [Topic.LOCKED]
    with backend.database.transaction() as session:
        for group, error in (("", ForbiddenError), ("us", PolicyUnknownError)):
            with pytest.raises(error):
                hooks.add_webhook(
                    session, backend.webhooks, url=url, topics=topics, group=group, by=EU, now=1
                )
        own, secret = hooks.add_webhook(
            session, backend.webhooks, url=url, topics=topics, group="eu", by=EU, now=1
        )
        assert secret.startswith("whsec_")
        others = [
            hooks.add_webhook(
                session, backend.webhooks, url=url, topics=topics, group=group, by=ROOT, now=1
            )[0]
            for group in ("", "us")
        ]
        assert [row.id for row in hooks.webhook_list(session, by=EU)] == [own.id]
        for row in others:
            for do in (hooks.remove_webhook, hooks.enable_webhook, hooks.try_webhook):
                with pytest.raises(WebhookUnknownError) as caught:
                    do(session, row.id, by=EU, now=1)
                assert caught.value.code == "webhook:unknown"
            with pytest.raises(WebhookUnknownError):
                hooks.webhook_deliveries(session, row.id, limit=1, by=EU)
            with pytest.raises(WebhookUnknownError):
                hooks.rotate_webhook_secret(session, backend.webhooks, row.id, by=EU, now=1)
        hooks.remove_webhook(session, own.id, by=EU, now=1)


def test_a_tenant_reads_what_concerns_its_devices(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of others, and of no device, are in no page; however thinly its own are sown."""
    with backend.database.transaction() as session:
        for number, group in ((1, "eu"), (2, "us")):
            add_device(session, number, group=group)
        for number in range(30):
            of = device_name(1 if number % 10 == 0 else 2)
            record(session, Event.EVIDENCE_ACCEPTED, now=number, device=of)
        record(session, Event.TOKEN_CREATED, now=99)
    monkeypatch.setattr(trail, "WINDOW", 4)
    monkeypatch.setattr(trail, "_ROUNDS", 2)
    wanted = trail.AuditFilter(event="device:evidence:*")
    found: list[int] = []
    cursor = None
    with backend.database.reading() as session:
        for _ in range(20):
            page = trail.audit_page(session, wanted, by=EU, cursor=cursor, limit=2)
            found += [row.at for row in page.records]
            cursor = page.next
            if cursor is None:
                break
        assert (found, cursor) == ([20, 10, 0], None)
        whole = trail.audit_page(session, wanted, by=VIEWER, limit=500)
        assert [row.at for row in whole.records] == list(range(29, -1, -1))
        hidden = whole.records[0].sequence
        shown = whole.records[-1].sequence
        assert trail.audit_record(session, shown, by=EU).record.device == device_name(1)
        for sequence in (hidden, 10_000):
            with pytest.raises(AuditRecordUnknownError) as caught:
                trail.audit_record(session, sequence, by=EU)
            assert caught.value.code == AuditRecordUnknownError.code


def test_a_cursor_of_another_list_is_refused(backend: Backend) -> None:
    """What a cursor holds is checked before any database sees it."""
    now = backend.clock()
    with backend.database.reading() as session:
        for key in ("x", -1, 2**70, [1], [2**70, "QUFB"], {"a": 1}, None):
            cursor = cursor_of(key) if key != 2**70 else "MTE4MDU5MTYyMDcxNzQxMTMwMzQyNA"
            for page in (
                lambda: tokens.token_page(session, by=ROOT, now=now, cursor=cursor),  # noqa: B023
                lambda: trail.audit_page(
                    session,
                    trail.AuditFilter(),
                    by=ROOT,
                    cursor=cursor,  # noqa: B023
                ),
                lambda: eks.ek_page(session, by=ROOT, cursor=cursor),  # noqa: B023
            ):
                with pytest.raises(HwTrustError) as caught:
                    page()
                assert caught.value.code == "request:cursor"
