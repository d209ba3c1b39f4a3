"""What the facts of enclaves' evidence are called in words, and where a page shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Group(StrEnum):
    """Facts that belong together, in the order in which they are shown."""

    LAUNCH = "launch"
    RUNTIME = "runtime"
    POLICY = "policy"
    MACHINE = "machine"
    TCB = "tcb"
    GPU = "gpu"
    FIRMWARE = "firmware"
    IMA = "ima"
    REPORT = "report"
    OTHER = "other"


GROUPS: Final[Mapping[Group, str]] = MappingProxyType(
    {
        Group.LAUNCH: "Launch measurement",
        Group.RUNTIME: "Measured since the launch",
        Group.POLICY: "Debugging and policy",
        Group.MACHINE: "Identity of the machine",
        Group.TCB: "Versions of its firmware (TCB)",
        Group.GPU: "GPU",
        Group.FIRMWARE: "Firmware's log",
        Group.IMA: "Kernel's log (IMA)",
        Group.REPORT: "The report itself",
        Group.OTHER: "More",
    }
)

_LAUNCH: Final = {
    # SEV-SNP
    "measurement": "Launch measurement",
    "guest_svn": "Security version of the image",
    "family_id": "Family of the image",
    "image_id": "Image",
    "host_data": "Host data",
    "id_key_digest": "ID key",
    "author_key_digest": "Author key",
    # TDX
    "mr_td": "Launch measurement (MRTD)",
    "mr_config_id": "Configuration (MRCONFIGID)",
    "mr_owner": "Owner (MROWNER)",
    "mr_owner_config": "Owner's configuration (MROWNERCONFIG)",
    "mr_service_td": "Service TDs (MRSERVICETD)",
    # SGX
    "mr_enclave": "Code and data (MRENCLAVE)",
    "mr_signer": "Vendor (MRSIGNER)",
    "isv_prod_id": "Product of its vendor",
    "isv_ext_prod_id": "Product, extended",
    "isv_family_id": "Product family",
    "isv_svn": "Security version of the enclave",
    "config_id": "Configuration (CONFIGID)",
    "config_svn": "Security version of the configuration",
    # Nitro
    "pcr0": "Image (PCR 0)",
    "pcr1": "Kernel and bootstrap (PCR 1)",
    "pcr2": "Application (PCR 2)",
    "pcr3": "Role of the instance (PCR 3)",
    "pcr4": "Instance (PCR 4)",
    "pcr8": "Signer of the image (PCR 8)",
    # CCA
    "rim": "Initial measurement (RIM)",
    "rpv": "Personalization value (RPV)",
}
_RUNTIME: Final = {
    "rtmr0": "Firmware and its configuration (RTMR 0)",
    "rtmr1": "Boot loader and kernel (RTMR 1)",
    "rtmr2": "Command line and applications (RTMR 2)",
    "rtmr3": "Free for applications (RTMR 3)",
    **{f"pcr{number}": f"PCR {number}" for number in range(32) if number not in {0, 1, 2, 3, 4, 8}},
    **{f"rem{number}": f"Extensible measurement (REM {number})" for number in range(4)},
    "pcrs": "PCRs of the vTPM",
}
_POLICY: Final = {
    "debug": "The host may debug it",
    "vmpl": "Privilege level (VMPL)",
    "policy": "Guest policy",
    "policy_bits": "The guest policy allows",
    "abi_minimum": "Least firmware ABI",
    "platform_bits": "Switched on at the host",
    "platform_info": "Platform",
    "td_attributes": "Attributes of the TD",
    "xfam": "Processor features (XFAM)",
    "attributes": "Attributes of the enclave",
    "xfrm": "Processor features (XFRM)",
    "misc_select": "Extended features (MISCSELECT)",
    "lifecycle_state": "State of the platform's life",
    "lifecycle": "State, as a number",
    "secure_boot": "Secure Boot",
    "console_enabled": "Serial console",
    "tpm_enabled": "vTPM",
    "tpm_persisted": "vTPM keeps its state",
}
_MACHINE: Final = {
    "tee": "TEE",
    "product": "Processor",
    "cpuid": "Family, model, stepping",
    "chip_id": "Chip",
    "csp_id": "Cloud provider",
    "signing_key": "Signed by its",
    "fmspc": "Family of platforms (FMSPC)",
    "pce_id": "Provisioning enclave (PCE)",
    "ppid": "Platform (PPID)",
    "sgx_type": "Type of SGX",
    "dynamic_platform": "Processors may be added",
    "cached_keys": "Keys are cached",
    "smt_enabled": "Simultaneous multithreading",
    "module_id": "Enclave and instance",
    "implementation_id": "Implementation of the platform",
    "instance_id": "Platform",
    "platform_config": "Configuration of the platform",
    "vm_unique_id": "Virtual machine",
}
_TCB: Final = {
    "reported_tcb": "TCB that the report's key is of",
    "current_tcb": "TCB that runs",
    "committed_tcb": "TCB that it cannot go back behind",
    "launch_tcb": "TCB at the launch",
    "current_firmware": "SEV firmware that runs",
    "committed_firmware": "SEV firmware that it cannot go back behind",
    "launch_mit_vector": "Mitigations at the launch",
    "current_mit_vector": "Mitigations now",
    "tcb_status": "TCB status",
    "platform_tcb_status": "TCB status of the platform",
    "qe_tcb_status": "TCB status of the quoting enclave",
    "advisory_ids": "Security advisories that apply",
    "tcb_evaluation_data_number": "Evaluation of the collateral",
    "collateral_expires": "Collateral expires",
    "tee_tcb_svn": "Security versions of TDX (TEE_TCB_SVN)",
    "tee_tcb_svn2": "Security versions of TDX, at the launch",
    "cpu_svn": "Security versions of the processor (CPUSVN)",
    "pce_svn": "Security version of the PCE",
    "mr_seam": "TDX module (MRSEAM)",
    "mr_signer_seam": "Signer of the TDX module (MRSIGNERSEAM)",
    "seam_attributes": "Attributes of the TDX module",
    "sw_components": "Firmware of the platform",
}
_REPORT: Final = {
    "report_data": "Report data",
    "report_id": "Report",
    "report_id_ma": "Report of the migration agent",
    "version": "Version",
    "author_key_en": "The ID key is vouched for by an author",
    "mask_chip_key": "The chip is masked",
    "certificates": "Certificates (SHA-256)",
    "nonce": "Nonce",
    "user_data": "User data",
    "public_key": "Public key",
    "timestamp": "Made",
    "age_ms": "Age when it came, in ms",
    "platform_profile": "Profile of the platform token",
    "realm_profile": "Profile of the realm token",
    "platform_hash_algorithm": "Hash of the platform",
    "realm_hash_algorithm": "Hash of the realm",
    "platform_challenge": "Challenge of the platform",
    "realm_challenge": "Challenge of the realm",
    "realm_public_key": "Key of the realm",
    "realm_public_key_hash_algorithm": "Hash of that key",
    "verification_service": "Verification service",
    "unknown_claims": "Claims that are not known",
    "keys": "Keys of the vTPM",
}
_GPU: Final = {
    "gpu_model": "Model",
    "gpu_device": "This very GPU",
    "gpu_driver_version": "Driver",
    "gpu_vbios_version": "VBIOS",
    "gpu_firmware_id": "Firmware that its key is for (FWID)",
    "gpu_nonce": "Nonce",
    "gpu_measurements": "Measurements, by index",
}


def _all() -> Iterator[tuple[str, tuple[Group, str]]]:
    for group, names in (
        (Group.LAUNCH, _LAUNCH),
        (Group.RUNTIME, _RUNTIME),
        (Group.POLICY, _POLICY),
        (Group.MACHINE, _MACHINE),
        (Group.TCB, _TCB),
        (Group.REPORT, _REPORT),
        (Group.GPU, _GPU),
    ):
        for name, label in names.items():
            yield name, (group, label)


NAMES: Final[Mapping[str, tuple[Group, str]]] = MappingProxyType(dict(_all()))
"""By a fact's name in the field."""
