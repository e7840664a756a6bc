"""What runs on the server: each `.lua` file beside this one, under the hash the server knows it by."""

from __future__ import annotations

import hashlib
from importlib.resources import files

__all__ = [
    "ACK",
    "APPEND",
    "CLAIM",
    "ENROLL",
    "LETTERS",
    "MOVE",
    "READ",
    "RECALL",
    "REFILL",
    "REGISTRY",
    "RENEW",
    "RETIRE",
    "STATES",
    "STATS",
    "TRIM",
    "Script",
]


class Script:
    """One script."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def __repr__(self) -> str:
        return f"Script({self.name!r})"


def _script(name: str, *, prelude: bool = True) -> Script:
    folder = files(__package__)
    parts = ["prelude.lua", f"{name}.lua"] if prelude else [f"{name}.lua"]
    return Script(name, "\n".join(folder.joinpath(part).read_text(encoding="utf-8") for part in parts))


ACK = _script("ack")
APPEND = _script("append")
CLAIM = _script("claim")
ENROLL = _script("enroll")
LETTERS = _script("letters")
MOVE = _script("move")
READ = _script("read", prelude=False)
RECALL = _script("recall")
REFILL = _script("refill")
REGISTRY = _script("registry", prelude=False)
RENEW = _script("renew")
RETIRE = _script("retire")
STATES = _script("states")
STATS = _script("stats")
TRIM = _script("trim")
