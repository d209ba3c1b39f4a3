"""A receiver of webhooks: a real HTTPS server that checks signatures as receivers do.

    with WebhookReceiver(pki) as receiver:
        receiver.secrets.append(secret)        # what `webhook add` printed
        …
        receiver.events                        # what came and was signed well

It verifies by the Standard Webhooks specification, from the text of the headers
alone; it shares no code with the backend.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulators.tls_server import Pki, TlsServer, respond

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Received:
    """One request that came."""

    target: str
    headers: dict[str, str]
    body: bytes
    signed: bool
    """Whether one of the signatures is by one of the receiver's secrets."""

    @property
    def id(self) -> str:
        """The event's identifier: the same at every attempt."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:  # noqa: ANN401 - whatever JSON holds
        """The payload."""
        return json.loads(self.body)


class WebhookReceiver(TlsServer):
    """Answers each request with the next of `statuses`, and with the last one ever after."""

    def __init__(self, pki: Pki | None, *, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(None if pki is None else pki.server(name="localhost"), self._take)
        self.secrets = list(secrets)
        self.statuses = ["204 No Content"]
        self.extra = ""
        """More header lines for each answer."""
        self.before: Callable[[], None] = lambda: None
        """Called when a request has come, before it is answered."""
        self.received: list[Received] = []

    @property
    def receiver_url(self) -> str:
        """Where events go."""
        return f"https://localhost:{self.port}/hooks?from=hwtrust"

    @property
    def events(self) -> list[Any]:
        """The payloads that came and were signed well."""
        return [one.event for one in self.received if one.signed]

    def _take(self, connection: socket.socket, request: bytes) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        signed = signatures_hold(headers, body, self.secrets)
        self.received.append(Received(first.split(" ")[1], headers, body, signed))
        self.before()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        respond(b"", status=status, extra=self.extra)(connection, request)


def signatures_hold(headers: dict[str, str], body: bytes, secrets: list[str]) -> bool:
    """Whether a signature is by one of `secrets` (`whsec_…`), over these very bytes."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    found = headers["webhook-signature"].split(" ")
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        mac = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        if any(hmac.compare_digest(f"v1,{mac}", one) for one in found):
            return True
    return False
