"""Errors of wrapped evidence: the wrapper is not well-formed, too large, or of another type."""

from __future__ import annotations

from hwtrust.errors.evidence import WireError


class CmwError(WireError):
    """A conceptual message wrapper is not well-formed."""

    code = "wire:cmw:malformed"
    hint = "the file must hold one CMW record or collection, JSON or CBOR, and nothing else"


class CmwLabelError(CmwError):
    """A collection uses a label twice, or one that it may not use, or lacks one."""

    code = "wire:cmw:label"
    hint = "every part of a collection has a label of its own"


class CmwLimitError(CmwError):
    """A wrapper has more bytes, parts or levels than hwtrust takes."""

    code = "wire:cmw:limit"
    hint = "wrap the evidence of one device at a time"


class CmwTypeError(CmwError):
    """A wrapped message is of another media type than the one that is asked for."""

    code = "wire:cmw:type"
