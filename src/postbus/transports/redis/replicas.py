"""An append that is accepted only when so many replicas have it, or have it on disk: `wait_replicas=`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from .line import Line
from .scripts import Script

__all__ = ["Replicas"]

# Of the time for an answer: a server that does not know the script is asked again, and waits twice.
_SHARE = 0.45


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many must have it.

    Attributes:
        count: replicas; 0 waits for none.
        disk: the server and those replicas must have it in their append-only files, synced.
    """

    count: int = 0
    disk: bool = False

    def __bool__(self) -> bool:
        return self.count > 0 or self.disk

    async def run(
        self, line: Line, script: Script, keys: Sequence[Any], args: Sequence[Any], patience: float
    ) -> tuple[Any, str]:
        """The script's reply, and in words what is missing, or nothing.

        Both in one request: another connection would wait for nothing, and say that all is well.
        """
        ms = max(1, int(patience * _SHARE * 1000))
        wait = ("WAITAOF", 1, self.count, ms) if self.disk else ("WAIT", self.count, ms)
        script, keys = line.fit(script, keys)
        call = script.call(keys, args)
        reply, waited = await line.ask(call, wait, patience=patience)
        if isinstance(reply, NoScriptError):
            _, reply, waited = await line.ask(("SCRIPT", "LOAD", script.text), call, wait, patience=patience)
        return reply, self._missing(waited, ms / 1000)

    def _missing(self, waited: Any, span: float) -> str:
        if isinstance(waited, ResponseError):
            return f"whether replicas have it could not be learned: {waited}"
        here, there = waited if self.disk else (1, waited)
        if here < 1:
            return f"the server did not bring it to its disk within {span:g} s"
        if there < self.count:
            where = " on disk" if self.disk else ""
            return f"{there} of {self.count} replicas confirmed it{where} within {span:g} s"
        return ""
