"""What a page is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..visit import Visit

__all__ = ["Page", "View"]

View: TypeAlias = Callable[[Visit], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page.

    Attributes:
        path: where it is.
        template: what it is made of; its block `live` is sent again when something changed.
        view: asks the bus for what the template shows.
        section: the entry of the menu it belongs to.
        title: its heading in the menu and the window.
        jump: the letter that leads here after `g`; empty where the menu does not list it.
    """

    path: str
    template: str
    view: View
    section: str
    title: str
    jump: str = ""
