"""Findings about the logs of firmware, kernel and enclaves, in words: firmware, ima, register."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hwtrust_backend.pages.wording import Explanation, nothing_said

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRMWARE: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "firmware:absent": nothing_said("firmware_log"),
        "firmware:log-missing": Explanation(
            "The policy asks for the log of what the firmware measured, and it has not come yet.",
            "Wait for the next attestation. If it stays like this, see whether the device's "
            "kernel shows the log.",
        ),
        "firmware:bank": Explanation(
            "The firmware's log was verified by PCRs of another hash than the policy speaks of.",
            "Name in firmware_log.bank the hash that the device quotes, with digests of that hash.",
        ),
        "firmware:register-missing": Explanation(
            "The policy has rules for a register that this device's quote does not cover.",
            "Have the device quote that register, or take its rules out of the policy.",
        ),
        "firmware:register-unlisted": Explanation(
            "The quote covers a register of the firmware for which the policy has no rule.",
            "Add rules for it, or name it in firmware_log.unsafe_any_pcrs.",
        ),
        "firmware:digest": Explanation(
            "Firmware, boot loader or kernel measured something that the policy does not name: "
            "something below the operating system has changed.",
            "If it was updated, add the digest to firmware_log.digests. If not, examine the "
            "machine.",
        ),
        "firmware:sequence": Explanation(
            "What was measured at the start is not exactly what the policy lists, or came in "
            "another order.",
            "If the platform was updated, record its log anew for the policy. If not, examine it.",
        ),
        "firmware:required": Explanation(
            "Something that the policy asks for was not measured at this start.",
            "See whether the machine started by another way; or take it out of "
            "firmware_log.required.",
        ),
        "firmware:secure-boot": Explanation(
            "Secure Boot was not in the state that the policy asks for when the machine started.",
            "Switch Secure Boot on in the firmware's settings. If nobody switched it off, "
            "examine the machine.",
        ),
        "firmware:authority": Explanation(
            "Something was started that is signed by no certificate which the policy names, "
            "though Secure Boot let it pass.",
            "Find out what was started. Add its authority to firmware_log.authorities if it is "
            "right.",
        ),
        "firmware:separator": Explanation(
            "A register was closed more than once: the firmware's part and what follows it "
            "cannot be told apart.",
            "See whether the firmware's vendor knows of this, and update it.",
        ),
        "firmware:data": Explanation(
            "What the log says about a measurement is not what was measured. Only the digest "
            "counts; the words may mislead.",
            "Look at the entry. Many firmwares log more or less than they measure.",
        ),
    }
)

IMA: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "ima:absent": nothing_said("ima"),
        "ima:log-missing": Explanation(
            "The policy asks for the log of what the kernel measured, and it has not come yet, or "
            "not to its end: a long one comes in several attestations.",
            "Wait for the next attestations. If it stays like this, see whether the device's "
            "kernel shows the log.",
        ),
        "ima:pcr-missing": Explanation(
            "The policy asks for the kernel's log, and this device's quote does not cover the PCR "
            "into which the kernel measures.",
            "Enrol the device again with PCR 10 among its platform_pcrs, or do not ask for it.",
        ),
        "ima:empty": Explanation(
            "The kernel has measured no file since the machine was started: IMA is not at work.",
            "Start the kernel with a policy for IMA (ima_policy=…), or do not ask for its log.",
        ),
        "ima:violation": Explanation(
            "A file was open for writing while it was measured, so that its digest says nothing "
            "of what was read.",
            "See which program writes to that file. Exclude it, if it is meant to change.",
        ),
        "ima:boot-aggregate": Explanation(
            "The log begins with the firmware's values of another start: it is not of this boot.",
            "Reboot the device. If it comes again, examine it: somebody shows an old log.",
        ),
        "ima:unknown": Explanation(
            "The kernel measured a file that the policy does not have at all.",
            "Find out what it is. Add its digest to the policy, or remove it from the device.",
        ),
        "ima:digest": Explanation(
            "A file that the policy has was measured with other content: it was changed, damaged "
            "or updated.",
            "If it was updated, add its digest. If not, restore the file and examine the device.",
        ),
        "ima:signature": Explanation(
            "A file's signature cannot be read, or is not over what was measured.",
            "Restore the file from its package. If it comes again, examine the device.",
        ),
        "ima:key": Explanation(
            "A file is signed by a key that the policy does not have.",
            "Find out who signed it. Add the key to ima.keys if it is right.",
        ),
        "ima:buffer": Explanation(
            "The kernel measured data, such as its command line or a key, that the policy does "
            "not have.",
            "Look at what it is, and add it to ima.buffers if it is right.",
        ),
        "ima:weak": Explanation(
            "A measurement rests on SHA-1 or MD5, for which other content with the same digest "
            "can be made.",
            "Have the kernel measure with SHA-256 (ima_hash=sha256).",
        ),
        "ima:malformed": Explanation(
            "The kernel measured something in a form that hwtrust does not know.",
            "See which template the kernel uses (ima_template=…), and take a usual one.",
        ),
    }
)

REGISTER: Final[Mapping[str, Explanation]] = MappingProxyType(
    {
        "register:missing": Explanation(
            "The policy has a register of the hardware explained by the event log, and the "
            "evidence does not hold that register.",
            "See whether this kind of enclave has it; correct enclaves.register in the policy.",
        ),
        "register:log": Explanation(
            "The event log that came along does not lead to the value of the register that is "
            "signed: something else was measured there, or the log was changed.",
            "Restart the enclave. If it comes again, examine what else extends the register.",
        ),
    }
)
