"""Errors of evidence as a whole: of what form it is, and what it takes to look into it."""

from __future__ import annotations

from hwtrust.errors.device import ConfigError
from hwtrust.errors.evidence import WireError


class EnclaveSoftwareError(ConfigError):
    """Evidence of this kind needs software that is not installed."""

    code = "config:enclaves:missing"
    hint = "pip install 'hwtrust[enclaves]'"


class EvidenceFormError(WireError):
    """The bytes are no evidence in a form that hwtrust knows, or look like two of them."""

    code = "wire:evidence:unknown"


class EvidenceUseError(WireError):
    """Evidence of this form cannot be verified by itself."""

    code = "wire:evidence:incomplete"
