"""The repository of releases: an administrator of all devices publishes, others may look.

The signatures decide what devices believe. What is checked here is who may change
what this backend hands out.
"""

from __future__ import annotations

from collections.abc import Sequence

from securesystemslib.signer import Signer
from sqlalchemy.orm import Session

from hwtrust_backend import references
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.admin.releases import ReleaseReport, accept_release, release_report
from hwtrust_backend.repository import (
    Blobs,
    RoleReport,
    TufMetadata,
    pruning,
    publishing,
    role_reports,
    roots,
)
from hwtrust_backend.repository.bundle import Bundle
from hwtrust_backend.repository.online import Online
from hwtrust_backend.repository.pruning import Pruned
from hwtrust_backend.repository.publishing import Signing


def publish_root(
    session: Session,
    content: bytes,
    *,
    online: Online,
    signers: Sequence[Signer],
    by: Principal,
    now: int,
) -> TufMetadata:
    """Put a signed root into force.

    Raises:
        RepositoryError: as `roots.publish_root`.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    return roots.publish_root(session, content, online=online, signers=signers, by=by.name, now=now)


def publish_release(
    session: Session,
    bundle: Bundle,
    *,
    blobs: Blobs,
    online: Online,
    signing: Signing,
    accept: bool,
    by: Principal,
    now: int,
) -> ReleaseReport:
    """Publish a release, and add it to the reference values; `accept` lets devices run it.

    Raises:
        RepositoryError: as `publishing.publish_release`.
        ReleaseConflictError: the name is taken by other layers.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    publishing.publish_release(
        session, bundle, blobs=blobs, online=online, signing=signing, by=by.name, now=now
    )
    added = references.add_release(session, bundle.manifest.release(), now=now, by=by.name)
    if accept and added.state != "accepted":
        return accept_release(session, added.name, by=by, now=now)
    return release_report(session, added.name, by=by)


def revoke_release(
    session: Session, name: str, *, online: Online, signing: Signing, by: Principal, now: int
) -> ReleaseReport:
    """Take a release out of the repository, and refuse it from now on.

    Raises:
        ReleaseMissingError: it is not published.
        RepositoryError: as `publishing.revoke_release`.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    publishing.revoke_release(session, name, online=online, signing=signing, by=by.name, now=now)
    references.retire_release(session, name, now=now, by=by.name)
    return release_report(session, name, by=by)


def prune_files(
    session: Session, blobs: Blobs, *, grace_ms: int, dry_run: bool, by: Principal, now: int
) -> Pruned:
    """Remove files of releases that no list has named for `grace_ms`.

    Raises:
        ConfigError: the directory cannot be read or changed.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    return pruning.prune_files(
        session, blobs, grace_ms=grace_ms, dry_run=dry_run, by=by.name, now=now
    )


def repository_status(session: Session, *, by: Principal) -> list[RoleReport]:
    """What is in force of each role, and until when."""
    by.require(Role.VIEWER)
    return role_reports(session)
