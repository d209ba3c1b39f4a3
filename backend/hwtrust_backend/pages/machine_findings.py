"""Findings about confidential virtual machines and GPUs, in words: snp, tdx, azure, nvidia."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hwtrust_backend.pages.wording import Explanation, nothing_said

if TYPE_CHECKING:
    from collections.abc import Mapping

_LAUNCH_TCB: Final = (
    "Restart the guest on a host with current firmware; or set unsafe_any_launch_tcb, if "
    "what the guest was started on does not matter to you."
)

SNP: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "snp:absent": nothing_said("snp"),
        "snp:product": Explanation(
            "The report comes from a processor of another generation than the policy takes.",
            "Add the product to snp.products if you run such hosts, or move the guest.",
        ),
        "snp:signing-key": Explanation(
            "The report is signed with another kind of key than the policy takes: a VCEK belongs "
            "to one chip, a VLEK to a cloud provider.",
            "Add the kind to snp.signing_keys if your provider uses it; else ask where it runs.",
        ),
        "snp:csp": Explanation(
            "The signing key (VLEK) was given to a cloud provider that the policy does not name.",
            "Find out where the guest runs. Add the provider to snp.csp_ids if it is yours.",
        ),
        "snp:debug": Explanation(
            "The guest was started so that its host may read and change its memory: nothing in "
            "it is secret, and nothing that it says is sure.",
            "Start the guest again without debugging. Rotate whatever it has held.",
        ),
        "snp:policy": Explanation(
            "The guest was started with a policy that allows its host something which ours does "
            "not take, such as simultaneous threads or migration.",
            "Start the guest with a stricter policy, or add the bit to snp.policy_allowed.",
        ),
        "snp:policy-missing": Explanation(
            "The guest was started with a policy that leaves out a restriction which ours asks "
            "for.",
            "Start the guest with that bit set, or take it out of snp.policy_required.",
        ),
        "snp:abi": Explanation(
            "The guest's policy lets it run on firmware with an older interface than ours takes.",
            "Start the guest with a higher ABI in its policy, or lower snp.abi_minimum.",
        ),
        "snp:vmpl": Explanation(
            "The report was asked for at a privilege level (VMPL) that the policy does not take: "
            "something less privileged than expected inside the guest speaks for it.",
            "See which program in the guest asks for reports; raise snp.vmpl_maximum if it may.",
        ),
        "snp:measurement": Explanation(
            "What the guest was started with, its firmware and whatever was loaded with it, has "
            "another digest than those that the policy names.",
            "If the image was changed on purpose, add its measurement to snp.measurements. If "
            "not, examine who started this guest, and with what.",
        ),
        "snp:host-data": Explanation(
            "Whoever started the guest gave it other host data than the policy names.",
            "Compare the value with what your orchestration sets; add it to snp.host_data.",
        ),
        "snp:id-key": Explanation(
            "The guest was started without a signed ID block, or with one of a key that the "
            "policy does not name.",
            "Start it with an ID block of your key, or add the key to snp.id_key_digests.",
        ),
        "snp:author-key": Explanation(
            "The key that signed the ID block is vouched for by no author whom the policy names.",
            "Start it with an ID block of your author, or add it to snp.author_key_digests.",
        ),
        "snp:guest-svn": Explanation(
            "The guest's image says that it is of an older security version than the policy takes.",
            "Start the guest from a newer image, or lower snp.guest_svn_minimum.",
        ),
        "snp:tcb": Explanation(
            "A component of the processor's firmware is older than the policy takes, as a rule "
            "because of a known weakness. The keys of this report are of that state.",
            "Have the host's firmware updated, or lower that component in snp.tcb.",
        ),
        "snp:tcb-current": Explanation(
            "A component of the firmware that runs now is older than the policy takes.",
            "Have the host's firmware updated, or lower that component in snp.tcb.",
        ),
        "snp:tcb-committed": Explanation(
            "The firmware is new enough, but the host has not committed to it: it can still go "
            "back to one that the policy does not take.",
            "Have the host's operator commit the firmware.",
        ),
        "snp:tcb-launch": Explanation(
            "When the guest was started, the firmware was older than the policy takes. It was "
            "updated under the guest, which may have been read before that.",
            _LAUNCH_TCB,
        ),
        "snp:firmware": Explanation(
            "The version of the processor's SEV firmware is older than the policy takes.",
            "Have the host's firmware updated, or lower snp.firmware_minimum.",
        ),
        "snp:firmware-committed": Explanation(
            "The SEV firmware can be rolled back to a version that the policy does not take.",
            "Have the host's operator commit the firmware.",
        ),
        "snp:platform": Explanation(
            "The host has something switched on that the policy forbids, such as simultaneous "
            "multithreading.",
            "Move the guest to another host, or take it out of snp.platform_forbidden.",
        ),
        "snp:platform-missing": Explanation(
            "The host lacks something that the policy asks for, such as ECC memory or the check "
            "for aliased memory.",
            "Move the guest to another host, or take it out of snp.platform_required.",
        ),
        "snp:platform-unknown": Explanation(
            "The host's firmware says something of itself for which this version of hwtrust has "
            "no name.",
            "Nothing at once. See whether a newer version of hwtrust knows it.",
        ),
    }
)

TDX: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "tdx:absent": nothing_said("tdx"),
        "tdx:tcb": Explanation(
            "By Intel's signed lists the platform, its TDX module or its quoting enclave is in a "
            "state that the policy does not take: out of date, to be configured, or revoked.",
            "Have the host's firmware updated; or add the status to tdx.accepted_tcb_statuses, "
            "once you have read its advisories.",
        ),
        "tdx:advisory": Explanation(
            "One of Intel's security advisories applies to this platform, and the policy does "
            "not accept it.",
            "Read the advisory that is named. Have the firmware updated, or add its number to "
            "tdx.accepted_advisories.",
        ),
        "tdx:collateral": Explanation(
            "The lists by which the platform was judged are of an older evaluation than the "
            "policy takes.",
            "Fetch newer collateral for this platform and add it here.",
        ),
        "tdx:platform": Explanation(
            "The platform's certificate names a property that the policy does not allow: that "
            "processors may be added, keys are cached, or simultaneous threads run; or does not "
            "say.",
            "Move the machine to another host, or allow it in the policy (tdx.allow_…).",
        ),
        "tdx:debug": Explanation(
            "The TD was started in debug mode: its host reads and changes its memory, and nothing "
            "that it says is sure.",
            "Start it again without debugging. Rotate whatever it has held.",
        ),
        "tdx:attributes": Explanation(
            "The TD was started with attributes that the policy does not take.",
            "Compare the value below with what your host sets; allow it if you mean it.",
        ),
        "tdx:event": Explanation(
            "While the machine started or ran, something was measured into a run-time register "
            "that the policy does not name.",
            "If it was an update, add the digest to tdx.rtmr_events. If not, examine the machine.",
        ),
        "tdx:log": Explanation(
            "The event log that came along does not lead to the value of the register that is "
            "signed: it was changed, or is another boot's.",
            "Examine the machine: something extends the register, or edits the log.",
        ),
        "tdx:mr-config-id": Explanation(
            "The TD was started with another configuration identifier than the policy names.",
            "Compare it with what your orchestration sets; add it to tdx.mr_config_id.",
        ),
        "tdx:mr-owner": Explanation(
            "Whoever started the TD named another owner than the policy does.",
            "Find out who started it. Add the owner to tdx.mr_owner if it is yours.",
        ),
        "tdx:mr-owner-config": Explanation(
            "The owner's configuration of the TD is another than the policy names.",
            "Compare it with what your orchestration sets; add it to tdx.mr_owner_config.",
        ),
        "tdx:mr-seam": Explanation(
            "The TD runs under a TDX module whose measurement the policy does not name.",
            "If the provider has updated the module, add its measurement to tdx.mr_seam.",
        ),
        "tdx:mr-signer-seam": Explanation(
            "The TDX module was signed by somebody else than Intel, or than the policy names.",
            "Take the machine off that host until you know who runs such a module.",
        ),
        "tdx:mr-td": Explanation(
            "What the TD was built from, its virtual firmware above all, has another digest than "
            "those that the policy names.",
            "If the image or the provider's firmware was updated, add the value to tdx.mr_td. If "
            "not, examine who started this machine, and with what.",
        ),
        "tdx:rtmr": Explanation(
            "A run-time register, of firmware, boot loader, kernel or application, holds a value "
            "that the policy does not name.",
            "If what is measured there was updated, add the value to the policy. If not, examine "
            "the machine.",
        ),
        "tdx:seam-attributes": Explanation(
            "The TDX module has attributes set: Intel's released modules have none.",
            "Take the machine off that host until you know which module runs there.",
        ),
        "tdx:service-td": Explanation(
            "A service TD, as migration uses, is bound to this machine and may take part in its "
            "fate. The policy takes none.",
            "Start the machine where it is not migrated.",
        ),
        "tdx:tcb-svn": Explanation(
            "A component of the platform or its TDX module has a lower security version than the "
            "policy's floor.",
            "Have the host's firmware updated, or lower tdx.tee_tcb_svn_floor.",
        ),
        "tdx:xfam": Explanation(
            "The TD was started with other processor features than the policy names.",
            "Compare the value with what your host sets; add it to tdx.xfam if you mean it.",
        ),
    }
)

AZURE: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "azure:absent": nothing_said("azure"),
        "azure:secure-boot": Explanation(
            "The machine says that its Secure Boot is not as the policy has it.",
            "Set Secure Boot in the machine's settings, or change azure.secure_boot.",
        ),
        "azure:console": Explanation(
            "The machine's serial console is not as the policy has it: by an open console its "
            "provider's administrators may come in.",
            "Close the console in the machine's settings, or change azure.console_enabled.",
        ),
        "azure:tpm": Explanation(
            "The machine's signed configuration says that it has no vTPM, and yet a quote of one "
            "came along.",
            "Examine the machine: this is no state that the provider makes.",
        ),
        "azure:vm": Explanation(
            "The machine is none of those that the policy names by their identifier.",
            "Find out whose machine it is. Add it to azure.vm_unique_ids if it is yours.",
        ),
        "azure:pcr": Explanation(
            "A PCR of the vTPM holds a value that the policy does not name: firmware, boot loader "
            "or kernel are others.",
            "If they were updated, add the value to azure.pcrs. If not, examine the machine.",
        ),
        "azure:pcr-missing": Explanation(
            "The policy names a PCR that the vTPM's quote does not cover.",
            "Have the device quote that PCR, or take it out of azure.pcrs.",
        ),
    }
)

NVIDIA: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "nvidia:absent": nothing_said("nvidia"),
        "nvidia:missing": Explanation(
            "The policy says what is accepted of a GPU, and the evidence shows none.",
            "See on the machine why its GPU gives no report. Machines without one belong in a "
            "group whose policy has no table nvidia.",
        ),
        "nvidia:model": Explanation(
            "The GPU is of a model that the policy does not name.",
            "Add it to nvidia.models if you use it, or move the machine.",
        ),
        "nvidia:driver": Explanation(
            "The GPU is run by a driver of a version that the policy does not name.",
            "Update the driver, or add the version to nvidia.driver_versions.",
        ),
        "nvidia:vbios": Explanation(
            "The GPU's VBIOS is of a version that the policy does not name.",
            "Have the VBIOS updated, or add the version to nvidia.vbios_versions.",
        ),
        "nvidia:measurement": Explanation(
            "Something that the GPU has measured of its own firmware and state is not what the "
            "policy names.",
            "If driver or VBIOS were updated, take NVIDIA's reference values for them into "
            "nvidia.measurements. If not, take the GPU out of use.",
        ),
    }
)
