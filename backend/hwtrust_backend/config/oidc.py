"""How people sign in at the pages by OpenID Connect: the section `oidc` of the settings."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from hwtrust.errors import ConfigError

Claim = Annotated[str, Meta(max_length=200)]
"""A claim's name; `realm_access.roles` goes down into an object."""


class OidcSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An identity provider, and which of its people have which role.

    Who has no value of `role_claim` that is listed is refused.
    """

    issuer: str = ""
    """The issuer's URL, exactly as its ID tokens name it; empty: no OpenID Connect."""
    client_id: str = ""
    client_secret_file: str = ""
    """A file with the client's secret; absent: a public client (PKCE is used in any case)."""
    ca_file: str = ""
    """PEM certificates of the CA under which the provider serves; absent: the system's."""
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    role_claim: Claim = "groups"
    administrators: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    viewers: tuple[str, ...] = ()
    """The values of `role_claim` that give each role; the highest counts."""
    groups_claim: Claim = ""
    """The claim that names the device groups that a person is limited to; empty: no limit."""

    def __post_init__(self) -> None:
        if not self.issuer:
            return
        try:
            parts = urlsplit(self.issuer)
        except ValueError as error:
            raise ConfigError(f"oidc.issuer is no URL: {self.issuer!r}") from error
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"oidc.issuer must be an https URL: {self.issuer!r}")
        if not self.client_id:
            raise ConfigError("oidc.client_id is missing")
        if "openid" not in self.scopes:
            raise ConfigError("oidc.scopes must contain openid")
        if not (self.administrators or self.operators or self.viewers):
            raise ConfigError("oidc gives nobody a role: set administrators, operators or viewers")
