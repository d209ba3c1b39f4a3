"""Errors of the repository that releases are published in."""

from __future__ import annotations

from hwtrust.errors.backend import RequestError, ServiceError


class RepositoryError(ServiceError):
    """The repository of releases cannot do what it was asked."""

    code = "repository"


class RepositoryMissingError(RepositoryError):
    """No root of the repository is published yet."""

    code = "repository:missing"
    hint = "hwtrust-backend repository init; docs/releases.md has the ceremony"


class RepositoryMetadataError(RepositoryError):
    """A file is no TUF metadata, or not of a form that this repository publishes."""

    code = "repository:metadata"
    hint = "make it with hwtrust-backend repository init, or repository root propose"


class RepositorySignatureError(RepositoryError):
    """Metadata is signed by fewer keys than the root asks for."""

    code = "repository:signature"
    hint = "have the other holders of keys sign it: hwtrust-backend repository sign FILE --key KEY"


class RepositoryVersionError(RepositoryError):
    """A proposal does not follow what is published by now."""

    code = "repository:version"
    hint = "propose it again, on what is published, and have that signed"


class RepositoryExpiredError(RepositoryError):
    """A proposal is expired before it is published."""

    code = "repository:expired"
    hint = "propose it again and have that signed"


class RepositoryResignError(RepositoryError):
    """A new root would leave the published targets without enough signatures."""

    code = "repository:targets:unsigned"
    hint = "give the new targets key: repository root publish FILE --key KEY"


class RepositoryKeyError(RepositoryError):
    """A file is no key that signs here, its passphrase is wrong, or others can read it."""

    code = "repository:key"
    hint = "keys are PEM files, Ed25519 or P-256, 0600 where they are private"


class RepositoryBundleError(RepositoryError):
    """A directory is no bundle of a release, or not a whole one."""

    code = "repository:bundle"
    hint = "make it with hwtrust release create"


class RepositoryFileError(RepositoryError):
    """A file of a published release is not in its place, or is not what it was."""

    code = "repository:file"
    hint = "publish the bundle that it came with once more: its files are written anew"


class RepositoryConflictError(RepositoryError):
    """A target of that path is published with other content."""

    code = "repository:target:conflict"
    hint = "what has changed gets another version"


class RepositoryTargetUnknownError(RepositoryError):
    """The repository publishes nothing under that name."""

    code = "repository:target:unknown"


class RangeError(RequestError):
    """A request asks for a part that a file does not have."""

    code = "request:range"
    hint = "ask for the whole file, or for a part within its length"
