"""What an administrator may ask for, see and do; the API, the pages and the command line call it.

    principals   who acts, and what they may do
    search       lists of devices
    devices      one of them: label, group, rotate, lock, retire
    report       everything about one device
    tokens, eks, authorities    who may enrol
    releases, rules             what devices are held to
    api_tokens, hooks           programs that call, and that are told
    trail, export               what auditors ask for

Every function takes the principal `by`, checks its role and its groups, and leaves
an audit record in its name.
"""

from __future__ import annotations

from hwtrust_backend.admin.devices import (
    ask_rotation,
    change_device,
    device_named,
    lock,
    readmit,
    retire,
    unlock,
)
from hwtrust_backend.admin.principals import Principal, Role, authenticate, local_administrator
from hwtrust_backend.admin.report import DeviceReport, device_report
from hwtrust_backend.admin.search import DeviceFilter, DevicePage, device_page

__all__ = [
    "DeviceFilter",
    "DevicePage",
    "DeviceReport",
    "Principal",
    "Role",
    "ask_rotation",
    "authenticate",
    "change_device",
    "device_named",
    "device_page",
    "device_report",
    "local_administrator",
    "lock",
    "readmit",
    "retire",
    "unlock",
]
