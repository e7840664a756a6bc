"""What runs on the server: each `.lua` file beside this one, under the hash the server knows it by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from ...clock import Clock, SystemClock

__all__ = [
    "ACK",
    "AMEND",
    "APPEND",
    "BEAT",
    "BRING",
    "CLAIM",
    "ENROLL",
    "HASTEN",
    "LETTERS",
    "MEND",
    "MOVE",
    "READ",
    "RECALL",
    "RECORD",
    "REFILL",
    "REGISTRY",
    "RENEW",
    "RETIRE",
    "RETRYING",
    "STATES",
    "STATS",
    "TRIM",
    "UNREAD",
    "Script",
    "timed_by",
]

# What stands in head.lua, and may be another thing.
_BEGINNING = b"local call = redis.call\n"
_BY_THE_SERVER = b"local given_now = nil"
_TO_ALL = b"local PUBLISH = 'PUBLISH'"


class Script:
    """One script."""

    def __init__(self, name: str, text: bytes, *, of_a_topic: bool) -> None:
        self.name = name
        self.text = text
        self.of_a_topic = of_a_topic
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def __repr__(self) -> str:
        return f"Script({self.name!r})"

    def call(self, keys: Sequence[Any], args: Sequence[Any]) -> tuple[Any, ...]:
        """The command that runs it, where it is known."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def at(self, seconds: float) -> Script:
        """The same by a clock that says so."""
        given = b"local given_now = %d" % round(seconds * 1000)
        return Script(self.name, self.text.replace(_BY_THE_SERVER, given), of_a_topic=self.of_a_topic)

    def on_a_cluster(self, *, sharded: bool) -> Script:
        """The same, with one key more if it is of a topic, and with bells that only their own shard hears."""
        text = self.text.replace(_BEGINNING, _BEGINNING + b"table.remove(KEYS)\n") if self.of_a_topic else self.text
        text = text.replace(_TO_ALL, b"local PUBLISH = 'SPUBLISH'") if sharded else text
        return Script(self.name, text, of_a_topic=self.of_a_topic)


def timed_by(clock: Clock) -> Callable[[Script], Script]:
    """What gives each script its time: for a clock that a test moves by hand, its time is written into the script.

    The machine's own clock gives none: time is the server's.
    """
    return _as_it_is if isinstance(clock, SystemClock) else lambda script: script.at(clock.time())


def _as_it_is(script: Script) -> Script:
    return script


def _script(name: str, before: Sequence[str] = ("head", "base", "prelude")) -> Script:
    """One that begins with these: what is not needed is not sent before it, for a server makes it anew at each call."""
    folder = files(__package__)
    text = b"\n".join(folder.joinpath(f"{part}.lua").read_bytes() for part in (*before, name))
    return Script(name, text, of_a_topic=bool(before))


ACK = _script("ack", ("head", "next", "base", "prelude"))
AMEND = _script("amend")
APPEND = _script("append", ("head", "one", "base"))
BEAT = _script("beat", ())
BRING = _script("bring")
CLAIM = _script("claim")
ENROLL = _script("enroll")
HASTEN = _script("hasten")
LETTERS = _script("letters")
MEND = _script("mend")
MOVE = _script("move")
READ = _script("read", ())
RECALL = _script("recall")
RECORD = _script("record", ())
REFILL = _script("refill")
REGISTRY = _script("registry", ())
RENEW = _script("renew")
RETIRE = _script("retire")
RETRYING = _script("retrying")
STATES = _script("states")
STATS = _script("stats")
TRIM = _script("trim")
UNREAD = _script("unread")
