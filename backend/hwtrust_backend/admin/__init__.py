"""What an administrator may ask for and see."""

from __future__ import annotations

from hwtrust_backend.admin.service import (
    AuditLine,
    DeviceReport,
    ask_rotation,
    device_report,
    device_summaries,
)

__all__ = ["AuditLine", "DeviceReport", "ask_rotation", "device_report", "device_summaries"]
