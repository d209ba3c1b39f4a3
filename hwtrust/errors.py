"""Every error that hwtrust raises, in one tree, each with a stable code.

Rules:
1. Nothing outside this tree leaves the library: parsers and I/O convert
   low-level exceptions at their boundary.
2. A class is one cause. `code` names it for programs (`subject:part:problem`),
   the message says what happened, `hint` says what the reader can do.
3. `data` holds what a program may want to know. It never holds a secret.
"""

from __future__ import annotations

from typing import ClassVar


class HwTrustError(Exception):
    """The base of the tree; catch it to catch whatever hwtrust raises."""

    code: ClassVar[str] = "hwtrust"
    hint: ClassVar[str] = ""

    def __init__(self, message: str, /, **data: str | int | None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


def all_errors() -> dict[str, type[HwTrustError]]:
    """Every error class by its code, in alphabetical order of the codes."""
    found: dict[str, type[HwTrustError]] = {}
    pending: list[type[HwTrustError]] = [HwTrustError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return dict(sorted(found.items()))


# --- bytes -------------------------------------------------------------------


class WireError(HwTrustError):
    """Bytes from outside do not have the form that they should have."""

    code = "wire"


class MalformedError(WireError):
    """A structure is truncated, too long, or not canonical."""

    code = "wire:malformed"
    hint = "check that the file is what it is said to be and was copied as binary"


class UnsupportedError(WireError):
    """A well-formed structure uses an algorithm or version that hwtrust does not take."""

    code = "wire:unsupported"


class EnvelopeError(WireError):
    """A signed message carries no valid signature by a key that is trusted for it."""

    code = "wire:envelope:signature"
    hint = "check that the trust file of the device belongs to this backend"


# --- evidence ----------------------------------------------------------------


class EvidenceError(HwTrustError):
    """Evidence is not authentic; nothing that it says may be believed."""

    code = "evidence"


class NotAttestedError(EvidenceError):
    """The bytes were not made inside a TPM: TPM_GENERATED_VALUE is missing."""

    code = "evidence:magic:mismatch"


class AttestTypeError(EvidenceError):
    """An attestation of one type is offered where another is asked for."""

    code = "evidence:type:mismatch"


class SignatureError(EvidenceError):
    """The signature does not verify under the key."""

    code = "evidence:signature:invalid"
    hint = "check that message, signature and key belong to the same quote"


class SignatureAlgorithmError(EvidenceError):
    """The signature's algorithm is not the one that the key is bound to."""

    code = "evidence:signature:algorithm"


class WeakKeyError(EvidenceError):
    """A key is too weak, or is no valid key at all."""

    code = "evidence:key:weak"


class StaleQuoteError(EvidenceError):
    """A well-signed quote answers another challenge: a replay or a race."""

    code = "evidence:nonce:mismatch"
    hint = "ask for a fresh challenge and attest again"


class EmptyNonceError(EvidenceError):
    """A quote that answers no challenge proves nothing about now."""

    code = "evidence:nonce:empty"
    hint = "pass the nonce that the quote was asked for with"


class SelectionError(EvidenceError):
    """The quote covers other PCRs or banks than the ones that are asked for."""

    code = "evidence:selection:mismatch"


class PcrDigestError(EvidenceError):
    """The PCR values beside the quote are not those that the TPM signed."""

    code = "evidence:pcrs:mismatch"


class WeakBankError(EvidenceError):
    """A quoted PCR is covered by its SHA-1 bank alone."""

    code = "evidence:bank:weak"
    hint = "quote the SHA-256 bank, which may stand beside the SHA-1 bank"


class UnextendedBankError(EvidenceError):
    """A quoted bank was never extended: any program can give it any value."""

    code = "evidence:bank:unextended"
    hint = "have the firmware measure into the SHA-256 bank"


class ChannelBindingError(EvidenceError):
    """The quote binds another TLS key than that of the connection it came by."""

    code = "evidence:tls-key:mismatch"
    hint = "attest over the connection whose key the quote names; a relayed quote is refused"


class BootMismatchError(EvidenceError):
    """Quote and counter were certified in different boots."""

    code = "evidence:boot:mismatch"
    hint = "ask for a fresh challenge and attest again"


class SignerError(EvidenceError):
    """The quote's qualifiedSigner is not the attestation key."""

    code = "evidence:signer:mismatch"


class CertifiedNameError(EvidenceError):
    """A certified object or index is not the one that it is said to be."""

    code = "evidence:name:mismatch"


class LogError(EvidenceError):
    """The event log does not explain the quoted PCR."""

    code = "evidence:log:mismatch"


class UntrustedError(EvidenceError):
    """Authentic evidence describes a state that the policy does not accept."""

    code = "evidence:verdict:untrusted"


# --- keys and enrolment --------------------------------------------------------


class KeyAttributesError(EvidenceError):
    """A key does not have the attributes that its role requires."""

    code = "key:attributes"


class CounterAttributesError(EvidenceError):
    """An NV index is not an epoch counter as hwtrust requires it."""

    code = "counter:attributes"


class EnrolmentError(HwTrustError):
    """A device cannot be enrolled."""

    code = "enrolment"


class EkCertificateError(EnrolmentError):
    """The EK certificate does not chain to an accepted TPM vendor, or is not for this EK."""

    code = "enrolment:ek:certificate"
    hint = "add the vendor's CA certificates to the backend, or allow-list the EK"


class EkMalformedError(EkCertificateError):
    """The EK certificate cannot be read, or is far too large for one."""

    code = "enrolment:ek:malformed"
    hint = "read the certificate again from the TPM's NV index, or allow-list the EK"


class EkKeyError(EkCertificateError):
    """The EK certificate is for the EK of another TPM."""

    code = "enrolment:ek:key"
    hint = "offer the certificate that belongs to this EK: same algorithm, same template"


class EkUsageError(EkCertificateError):
    """A certificate is offered that was not issued for an EK."""

    code = "enrolment:ek:usage"


class EkChainError(EkCertificateError):
    """No acceptable chain leads from the EK certificate to a trusted TPM vendor."""

    code = "enrolment:ek:chain"
    hint = "add the vendor's CA certificates to the backend, or allow-list the EK"


class EkExpiredError(EkCertificateError):
    """The EK certificate or one of its CAs is expired, or not valid yet."""

    code = "enrolment:ek:expired"
    hint = "check the clock of the backend, get the vendor's new CAs, or allow-list the EK"


class EkRevokedError(EkCertificateError):
    """The EK certificate or one of its CAs is revoked."""

    code = "enrolment:ek:revoked"
    hint = "do not enrol this device; ask its vendor"


class EkTrustError(EnrolmentError):
    """The files with the TPM vendors' CA certificates and CRLs cannot be used."""

    code = "enrolment:ek:trust"
    hint = "every file must hold certificates (or CRLs) as PEM or DER"


class EkUnknownError(EnrolmentError):
    """The EK has no certificate and is not on the allow-list."""

    code = "enrolment:ek:unknown"
    hint = "import the EK's name into the allow-list"


class CsrError(EnrolmentError):
    """The certificate request is not one of the TLS key that the device has shown."""

    code = "enrolment:csr:refused"


class CredentialError(EnrolmentError):
    """The device did not recover the secret that only its TPM could release."""

    code = "enrolment:credential:mismatch"


class TokenError(EnrolmentError):
    """The enrolment token is unknown, used up or expired."""

    code = "enrolment:token:refused"
    hint = "make a new one: hwtrust-backend token create"


# --- challenges ----------------------------------------------------------------


class ChallengeError(HwTrustError):
    """A challenge cannot be accepted."""

    code = "challenge"
    hint = "ask for a fresh challenge and attest again"


class ChallengeForgedError(ChallengeError):
    """The nonce was not issued by this backend for this device."""

    code = "challenge:forged"


class ChallengePurposeError(ChallengeError):
    """The nonce was issued for another purpose."""

    code = "challenge:purpose"


class ChallengeExpiredError(ChallengeError):
    """The nonce is too old, or comes from the future."""

    code = "challenge:expired"


class ChallengeUsedError(ChallengeError):
    """The nonce, or a newer one, has been accepted before."""

    code = "challenge:used"


# --- dynamic root --------------------------------------------------------------


class RootError(HwTrustError):
    """A dynamic root is refused."""

    code = "root"


class RootDeviceError(RootError):
    """The root was made for another device or another storage key."""

    code = "root:device:mismatch"


class RootEpochError(RootError):
    """The root's epoch is not the one that must come next."""

    code = "root:epoch:mismatch"


class RootReleaseError(RootError):
    """The root is for a release that this device does not run."""

    code = "root:release:mismatch"


class RootTimeError(RootError):
    """The root is not valid yet, or no longer."""

    code = "root:time:invalid"


class RootNameError(RootError):
    """The sealed object is not the one that the root's metadata names."""

    code = "root:name:mismatch"


class RootObjectError(RootError):
    """The sealed object could be opened by something else than an approval."""

    code = "root:object:unsafe"


class RootClockError(RootError):
    """A signed time is for another device, or answers another challenge."""

    code = "root:clock:mismatch"


class RootExpiredError(RootError):
    """The TPM's clock has passed the root's not_after: the TPM will not release it."""

    code = "root:expired"
    hint = "attest to get a new approval or the next root"


class RootRevokedError(RootError):
    """The epoch counter has passed the root's epoch: the TPM will never release it again."""

    code = "root:revoked"
    hint = "attest to get the current root"


class RootStateError(RootError):
    """The measured state is not one that the root is approved for."""

    code = "root:state:unapproved"
    hint = "hwtrust eventlog shows what was measured; attest or reboot to recover"


class RootApprovalError(RootError):
    """The approval is not signed by the policy key for this root."""

    code = "root:approval:invalid"


class RootMissingError(RootError):
    """The device holds no root that could be opened."""

    code = "root:missing"
    hint = "attest to get one"


# --- TPM -----------------------------------------------------------------------


class TpmError(HwTrustError):
    """The TPM refused a command; `data["rc"]` holds the response code."""

    code = "tpm:command:failed"


class TpmNotFoundError(TpmError):
    """There is no TPM on this machine."""

    code = "tpm:none"
    hint = "enable the TPM in the firmware's setup, or name a TCTI such as swtpm:path=SOCKET"


class TpmPermissionError(TpmError):
    """The TPM's device file may not be opened by this user."""

    code = "tpm:permission"


class TpmBusyError(TpmError):
    """Another program holds the TPM."""

    code = "tpm:busy"
    hint = "use the resource-managed device /dev/tpmrm0, or stop the other program"


class TpmVersionError(TpmError):
    """The TPM is not a TPM 2.0."""

    code = "tpm:version"
    hint = "hwtrust needs a TPM 2.0; some firmware can switch from 1.2"


class TpmFailureModeError(TpmError):
    """The TPM is in failure mode and answers nothing but its test result."""

    code = "tpm:failure-mode"
    hint = "power the machine off and on; if it stays so, the TPM is broken"


class TpmLockoutError(TpmError):
    """The TPM is in dictionary-attack lockout."""

    code = "tpm:lockout"
    hint = "wait for the recovery time, or reset it with the lockout password"


class TpmOwnerAuthError(TpmError):
    """The owner hierarchy has a password that was not given, or a wrong one was."""

    code = "tpm:owner:auth"
    hint = "give the owner password by a systemd credential or the owner_auth callback"


class TpmTransportError(TpmError):
    """The connection to the TPM broke; what the TPM did is not known."""

    code = "tpm:transport"


class TpmTamperedError(TpmError):
    """A response's HMAC is wrong: something between the TPM and this program changed it."""

    code = "tpm:response:tampered"


class TpmPcrConflictError(TpmError):
    """The PCR holds what hwtrust did not measure: another program uses it."""

    code = "tpm:pcr:conflict"
    hint = "find the other user of the PCR, or run hwtrust init again to pick a free one"


class TpmBankError(TpmError):
    """The SHA-256 bank is not there, or is not extended."""

    code = "tpm:bank:unusable"
    hint = "allocate the SHA-256 bank: tpm2_pcrallocate sha256:all"


class TpmObjectConflictError(TpmError):
    """A persistent handle or NV index that hwtrust would use holds something else."""

    code = "tpm:object:conflict"
    hint = "choose other handles in the configuration"


# --- layers --------------------------------------------------------------------


class LayerError(HwTrustError):
    """A layer cannot be measured."""

    code = "layer"


class LayerUnreadableError(LayerError):
    """A layer is missing, unreadable, or holds something that is not a file, link or directory."""

    code = "layer:unreadable"


class LayerMismatchError(LayerError):
    """A layer is not what the release says."""

    code = "layer:mismatch"
    hint = "restore the layer from its release, then restart the device"


# --- key store -----------------------------------------------------------------


class KeyStoreError(HwTrustError):
    """The key store cannot do what it was asked."""

    code = "keystore"


class KeyStoreMissingError(KeyStoreError):
    """There is no key store at the path."""

    code = "keystore:missing"


class KeyStoreDamagedError(KeyStoreError):
    """The file is not a key store, or was changed outside hwtrust."""

    code = "keystore:damaged"
    hint = "restore the file from a backup of the same epoch"


class KeyStoreEpochError(KeyStoreError):
    """The key store is wrapped for another epoch: an older copy, or another device's."""

    code = "keystore:epoch:mismatch"


class KeyStorePermissionError(KeyStoreError):
    """Others can read the key store, or it belongs to somebody else."""

    code = "keystore:permission"
    hint = "chmod 600 the file and give it to the user that runs hwtrust"


class KeyStoreBusyError(KeyStoreError):
    """Another process has the key store open."""

    code = "keystore:busy"


class KeyStoreDiskError(KeyStoreError):
    """The disk is full, read-only or failing; what was stored before is still there."""

    code = "keystore:disk"
    hint = "free some space, or check that the file system is writable and healthy"


class KeyStoreExistsError(KeyStoreError):
    """There is a key store at the path already; it is never overwritten."""

    code = "keystore:exists"


class KeyStoreLockedError(KeyStoreError):
    """The key store is not open: the root has not been unsealed."""

    code = "keystore:locked"
    hint = "boot the device first"


class EntryNotFoundError(KeyStoreError):
    """There is no entry of that name."""

    code = "keystore:entry:missing"


class EntryNameError(KeyStoreError):
    """An entry's name or value is not acceptable."""

    code = "keystore:entry:invalid"


# --- channel, state, configuration ---------------------------------------------


class ChannelError(HwTrustError):
    """The backend could not be asked."""

    code = "channel"


class ChannelUnreachableError(ChannelError):
    """No connection to the backend."""

    code = "channel:unreachable"
    hint = "check the backend's address and that it runs"


class ChannelTlsError(ChannelError):
    """The TLS handshake failed: wrong server certificate, or ours was refused."""

    code = "channel:tls"


class ChannelResponseError(ChannelError):
    """The backend's answer is not one that this version understands."""

    code = "channel:response"


class RefusedError(ChannelError):
    """The backend refused; `data["problem"]` holds its code."""

    code = "channel:refused"


class TlsKeyError(ChannelError):
    """The TLS key of the requested kind cannot be used on this machine."""

    code = "channel:tls-key:unusable"


class StateError(HwTrustError):
    """The device's state on disk cannot be used."""

    code = "state"


class StateDamagedError(StateError):
    """A state file is damaged."""

    code = "state:damaged"


class StateMissingError(StateError):
    """A state file or its directory is not there."""

    code = "state:missing"


class StatePermissionError(StateError):
    """Others can write the state, or this user may not read or write it."""

    code = "state:permission"
    hint = "chmod go-w the directory and give it to the user that runs hwtrust"


class StateDiskError(StateError):
    """The disk is full, read-only or failing; the old content is still there."""

    code = "state:disk"
    hint = "free some space, or check that the file system is writable and healthy"


class StateBusyError(StateError):
    """Another hwtrust process works with the same device state."""

    code = "state:busy"
    hint = "stop the other process; one agent owns a device"


class NotEnrolledError(StateError):
    """The device is not enrolled."""

    code = "state:not-enrolled"
    hint = "hwtrust enrol --token TOKEN"


class AlreadyEnrolledError(StateError):
    """The device is enrolled; enrolling it anew would cost it its key store."""

    code = "state:enrolled"
    hint = "hwtrust enrol --again makes a new identity; nothing opens the old key store any more"


class ConfigError(HwTrustError):
    """The configuration is wrong."""

    code = "config"


# --- testing -------------------------------------------------------------------


class SoftwareTpmError(HwTrustError):
    """A software TPM cannot be started, or did not do what a test's setup asked of it."""

    code = "testing:swtpm"
    hint = "the message quotes swtpm's log; Debian's package is swtpm"


class FaultPlanError(HwTrustError):
    """A fault cannot be injected as it was planned."""

    code = "testing:fault-plan"


# --- backend -------------------------------------------------------------------


class ServiceError(HwTrustError):
    """The backend cannot do what it was asked."""

    code = "backend"


class RequestError(ServiceError):
    """A request is not one that the API takes."""

    code = "request:invalid"


class RequestTooLargeError(RequestError):
    """A request's body is larger than the backend accepts."""

    code = "request:too-large"


class DeviceUnknownError(ServiceError):
    """No device of that name is enrolled here."""

    code = "device:unknown"
    hint = "enrol it: hwtrust enrol --token TOKEN"


class DeviceAmbiguousError(ServiceError):
    """More than one device's name begins like that."""

    code = "device:ambiguous"
    hint = "give more of the device's name: hwtrust-backend devices lists them"


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
    hint = "add the kind to tls_keys in the backend's configuration, or use the other kind"


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


class AuditError(ServiceError):
    """The audit trail was changed: a record was edited, dropped or reordered."""

    code = "audit:chain:broken"


class TokenUnknownError(ServiceError):
    """There is no such enrolment token."""

    code = "token:unknown"
    hint = "hwtrust-backend token list"
