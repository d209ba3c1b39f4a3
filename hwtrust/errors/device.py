"""Errors of a device: its layers, its key store, its channel, its state."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError


class LayerError(HwTrustError):
    """A layer cannot be measured."""

    code = "layer"


class LayerUnreadableError(LayerError):
    """A layer is missing, unreadable, or holds something that is not a file, link or directory."""

    code = "layer:unreadable"
    hint = "put the layer of its release where the configuration's table [layers] says"


class LayerMismatchError(LayerError):
    """A layer is not what the release says."""

    code = "layer:mismatch"
    hint = "restore the layer from its release, then restart the device"


class LayerSwappedError(LayerMismatchError):
    """A layer changed while it was activated: what runs may not be what was measured."""

    code = "layer:swapped"
    hint = "stop the device, find what writes to the layer, restore it, then restart"


class LayerActivationError(LayerError):
    """The host application could not activate a layer; its own exception is the cause."""

    code = "layer:activation"
    hint = "see the host application's log for why; then boot again"


class WatchError(HwTrustError):
    """Changes of a layer, or of the TPM's presence, are not told by the system."""

    code = "watch"


class WatchUnavailableError(WatchError):
    """The system does not tell of changes here: they are noticed at intervals only."""

    code = "watch:unavailable"
    hint = "what was to be watched is looked at at intervals instead"


class WatchLimitError(WatchError):
    """A layer has more parts than the user's inotify watches are enough for."""

    code = "watch:limit"
    hint = "raise the sysctl fs.inotify.max_user_watches; until then measure at short intervals"


class WatchPathError(WatchError):
    """A part of a layer, or of the way to it, may not be read, and so is not watched."""

    code = "watch:path"
    hint = "let the agent's user read the directories that lead to the layer"


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


class ChannelAnonymousError(ChannelError):
    """The call needs the device's certificate, and there is none yet."""

    code = "channel:anonymous"
    hint = "attest first: the answer brings the certificate"


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


class DeviceLockedError(StateError):
    """The backend has locked the device: its root is not opened until the backend says so."""

    code = "state:locked"
    hint = "the backend's administrator sees why; boot again once that is mended"


class NotEnrolledError(StateError):
    """The device is not enrolled."""

    code = "state:not-enrolled"
    hint = "hwtrust enrol --token-file FILE"


class AlreadyEnrolledError(StateError):
    """The device is enrolled; enrolling it anew would cost it its key store."""

    code = "state:enrolled"
    hint = "hwtrust enrol --again makes a new identity; nothing opens the old key store any more"


class ConfigError(HwTrustError):
    """The configuration is wrong."""

    code = "config"


class DeviceSoftwareError(ConfigError):
    """What a device takes is not installed: the extra `device`, or `tpm` of hwtrust-device."""

    code = "config:device:missing"
    hint = "pip install 'hwtrust[device]'; without the command, 'hwtrust-device[tpm]'"
