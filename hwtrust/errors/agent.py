"""Errors of the agent: what its host application is told, and what ends it."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError


class AgentError(HwTrustError):
    """The agent cannot do what it was asked."""

    code = "agent"


class AgentStoppedError(AgentError):
    """The agent is ending, or busy for longer than its caller waits."""

    code = "agent:stopped"
    hint = "try again"


class TpmAwayError(AgentError):
    """The TPM does not answer; `data["problem"]` holds the code of how that was seen."""

    code = "agent:tpm-away"
    hint = "connect the TPM again: the agent waits for it"


class AgentForbiddenError(AgentError):
    """Who asks may not do this, or not with this entry; whether it exists is not said."""

    code = "agent:forbidden"
    hint = "the agent's configuration says who may do what: [[agent.allow]]"


class AgentRequestError(AgentError):
    """A request is not one that this version understands; `data["reason"]` says how."""

    code = "agent:request"


class AgentSealedError(AgentError):
    """A sealed message does not open: it was changed, or entry or context are others."""

    code = "agent:sealed"


class AgentLimitError(AgentRequestError):
    """A message is too long, or takes too long to arrive; the connection ends."""

    code = "agent:request:limit"


class AgentFullError(AgentError):
    """There are as many connections as the agent serves, in all or of one user."""

    code = "agent:full"
    hint = "close connections that are not needed: one is enough for a program"


class AgentFaultError(AgentError):
    """The agent failed at a request in a way that it does not know; its log says where."""

    code = "agent:fault"


class AgentSocketError(AgentError):
    """The agent's socket cannot be made."""

    code = "agent:socket"


class AgentRunningError(AgentSocketError):
    """Another agent serves at the socket."""

    code = "agent:running"
    hint = "stop it first: one agent owns a device"


class AgentUnreachableError(AgentError):
    """No agent answers at the socket, or the connection has ended."""

    code = "agent:unreachable"
    hint = "start hwtrust agent, and see whether this user may use its socket"


class AgentTimeoutError(AgentError):
    """The agent has not answered in time; whether it did what was asked is not known."""

    code = "agent:timeout"


class AgentImpostorError(AgentError):
    """Somebody else than the agent serves at the socket; nothing was said to them."""

    code = "agent:impostor"
    hint = "keep the socket where only the agent's user and root can write: /run/hwtrust"


class AgentReplyError(AgentError):
    """The agent's answer is not one that this version understands."""

    code = "agent:reply"
