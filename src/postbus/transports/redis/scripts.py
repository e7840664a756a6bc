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

    def __init__(self, name: str, *, prelude: bool = True) -> None:
        folder = files(__package__)
        parts = ["prelude.lua", f"{name}.lua"] if prelude else [f"{name}.lua"]
        self.name = name
        self.text = "\n".join(folder.joinpath(part).read_text(encoding="utf-8") for part in parts).encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def __repr__(self) -> str:
        return f"Script({self.name!r})"


ACK = Script("ack")
APPEND = Script("append")
CLAIM = Script("claim")
ENROLL = Script("enroll")
LETTERS = Script("letters")
MOVE = Script("move")
READ = Script("read", prelude=False)
RECALL = Script("recall")
REFILL = Script("refill")
REGISTRY = Script("registry", prelude=False)
RENEW = Script("renew")
RETIRE = Script("retire")
STATES = Script("states")
STATS = Script("stats")
TRIM = Script("trim")
