"""The repository that releases are published in, with TUF: what devices believe, and why.

    models, reading   what is kept, and what of it is served
    blobs, bundle     the files of releases, and a release as its vendor hands it in
    signers           keys of people, and the online key
    metadata          TUF metadata: reading, checking and signing it
    roots             the ceremony: who may sign what
    online            snapshot and timestamp, which this backend signs
    publishing        publishing and revoking
    pruning           files that nobody needs any more
    exporting         all of it as files, for a static host

Rules:
1. Root and targets are signed by people, with keys that this backend does not have.
   Whoever takes the backend over can sign snapshots and timestamps: it can hold the
   newest release back until the targets expire, and cannot make one.
2. A new root counts by the signatures of the old root's keys and of its own.
3. Whoever signs something locks the repository's row first. What belongs together is
   in one transaction, with its audit record.
4. Versions of targets, snapshots and timestamps are at least the seconds of the clock.
   A database that was restored signs nothing that devices would take for older.
"""

from __future__ import annotations

from hwtrust_backend.repository.blobs import Blob, Blobs
from hwtrust_backend.repository.models import (
    PublishedRelease,
    TufMetadata,
    TufRepository,
    TufRole,
)
from hwtrust_backend.repository.reading import (
    RoleReport,
    ServedTarget,
    due_roles,
    listed_releases,
    metadata_named,
    newest,
    published_releases,
    role_reports,
    target_named,
)

__all__ = [
    "Blob",
    "Blobs",
    "PublishedRelease",
    "RoleReport",
    "ServedTarget",
    "TufMetadata",
    "TufRepository",
    "TufRole",
    "due_roles",
    "listed_releases",
    "metadata_named",
    "newest",
    "published_releases",
    "role_reports",
    "target_named",
]
