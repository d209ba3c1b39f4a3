"""What protects a page in its reader's browser.

Rules:
1. Every answer carries `HEADERS`: nothing from elsewhere, nothing inline, no frame
   around it, no copy of it kept.
2. A form must come from a page of this very session: it repeats a token that
   follows from the session's cookie, and the browser says that it came from here.
3. The browser says so by Sec-Fetch-Site, which no page can set. One that does not
   know that header must name our origin; one that says nothing is refused.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from hwtrust.errors import FormForgedError

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "content-security-policy": CONTENT_SECURITY_POLICY,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": (
            "camera=(), microphone=(), geolocation=(), payment=(), usb=(), "
            "publickey-credentials-get=()"
        ),
        "strict-transport-security": "max-age=63072000",
        "cache-control": "no-store",
    }
)
"""What every page carries (rule 1)."""

FIRST_PAGE: Final = "/ui/"

FOREVER: Final = "public, max-age=31536000, immutable"
"""How long a file may be kept whose name says its content."""


def form_token(cookie: str) -> str:
    """What every form of a session repeats; it tells nothing of the cookie."""
    return hashlib.sha256(b"hwtrust form v1\0" + cookie.encode()).hexdigest()


def check_form(*, cookie: str, token: str) -> None:
    """Refuse a form that does not repeat its session's token (rule 2).

    Raises:
        FormForgedError: it does not.
    """
    if not hmac.compare_digest(form_token(cookie).encode(), token.encode(errors="replace")):
        raise FormForgedError("the form is not of this session")


def check_origin(*, site: str | None, origin: str | None, url: str) -> None:
    """Refuse a request that changes something and was not begun by a page of ours (rule 3).

    `site` and `origin` are the headers Sec-Fetch-Site and Origin, `url` is where
    this backend is.

    Raises:
        FormForgedError: it came from elsewhere, or nothing says where it came from.
    """
    if site is not None:
        if site != "same-origin":
            raise FormForgedError("the form was sent by another site")
        return
    if origin is None or origin != origin_of(url):
        raise FormForgedError("the browser does not say that the form came from here")


def origin_of(url: str) -> str:
    """`https://host:port` of a URL, as browsers write it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in {None, 443} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def local_path(text: str) -> str:
    """`text` where it is the path of a page that one may go on to, else the first page.

    What browsers read as another host (`//host`, a backslash) is none.
    """
    printable = text.isascii() and text.isprintable() and " " not in text
    if not text.startswith("/ui/") or not printable or "\\" in text:
        return FIRST_PAGE
    return FIRST_PAGE if text.startswith("/ui/login") else text
