"""What somebody is asked before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Question"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What somebody agrees to.

    Attributes:
        title: what will be done, with how many.
        text: what that means.
        button: the word on the button.
        command: the command that does the same.
        danger: it cannot be undone.
        typed: a word to type before it is done.
        fields: what the form sends, besides what can be edited.
        form: which further inputs: 'seek', 'amend' or none.
        more: what those inputs show.
        empty: there is nothing to do.
    """

    title: str
    text: str
    button: str
    command: str
    danger: bool = False
    typed: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    form: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    empty: bool = False
