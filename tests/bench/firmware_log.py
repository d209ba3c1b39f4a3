"""What a firmware log of 1,000 events costs: decoded, replayed, and appraised.

A boot with shim, GRUB and a kernel, filled up with GRUB's commands, two banks, ten PCRs.
Every round begins with the bytes. The figures are medians of processor time.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import tomllib
from pathlib import Path
from typing import Final

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.verify.logs.firmware import verify_firmware_log
from hwtrust.verify.logs.firmware_rules import appraise_firmware
from hwtrust.verify.logs.reference import reference_from_eventlog
from hwtrust.verify.platform import FirmwareLogRules
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.logs.firmware import FirmwareLog
from simulators.firmware_log import Firmware

EVENTS: Final = 1_000
ROUNDS: Final = 60
GOAL_MS: Final = 10.0
NUMBERS: Final = (*range(10), 14)


def make_machine() -> Firmware:
    """A machine whose log has `EVENTS` events."""
    firmware = Firmware().start()
    length = len(Firmware().start().load().events)
    for number in range(EVENTS - length):
        firmware.command(
            "grub_cmd: ", f"menuentry {number} --class os {{ linux /vmlinuz-{number} }}"
        )
    return firmware.load()


def main() -> None:
    """Measure, and print the results."""
    firmware = make_machine()
    raw, pcrs = firmware.raw, firmware.pcrs
    text = reference_from_eventlog(firmware.log, pcrs=NUMBERS, bank=Alg.SHA256)
    rules = msgspec.convert(tomllib.loads(text)["firmware_log"], FirmwareLogRules)
    rounds: list[dict[str, int]] = []
    for _ in range(ROUNDS):
        begun = time.process_time_ns()
        log = FirmwareLog.decode(raw)
        decoded = time.process_time_ns()
        claims = verify_firmware_log(log, pcrs=pcrs, bank=Alg.SHA256, numbers=NUMBERS)
        verified = time.process_time_ns()
        findings = appraise_firmware(claims, rules=rules)
        appraised = time.process_time_ns()
        if findings or claims.seen != EVENTS:
            raise SystemExit(f"the log is not accepted: {findings}")
        parts = {
            "": appraised - begun,
            "_decoded": decoded - begun,
            "_replayed": verified - decoded,
            "_appraised": appraised - verified,
        }
        rounds.append(parts)
    for part in rounds[0]:
        spent = round(statistics.median(one[part] for one in rounds) / 1e6, 2)
        goal = None if part else GOAL_MS
        result = {"name": f"firmware_log{part}", "value": spent, "unit": "ms", "goal": goal}
        print(json.dumps(result | {"ok": goal is None or spent < goal}))


if __name__ == "__main__":
    main()
