"""Errors of the backend's administration: who may do what, and what is asked for."""

from __future__ import annotations

from hwtrust.errors.backend import ReleaseUnknownError, RequestError, ServiceError


class AccessError(ServiceError):
    """Somebody may not do what they ask for."""

    code = "access"


class CredentialsError(AccessError):
    """There is no API token, or none that counts: unknown, expired or revoked."""

    code = "access:credentials"
    hint = "send Authorization: Bearer TOKEN; hwtrust-backend api-token create makes one"


class ForbiddenError(AccessError):
    """Who asks is known, and their role or their groups do not allow it."""

    code = "access:forbidden"
    hint = "ask an administrator for a token with another role, or without a limit to groups"


class ApiTokenUnknownError(ServiceError):
    """There is no such API token."""

    code = "api-token:unknown"
    hint = "hwtrust-backend api-token list"


class ApiTokenConflictError(ServiceError):
    """An API token of that name was made before: the audit trail says by it who acted."""

    code = "api-token:conflict"
    hint = "give it another name; none is given twice, not even a revoked one's"


class CursorError(RequestError):
    """A cursor is none that a page has given."""

    code = "request:cursor"
    hint = "begin at the first page: leave the cursor out"


class DeviceRetiredError(ServiceError):
    """A device is out of service for good."""

    code = "device:retired"
    hint = "an administrator can let it enrol again: hwtrust-backend readmit ID"


class DeviceStateError(ServiceError):
    """What is asked for does not fit the state that a device is in."""

    code = "device:state"


class DeviceSilentError(ServiceError):
    """A device was asked and has not answered in time."""

    code = "device:query:unanswered"
    hint = "its next attestation answers: hwtrust-backend device answer ID shows it"


class DeviceAnswerMissingError(ServiceError):
    """A device has not answered any question yet."""

    code = "device:query:none"
    hint = "ask it: hwtrust-backend device query ID"


class EkImportError(RequestError):
    """A list of endorsement keys has bad lines; nothing of it was taken."""

    code = "ek:import"
    hint = "lines are name,label,group, with commas, in UTF-8; nothing was imported"


class EkUnlistedError(ServiceError):
    """This endorsement key is not on the allow-list."""

    code = "ek:unlisted"
    hint = "hwtrust-backend ek list"


class EkAuthorityRefusedError(RequestError):
    """A file of a TPM vendor's CAs cannot be used."""

    code = "ek-authority:refused"


class EkAuthorityUnknownError(ServiceError):
    """There is no such CA of a TPM vendor."""

    code = "ek-authority:unknown"
    hint = "hwtrust-backend ek-ca list"


class EkAuthorityConflictError(ServiceError):
    """This file of a TPM vendor's CAs is there already."""

    code = "ek-authority:conflict"


class EnclaveAuthorityRefusedError(RequestError):
    """A file to verify enclaves by cannot be used."""

    code = "enclave-authority:refused"
    hint = "hwtrust-backend enclaves trust --help says what each kind of file holds"


class EnclaveAuthorityUnknownError(ServiceError):
    """There is no such file to verify enclaves by."""

    code = "enclave-authority:unknown"
    hint = "hwtrust-backend enclaves trust list"


class EnclaveAuthorityConflictError(ServiceError):
    """This file to verify enclaves by is there already."""

    code = "enclave-authority:conflict"
    hint = "hwtrust-backend enclaves trust list"


class ReleaseMissingError(ReleaseUnknownError):
    """There is no release of that name, accepted or not."""

    code = "release:missing"
    hint = "hwtrust-backend release list"
