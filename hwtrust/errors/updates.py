"""Errors of releases and updates: what a device takes from outside, and where it puts it."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError


class UpdateError(HwTrustError):
    """A release cannot be fetched, unpacked or put in place."""

    code = "update"


class ArchiveError(UpdateError):
    """The archive of a layer is not one that a device unpacks."""

    code = "update:archive"
    hint = "pack the layer with the release tools, and publish it anew"


class ArchiveFormError(ArchiveError):
    """The bytes are not the one form in which a layer is packed."""

    code = "update:archive:form"


class ArchiveTruncatedError(ArchiveError):
    """The archive ends too early."""

    code = "update:archive:truncated"


class ArchiveNameError(ArchiveError):
    """A name in the archive could leave the layer, or is no name everywhere."""

    code = "update:archive:name"


class ArchiveOrderError(ArchiveError):
    """An entry is there twice, out of order, or below something that is no directory."""

    code = "update:archive:order"


class ArchiveKindError(ArchiveError):
    """An entry is neither a file, a directory nor a symbolic link."""

    code = "update:archive:kind"


class ArchiveLinkError(ArchiveError):
    """A symbolic link points out of the layer."""

    code = "update:archive:link"


class ArchiveModeError(ArchiveError):
    """An entry would be setuid, setgid or sticky, or a link has a mode of its own."""

    code = "update:archive:mode"


class ArchiveLimitError(ArchiveError):
    """The archive holds more entries or more bytes than it may."""

    code = "update:archive:limit"


class SlotError(UpdateError):
    """The slots that hold the releases of a device cannot be used."""

    code = "update:slot"


class SlotMissingError(SlotError):
    """The slots are not set up yet."""

    code = "update:slot:missing"


class SlotExistsError(SlotError):
    """The slots are set up already; they are never set up over a release in use."""

    code = "update:slot:exists"


class SlotDamagedError(SlotError):
    """The slots were changed outside hwtrust: `current` or a slot is not what it must be."""

    code = "update:slot:damaged"
    hint = "`current` must be a link to the directory a or b beside it"


class SlotUnsealedError(SlotError):
    """The slot to switch to does not hold a whole release."""

    code = "update:slot:unsealed"


class SlotLayerError(SlotError):
    """A layer cannot be kept in a slot: its name, or the mode of a file in it."""

    code = "update:slot:layer"


class StagedLayerError(UpdateError):
    """A layer came as it was signed, and is not what its release's manifest says."""

    code = "update:stage:layer"
    hint = "the release was published wrongly: have it revoked, and made anew"


class UpdatePlacesError(UpdateError):
    """The device's slots and its configuration do not fit the release."""

    code = "update:places"
    hint = "release and layers must point into slots/current, each layer under its own name"


class UpdateLeaveError(UpdateError):
    """The backend gives no leave to run the release; the device stays with what it runs."""

    code = "update:leave"
    hint = "accept the release for the device's group, and see that the device is trusted"


class TrialError(UpdateError):
    """A release on trial was not confirmed: the device returns to the one before."""

    code = "update:trial"


class TrialFailedError(TrialError):
    """The backend does not accept the device with the new release."""

    code = "update:trial:failed"


class TrialStartsError(TrialError):
    """The new release was started several times, and never came as far as to be confirmed."""

    code = "update:trial:starts"


class TrialOverdueError(TrialError):
    """No attestation has confirmed the new release in time."""

    code = "update:trial:overdue"


class ManifestError(UpdateError):
    """A file is not the manifest of a release."""

    code = "update:manifest"


class UpdateMetadataError(UpdateError):
    """The update repository's metadata are refused."""

    code = "update:metadata"


class UpdateAnchorError(UpdateMetadataError):
    """The root metadata that the device was given are not valid root metadata."""

    code = "update:metadata:anchor"
    hint = "give the device the trust file that the backend writes"


class UpdateExpiredError(UpdateMetadataError):
    """Metadata have expired: the repository is not kept up, or somebody holds updates back."""

    code = "update:metadata:expired"
    hint = "see that the device's time is right and that the repository is kept up to date"


class UpdateRollbackError(UpdateMetadataError):
    """Metadata are older than what the device has seen, or not of the announced version."""

    code = "update:metadata:rollback"


class UpdateThresholdError(UpdateMetadataError):
    """Too few of the role's keys have signed the metadata."""

    code = "update:metadata:threshold"


class UpdateMismatchError(UpdateMetadataError):
    """Metadata are not the ones that were announced: a mixture, or changed on the way."""

    code = "update:metadata:mismatch"


class UpdateMalformedError(UpdateMetadataError):
    """A file that should hold metadata holds something else."""

    code = "update:metadata:malformed"


class UpdateLengthError(UpdateMetadataError):
    """Metadata are longer than they may be."""

    code = "update:metadata:length"


class UpdateMissingError(UpdateMetadataError):
    """The repository does not have metadata that it must have."""

    code = "update:metadata:missing"


class TargetError(UpdateError):
    """A file of a release cannot be had as it was published."""

    code = "update:target"


class TargetMissingError(TargetError):
    """The signed metadata do not list the file, or the server does not have it."""

    code = "update:target:missing"


class TargetLengthError(TargetError):
    """The server gives more or less than the signed length."""

    code = "update:target:length"


class TargetDigestError(TargetError):
    """The content is not what was signed."""

    code = "update:target:digest"


class UpdateChannelError(UpdateError):
    """The update repository cannot be reached, or does not answer as it should."""

    code = "update:channel"


class UpdateUnreachableError(UpdateChannelError):
    """There is no connection to the update repository, or it broke; asking again may help."""

    code = "update:channel:unreachable"


class UpdateTlsError(UpdateChannelError):
    """The update repository's server is not believed, or TLS with it fails."""

    code = "update:channel:tls"


class UpdateSlowError(UpdateChannelError):
    """The update repository answers slower than a device waits."""

    code = "update:channel:slow"


class UpdateRedirectError(UpdateChannelError):
    """The server sends the device elsewhere, where it does not go."""

    code = "update:channel:redirect"


class UpdateResponseError(UpdateChannelError):
    """The server's answer is not one that a repository gives."""

    code = "update:channel:response"
