"""A backend that is gone from one request on, or for one request only.

    network = FailingNetwork(7, "answer", lasting=True)
    with network:
        work()
    network.failed

Counted are the requests of this thread. A lost request never leaves; a lost answer
is one to a request that the backend has answered.
"""

from __future__ import annotations

import http.client
import threading
from typing import Any, Literal, Self

import pytest


class FailingNetwork:
    """Enter it to lose the `nth` request or its answer, and all later ones where it is lasting."""

    def __init__(self, nth: int, lost: Literal["request", "answer"], *, lasting: bool) -> None:
        self.asked: list[str] = []
        self._nth = nth
        self._lost = lost
        self._lasting = lasting
        self._thread = threading.get_ident()
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        network = self
        real_request = http.client.HTTPConnection.request
        real_response = http.client.HTTPConnection.getresponse

        def request(connection: Any, method: str, url: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the real one
            if threading.get_ident() == network._thread:
                network.asked.append(f"{method} {url}")
                network._lose("request")
            real_request(connection, method, url, *args, **kwargs)

        def getresponse(connection: Any) -> http.client.HTTPResponse:  # noqa: ANN401 - as the real one
            response = real_response(connection)
            if threading.get_ident() == network._thread:
                network._lose("answer")
            return response

        self._patch.setattr(http.client.HTTPConnection, "request", request)
        self._patch.setattr(http.client.HTTPConnection, "getresponse", getresponse)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    @property
    def failed(self) -> bool:
        """Whether the request came."""
        return len(self.asked) >= self._nth

    def _lose(self, what: str) -> None:
        now = len(self.asked) == self._nth and what == self._lost
        later = self._lasting and len(self.asked) > self._nth
        if now or later:
            raise ConnectionResetError("the network is gone")
