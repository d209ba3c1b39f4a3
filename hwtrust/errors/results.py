"""Errors of attestation results and of webhooks."""

from __future__ import annotations

from hwtrust.errors.backend import ServiceError, VaultError


class SealedError(VaultError):
    """What is sealed in the database does not open with these keys."""

    code = "vault:sealed"
    hint = "the database and the key file belong together: restore both from one backup"


class ResultError(ServiceError):
    """An attestation result cannot be believed, or not be made."""

    code = "result"


class ResultSignatureError(ResultError):
    """A result is not signed by a key of the given set, or not as results are."""

    code = "result:signature"
    hint = "fetch the set of keys anew; if it stays like this, the result is not genuine"


class ResultProfileError(ResultError):
    """A token is signed well and is no attestation result of the profile known here."""

    code = "result:profile"


class ResultExpiredError(ResultError):
    """A result is past its time."""

    code = "result:expired"
    hint = "ask for a new one"


class ResultFutureError(ResultError):
    """A result was issued in the future, as this machine's clock has it."""

    code = "result:future"
    hint = "compare this machine's clock with the backend's"


class ResultNonceError(ResultError):
    """A result answers another nonce, or none."""

    code = "result:nonce"
    hint = "it may be a replay: ask for a result with a new nonce"


class ResultAudienceError(ResultError):
    """A result is for another audience."""

    code = "result:audience"


class ResultStatusError(ResultError):
    """A result is genuine and does not affirm the device."""

    code = "result:status"
    hint = "hwtrust-backend device ID says why; --any-status accepts whatever is genuine"


class JwksError(ResultError):
    """A set of keys cannot be read, or is none."""

    code = "result:jwks"
    hint = "the backend publishes it at /.well-known/jwks.json"


class ResultKeyEarlyError(ResultError):
    """The next key was published too short a time ago to sign already."""

    code = "result:key:early"
    hint = "wait, or give --compromised if the present key must not sign any more"


class WebhookError(ServiceError):
    """A webhook cannot be used."""

    code = "webhook"


class WebhookUnknownError(WebhookError):
    """There is no webhook of that identifier."""

    code = "webhook:unknown"
    hint = "hwtrust-backend webhook list"


class WebhookTopicError(WebhookError):
    """A webhook names no topic, or one that does not exist."""

    code = "webhook:topic"
    hint = "hwtrust-backend webhook add --help lists the topics"


class WebhookUrlError(WebhookError):
    """A webhook's URL is not one that events are sent to."""

    code = "webhook:url"
    hint = "give an https URL without user, password and fragment"


class WebhookAddressError(WebhookError):
    """A receiver's name resolves to an address that events are not sent to."""

    code = "webhook:address"
    hint = "list the receiver's network in webhook_private_networks if it is meant"


class WebhookDeliveryError(WebhookError):
    """A receiver cannot be reached, or does not take an event."""

    code = "webhook:delivery"
