"""Every finding in words: what it means, and what to do.

`FINDINGS` of `hwtrust.verify` says what a code stands for in one line; here is
what somebody needs who has never seen it. A test holds the two to each other.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hwtrust.errors import TlsKeyRefusedError
from hwtrust.verify.policy import TPM
from hwtrust_backend.pages.enclave_findings import CCA, NITRO, SGX
from hwtrust_backend.pages.log_findings import FIRMWARE, IMA, REGISTER
from hwtrust_backend.pages.machine_findings import AZURE, NVIDIA, SNP, TDX
from hwtrust_backend.pages.wording import Explanation

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNKNOWN: Final = Explanation(
    "This version of the backend has no words for this finding.",
    "Look at what the finding itself says, and at the device.",
)

_REFUSED_KEY: Final = Explanation(
    "The policy does not accept TLS keys of the kind that the device has: its attestations are "
    "refused before anything else is looked at.",
    "Name the kind in tls_keys, or have the device use the other kind.",
)

_OF_EVIDENCE: Final = (SNP, TDX, SGX, NITRO, CCA, AZURE, NVIDIA, FIRMWARE, IMA, REGISTER)

EXPLANATIONS: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "log:empty": Explanation(
            "The TPM's register for the application still holds its reset value: since the "
            "last start of the machine no layer was measured.",
            "Wait until the device has started its layers. If that lasts, see on the device why "
            "hwtrust boot does not run.",
        ),
        "log:incomplete": Explanation(
            "The layers are being loaded in their order, and the last one is not there yet. "
            "Nothing speaks against what has been loaded so far.",
            "Wait. If it stays like this, see on the device which layer does not start.",
        ),
        "log:violation": Explanation(
            "While the device ran, one of its layers was found to differ from its release. What "
            "had changed may still be in memory, so this counts until the next reset.",
            "Find out who changed the layer. Restore it from its release and reboot the device; "
            "rotate its root afterwards.",
        ),
        "log:grammar": Explanation(
            "The event log has events in an order that hwtrust itself never writes. Something "
            "else has extended the register, or the loader was interrupted and went on.",
            "Reboot the device. If it comes again, examine the device: a program writes into "
            "the application's PCR.",
        ),
        "log:earlier": Explanation(
            "Before the present load another one ran in this boot, and its layers are of no "
            "release that this backend knows. What it did to the machine is not known.",
            "Reboot the device, so that only the present load counts. If the earlier one was "
            "meant, add its release.",
        ),
        "log:length": Explanation(
            "The event log has more records than the policy takes: layers were reloaded very "
            "often since the last reset.",
            "Reboot the device; or raise log.max_records, if so many reloads are meant.",
        ),
        "log:outdated": Explanation(
            "Earlier in this boot the device ran a release that is not accepted any more, and "
            "the policy of its group does not allow that.",
            "Reboot the device, so that it starts with its present release.",
        ),
        "layer:mismatch": Explanation(
            "A layer is in its place, but its content or version is not what the release says: "
            "it was changed, damaged, or updated without its release.",
            "Compare both digests below. Restore the layer from its release, or add and accept "
            "the release that it belongs to.",
        ),
        "layer:order": Explanation(
            "A layer of the release was loaded where another one should have been, or twice.",
            "Put the layers in the device's configuration in the order of the release, and "
            "reboot it.",
        ),
        "layer:unknown": Explanation(
            "Something was loaded as a layer that the release does not have at all.",
            "Find out what it is. Take it out of the device's configuration, or make a release "
            "that has it.",
        ),
        "release:unknown": Explanation(
            "The device says that it runs a release that was never added here, so that there is "
            "nothing to compare its layers with.",
            "Add the release here and accept it, or correct the release on the device.",
        ),
        "release:refused": Explanation(
            "The device runs a release that is known and that its group may not run: it is "
            "retired, was never accepted, or is not in the policy.",
            "Update the device. Or accept the release, or name it in the group's policy.",
        ),
        "release:outdated": Explanation(
            "The device runs a release that is accepted, and a newer one was accepted so long "
            "ago that the policy of its group does not let it stay behind any more.",
            "See on the device why it does not update. Or raise updates.within in the group's "
            "policy.",
        ),
        "epoch:revoked": Explanation(
            "The device's counter stands below the epoch of its root. A TPM's counter never "
            "falls: the TPM was cleared and made anew, or is another one.",
            "Treat the device as replaced until you know better. Clear its TPM and enrol it again.",
        ),
        "epoch:unknown": Explanation(
            "The device's counter stands higher than every root that this backend has sent. "
            "Either this database is older than the device, or somebody else holds our key.",
            "Was a backup restored? Restore the newest one. If there is none, enrol the device "
            "again.",
        ),
        "epoch:mismatch": Explanation(
            "The device claims another epoch than the one that its TPM certifies.",
            "If it lost its state, enrol it again. If it did not, examine it.",
        ),
        "clock:backward": Explanation(
            "The TPM's clock or its count of restarts went back although the machine was not "
            "reset. No TPM does that: somebody stands between it and us, or it is another one.",
            "Take the device out of service and examine its TPM and what is between.",
        ),
        "clock:reset-fell": Explanation(
            "The TPM counts every reset of the machine, and that count fell. It was cleared, or "
            "is another TPM.",
            "If you cleared it, enrol the device again. If nobody did, examine it.",
        ),
        "clock:rewound": Explanation(
            "Over a reset the TPM's clock fell back a little. That happens when the power is cut "
            "before the TPM has saved its clock.",
            "Nothing, if the power was cut. If it was not, see who had the machine.",
        ),
        "clock:drift": Explanation(
            "Between two attestations the TPM's clock ran markedly faster or slower than ours, "
            "or was set forward by a program on the device.",
            "See whether something on the device sets the TPM's clock. Leases on the device are "
            "reckoned by it.",
        ),
        "clock:ahead": Explanation(
            "The TPM's clock is ahead of ours by more than the policy takes. A TPM's clock can "
            "only be set forward, so this stays.",
            "Check this backend's own clock first. If that is right, leases end earlier on this "
            "device; a TPM that is cleared begins anew.",
        ),
        "clock:behind": Explanation(
            "The TPM's clock lags behind ours by more than the policy takes: the device was off, "
            "and has not yet set it by the signed time.",
            "Nothing: the device sets its clock with the next answer. If it stays, see why it "
            "does not.",
        ),
        "clock:unsafe": Explanation(
            "The TPM says itself that its clock may repeat times: the power was cut before it "
            "had saved its clock.",
            "Nothing: it goes away within some minutes of running.",
        ),
        "firmware:changed": Explanation(
            "The TPM's firmware is another than at the last attestation.",
            "Nothing, if you have updated it. If nobody did, find out what happened.",
        ),
        "firmware:floor": Explanation(
            "The TPM's firmware is older than the policy takes, as a rule because of a known "
            "weakness.",
            "Update the TPM's firmware, or lower firmware.floor in the policy.",
        ),
        "policy:absent": Explanation(
            "The policy of the device's group leaves something out, and what a policy does not "
            "say refuses. Every device of the group fails by this.",
            "Add what is missing to the policy, try it in a dry run, and activate it.",
        ),
        "evidence:kind": Explanation(
            "The policy does not accept evidence of the kind that this device gives.",
            "Add the kind to evidence in the policy, or move the device to another group.",
        ),
        "pcr:missing": Explanation(
            "The policy requires a PCR that this device's quote does not cover: the device was "
            "enrolled with another selection.",
            "Enrol the device again with that PCR among its platform_pcrs, or do not require it.",
        ),
        "pcr:unlisted": Explanation(
            "The quote covers a PCR for which the policy names neither values nor that anything "
            "goes.",
            "Look at the value below, and name it under pcrs.values in the policy.",
        ),
        "pcr:value": Explanation(
            "A PCR of the platform (firmware, boot loader, Secure Boot) holds a value that the "
            "policy does not name: something below the operating system has changed.",
            "If firmware or boot loader were updated, add the new value to the policy. If not, "
            "examine the machine.",
        ),
        "admin:locked": Explanation(
            "An administrator has locked this device: it drops its keys and gets no root, "
            "whatever its state is.",
            "Unlock it when the reason is gone.",
        ),
        **{code: words for table in _OF_EVIDENCE for code, words in table.items()},
    }
)


_OF_ENCLAVES: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "log:empty": Explanation(
            "The enclave's event log is empty: since its start it has loaded no layer.",
            "Wait until it has loaded its layers. If that lasts, see in its log why it does not.",
        ),
        "log:grammar": Explanation(
            "The event log has events in an order that hwtrust itself never writes.",
            "Restart the enclave. If it comes again, examine what is in it.",
        ),
        "epoch:revoked": Explanation(
            "The enclave runs on a root that has been replaced. No hardware counts its epochs: "
            "its own code has to take the next root, and has not.",
            "Restart the enclave, so that it asks for the present root. If it comes again, "
            "examine what runs in it.",
        ),
        "epoch:unknown": Explanation(
            "The enclave names a root that this backend has never sent. Either this database is "
            "older than the enclave, or somebody else holds our key.",
            "Was a backup restored? Restore the newest one. If there is none, restart the "
            "enclave, and enrol it again.",
        ),
    }
)
"""Where the words above are a TPM's."""


def explain(code: str, kind: str = TPM) -> Explanation:
    """A finding's code in words; or a refusal's that a dry run foretells.

    `kind` is what the evidence of the device is that it was found of.
    """
    if kind != TPM and code in _OF_ENCLAVES:
        return _OF_ENCLAVES[code]
    return EXPLANATIONS.get(code, _REFUSED_KEY if code == TlsKeyRefusedError.code else _UNKNOWN)
