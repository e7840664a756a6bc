"""Envelopes signed on the way out and checked on the way in: whoever can write to the broker still cannot forge one."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

import msgspec

from .clock import Clock, Span, SystemClock, seconds
from .envelope import Envelope
from .errors import CodecError, ConfigError

__all__ = ["KEY_HEADER", "SIGNATURE_HEADER", "Signing"]

KEY_HEADER: Final = "pb-key"
SIGNATURE_HEADER: Final = "pb-signature"

_DOMAIN: Final = b"postbus signature 1"


class Signing:
    """A hook that signs with HMAC-SHA256 over topic, name, id, time, version, format, key and body.

    Headers and expiry are not signed.  Not a secret: bodies stay readable.
    """

    def __init__(
        self, keys: Mapping[str, str | bytes], max_age: Span | None = None, *, clock: Clock | None = None
    ) -> None:
        """Sign with the first key, and accept all of them.

        Args:
            keys: key id to secret.  To rotate: add the new key last everywhere, then move it to the front
                everywhere, and remove the old one when its last event is handled.
            max_age: refuse what was published longer ago, retries and replays included; None refuses nothing.
            clock: what `max_age` is measured with.

        Raises:
            ConfigError: when there is no key, or one without an id or a secret.
        """
        if not isinstance(keys, Mapping) or not keys:
            raise ConfigError("Signing(keys=...) needs a mapping of key id to secret, such as {'2026-01': secret}")
        for key_id, secret in keys.items():
            if not isinstance(key_id, str) or not key_id or not isinstance(secret, str | bytes) or not secret:
                raise ConfigError(
                    f"the signing key {key_id!r} needs an id and a secret, as text or bytes, neither empty"
                )
        self._keys = {key_id: s.encode() if isinstance(s, str) else s for key_id, s in keys.items()}
        self._use = next(iter(self._keys))
        self._max_age = None if max_age is None else seconds(max_age, "max_age")
        self._clock = clock or SystemClock()

    def seal(self, envelope: Envelope) -> Envelope:
        """Add the signature to the headers."""
        signature = _signature(envelope, self._use, self._keys[self._use])
        headers = {**envelope.headers, KEY_HEADER: self._use, SIGNATURE_HEADER: signature}
        return msgspec.structs.replace(envelope, header_map=headers)

    def open(self, envelope: Envelope) -> Envelope:
        """Check the signature.

        Raises:
            CodecError: when it is missing, made with an unknown key, does not fit the envelope, or is too old.
        """
        key_id = envelope.headers.get(KEY_HEADER)
        given = envelope.headers.get(SIGNATURE_HEADER)
        if key_id is None or given is None:
            raise _bad(envelope, "it is missing")
        secret = self._keys.get(key_id)
        if secret is None:
            raise _bad(envelope, f"the key {key_id!r:.80} is not known")
        if not hmac.compare_digest(_signature(envelope, key_id, secret).encode(), _utf8(given)):
            raise _bad(envelope, "it does not fit")
        if self._max_age is not None and self._clock.time() - envelope.micros / 1e6 > self._max_age:
            raise _bad(envelope, f"it is older than {self._max_age:g} s")
        return envelope


def _signature(envelope: Envelope, key_id: str, secret: bytes) -> str:
    texts = (key_id, envelope.topic, envelope.name, str(envelope.micros), str(envelope.version), envelope.format)
    key = "" if envelope.key is None else envelope.key  # a key is never empty
    parts = (_DOMAIN, *map(_utf8, texts), _utf8(key), envelope.id_bytes, envelope.body)
    # Each part with its length before it: otherwise the end of one could pass for the beginning of the next.
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.digest(secret, message, "sha256").hex()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # what a stranger wrote need not be text that can be encoded


def _bad(envelope: Envelope, why: str) -> CodecError:
    return CodecError(f"bad signature: {why}, on event {envelope.name!r} with id {envelope.id}")
