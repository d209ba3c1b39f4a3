"""Errors of the pages that people use: signing in, sessions, forms."""

from __future__ import annotations

from hwtrust.errors.backend import ServiceError


class PageError(ServiceError):
    """A page cannot be shown, or a form not be taken."""

    code = "page"


class SessionMissingError(PageError):
    """Nobody is signed in: the session is over, was ended, or never began."""

    code = "page:session:missing"
    hint = "sign in"


class FormForgedError(PageError):
    """A form did not come from a page of this session."""

    code = "page:form:forged"
    hint = "open the page anew and send the form from there"


class FormIncompleteError(PageError):
    """A form lacks something, or holds something that cannot be meant."""

    code = "page:form:incomplete"


class PageUnknownError(PageError):
    """There is no such page, or nothing of that name."""

    code = "page:unknown"


class LoginError(PageError):
    """Signing in was refused."""

    code = "login:refused"
    hint = "try again from the beginning"


class LoginThrottledError(LoginError):
    """Too many attempts to sign in have failed."""

    code = "login:throttled"
    hint = "wait a minute"


class OidcOffError(LoginError):
    """People cannot sign in by OpenID Connect here: nothing is configured."""

    code = "login:oidc:off"
    hint = "set the section oidc in the backend's configuration, or use an API token"


class OidcProviderError(LoginError):
    """The identity provider does not answer, or not as OpenID Connect says."""

    code = "login:oidc:provider"
    hint = "see the backend's section oidc, and whether it reaches the provider"


class OidcStateError(LoginError):
    """The provider's answer belongs to no login that this browser began."""

    code = "login:oidc:state"


class OidcTokenError(LoginError):
    """The provider's ID token is not accepted."""

    code = "login:oidc:token"


class OidcRoleError(LoginError):
    """The person is known to the provider and has no role here."""

    code = "login:oidc:role"
    hint = "ask whoever keeps the identity provider for one of the groups in the section oidc"
