"""A whole site for a test: `hwtrust.testing.site`, which vendors' tests use as well."""

from __future__ import annotations

from hwtrust.testing.site import APPLICATION_PCR, LAYERS, Site

__all__ = ["APPLICATION_PCR", "LAYERS", "Site"]
