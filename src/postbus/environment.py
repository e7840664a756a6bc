"""Settings of a bus from environment variables: which there are, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from .errors import ConfigError

__all__ = ["VARIABLES", "settings_from"]


def _yes(text: str) -> bool:
    answers = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in answers:
        raise ValueError("expected yes or no")
    return answers[text.lower()]


# Setting of `Bus` to how its variable is read; the variable is the prefix and the name in capitals.
VARIABLES: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        "url": str,
        "namespace": str,
        "codec": str,
        "outbox": str,
        "lease": float,
        "grace": float,
        "publish_timeout": float,
        "max_size": int,
        "concurrency": int,
        "retain": float,
        "require_subscription": _yes,
        "declare": _yes,
        "journal": _yes,
        "unknown_after": float,
    }
)


def settings_from(environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """Return the settings that the environment gives.

    Raises:
        ConfigError: naming a variable that does not fit its setting.
    """
    given: dict[str, Any] = {}
    for name, read in VARIABLES.items():
        text = environ.get(prefix + name.upper())
        if text is not None:
            try:
                given[name] = read(text)
            except ValueError as error:
                shown = "its value" if name in ("url", "outbox") else repr(text)  # a URL may hold a password
                raise ConfigError(f"{prefix}{name.upper()}: {shown} does not fit: {error}") from error
    return given
