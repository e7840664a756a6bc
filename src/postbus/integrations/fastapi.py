"""FastAPI: the bus as a dependency.  FastAPI is a Starlette, whose `lifespan` opens it."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Depends

from ..bus import Bus
from .starlette import bus_of

__all__ = ["BusDep"]

# `async def place(bus: BusDep)`: the bus of this application.
BusDep: TypeAlias = Annotated[Bus, Depends(bus_of)]
