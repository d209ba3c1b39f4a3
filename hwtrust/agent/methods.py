"""The methods of the agent's socket: what each takes, who may, and what it does.

Rules:
1. Whether the peer may is decided before anything of the key store is looked at.
2. A value is in no variable of a frame that an error leaves.
3. What may take seconds says so: it does not stand in the way of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwtrust.agent import protocol
from hwtrust.agent.permissions import Permission
from hwtrust.agent.protocol import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.agent.permissions import Grants
    from hwtrust.agent.protocol import Operations


@dataclass(frozen=True, slots=True)
class Method:
    """One method. `run` gives the result; it is called in a thread of its own."""

    params: type[Any]
    permission: Permission
    run: Callable[[Operations, Grants, Any], object]
    slow: bool = False


def _event(do: Operations, _: Grants, asked: protocol.EventParams) -> protocol.Reported:
    return protocol.Reported(attest=do.event(asked.kind, asked.detail))


def _attest(do: Operations, _: Grants, __: protocol.NoParams) -> protocol.Attested:
    return plain(do.attest(), protocol.Attested)


def _list(do: Operations, grants: Grants, asked: protocol.ListParams) -> protocol.Listed:
    shown = [entry for entry in do.keystore_list(asked.prefix) if grants.visible(entry.name)]
    return protocol.Listed(tuple(plain(entry, protocol.Entry) for entry in shown))


def _get(do: Operations, _: Grants, asked: protocol.NameParams) -> protocol.Value:
    return protocol.Value(do.keystore_get(asked.name))


def _put(do: Operations, _: Grants, asked: protocol.PutParams) -> protocol.Entry:
    return plain(do.keystore_put(asked.name, asked.value), protocol.Entry)


def _delete(do: Operations, _: Grants, asked: protocol.NameParams) -> protocol.Done:
    do.keystore_delete(asked.name)
    return protocol.Done()


def _hmac(do: Operations, _: Grants, asked: protocol.HmacParams) -> protocol.Value:
    from hwtrust.agent import uses  # noqa: PLC0415 - ciphers are loaded where somebody uses them

    return protocol.Value(uses.authenticate(_key(do, asked), asked.data))


def _derive(do: Operations, _: Grants, asked: protocol.DeriveParams) -> protocol.Value:
    from hwtrust.agent import uses  # noqa: PLC0415 - as above

    return protocol.Value(uses.derive(_key(do, asked), asked.label, size=asked.size))


def _seal(do: Operations, _: Grants, asked: protocol.SealParams) -> protocol.Value:
    from hwtrust.agent import uses  # noqa: PLC0415 - as above

    return protocol.Value(uses.seal(_key(do, asked), asked.data, context=asked.context))


def _open(do: Operations, _: Grants, asked: protocol.OpenParams) -> protocol.Value:
    from hwtrust.agent import uses  # noqa: PLC0415 - as above

    return protocol.Value(uses.unseal(_key(do, asked), asked.sealed, context=asked.context))


def _key(do: Operations, asked: protocol.NameParams) -> bytes:
    from hwtrust.agent import uses  # noqa: PLC0415 - as above

    return uses.require_key(do.keystore_get(asked.name))


METHODS: dict[str, Method] = {
    "event": Method(protocol.EventParams, Permission.EVENT, _event, slow=True),
    "attest": Method(protocol.NoParams, Permission.ATTEST, _attest, slow=True),
    "keystore.list": Method(protocol.ListParams, Permission.LIST, _list),
    "keystore.get": Method(protocol.NameParams, Permission.READ, _get),
    "keystore.put": Method(protocol.PutParams, Permission.WRITE, _put),
    "keystore.delete": Method(protocol.NameParams, Permission.DELETE, _delete),
    "keystore.hmac": Method(protocol.HmacParams, Permission.USE, _hmac),
    "keystore.derive": Method(protocol.DeriveParams, Permission.USE, _derive),
    "keystore.seal": Method(protocol.SealParams, Permission.USE, _seal),
    "keystore.open": Method(protocol.OpenParams, Permission.USE, _open),
}
"""All but `state` and `watch`, which the socket answers by itself."""
