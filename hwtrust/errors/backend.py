"""Errors of the backend."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError
from hwtrust.errors.enrolment import EnrolmentError


class ServiceError(HwTrustError):
    """The backend cannot do what it was asked."""

    code = "backend"


class RequestError(ServiceError):
    """A request is not one that the API takes."""

    code = "request:invalid"


class RequestTooLargeError(RequestError):
    """A request's body is larger than the backend accepts."""

    code = "request:too-large"
    hint = "an administrator can raise the settings body_limit and import_limit"


class RequestTypeError(RequestError):
    """A request's body is of a type, or in a coding, that the route does not take."""

    code = "request:type"
    hint = "Content-Type: application/json, and no Content-Encoding"


class DeviceUnknownError(ServiceError):
    """No device of that name is enrolled here."""

    code = "device:unknown"
    hint = "hwtrust-backend devices lists all; on a new one: hwtrust enrol --token-file FILE"


class DeviceAmbiguousError(ServiceError):
    """More than one device's name begins like that."""

    code = "device:ambiguous"
    hint = "give more of the device's name: hwtrust-backend devices lists them"


class DeviceKindError(ServiceError):
    """What was asked for is not for devices of this kind: a TPM's device, or an enclave."""

    code = "device:kind"
    hint = "TPMs attest at /v1/attest, enclaves at /v1/enclaves/attest"


class ReleaseKeyMissingError(EnrolmentError):
    """The enclave names no X25519 key to which its root could be sealed."""

    code = "enrolment:release-key"


class EnrolmentUnknownError(EnrolmentError):
    """There is no such enrolment under way: it never began, is over, or took too long."""

    code = "enrolment:unknown"
    hint = "begin the enrolment again"


class EnrolmentOrderError(EnrolmentError):
    """A step of an enrolment is taken before the one that it builds on, or twice."""

    code = "enrolment:order"
    hint = "begin the enrolment again"


class EnrolmentEpochError(EnrolmentError):
    """The epoch counter starts at or below an epoch that this device has had before."""

    code = "enrolment:epoch:reused"
    hint = "a counter that was made anew starts higher; restore the backend's newest database"


class IdentityError(ServiceError):
    """A device has not shown who it is."""

    code = "identity:missing"
    hint = "connect with the client certificate that the backend issued"


class IdentityCertificateError(IdentityError):
    """A client certificate is expired, or not one that this backend issued to a device."""

    code = "identity:certificate:refused"
    hint = "attest for a session to get a new certificate"


class IdentityKeyError(IdentityError):
    """The evidence binds another TLS key than the connection's, or another device."""

    code = "identity:key:mismatch"


class TlsKeyRefusedError(IdentityError):
    """The backend's policy does not accept TLS keys of this kind."""

    code = "identity:key:refused"
    hint = "add the kind to tls_keys in the group's policy, or use the other kind"


class PolicyError(ServiceError):
    """A policy cannot be used."""

    code = "policy"


class PolicyDocumentError(PolicyError):
    """A policy document is no policy; the message says where and why."""

    code = "policy:document"
    hint = "hwtrust-backend policy show default prints one that works"


class PolicyUnknownError(PolicyError):
    """There is no policy, group or version of that name."""

    code = "policy:unknown"
    hint = "hwtrust-backend policy list, hwtrust-backend group list"


class PolicySignatureError(PolicyError):
    """A policy is not signed by one of those whose signatures are asked for."""

    code = "policy:signature"
    hint = "name signers in policy_signers; policy sign NAME FILE, then policy add --signature"


class ReleaseError(ServiceError):
    """A release is not known, or known already with other layers."""

    code = "release"


class ReleaseUnknownError(ReleaseError):
    """There is no accepted release of that name."""

    code = "release:unknown"
    hint = "hwtrust-backend release add FILE, then release accept NAME"


class ReleaseConflictError(ReleaseError):
    """A release of that name exists with other layers."""

    code = "release:conflict"
    hint = "give the changed release another name"


class VaultError(ServiceError):
    """The backend's keys cannot be used."""

    code = "vault"


class VaultMissingError(VaultError):
    """There is no key file."""

    code = "vault:missing"
    hint = "hwtrust-backend init"


class VaultPassphraseError(VaultError):
    """The passphrase does not open the key file, or there is none."""

    code = "vault:passphrase"
    hint = "give it by --passphrase-file, or as the systemd credential hwtrust-backend-passphrase"


class VaultDamagedError(VaultError):
    """The key file is damaged."""

    code = "vault:damaged"
    hint = "restore the file from a backup"


class VaultExistsError(VaultError):
    """There are keys already; making new ones would orphan every device."""

    code = "vault:exists"
    hint = "use another --data directory, or keep this one as it is"


class DatabaseError(ServiceError):
    """The database cannot be used."""

    code = "database"
    hint = "see whether it runs and has space; the setting database says where it is"


class DatabaseOlderError(DatabaseError):
    """The database lacks what this backend has signed for: it was restored, or exchanged."""

    code = "database:older"
    hint = "restore the newest backup, then hwtrust-backend recovered"


class BackupError(ServiceError):
    """A backup cannot be made, or is none."""

    code = "backup"
    hint = "docs/operations.md has the steps"


class TokenUnknownError(ServiceError):
    """There is no such enrolment token."""

    code = "token:unknown"
    hint = "hwtrust-backend token list"
