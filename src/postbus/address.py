"""A transport's URL, taken apart once: where it leads, which options it carries, and how it may be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from .clock import Clock, SystemClock
from .errors import ConfigError

__all__ = ["Address", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a bus tells its transport.

    Attributes:
        namespace: prefixes tables, keys, subjects: several environments on one server share nothing.
        clock: reckons due times and leases where the server has no clock of its own.
        retain: seconds for which finished events are kept as history; None deletes them when done.
        publish_timeout: seconds after which an append must have answered.
        max_size: bytes of an encoded event.
    """

    namespace: str = "postbus"
    clock: Clock = field(default_factory=SystemClock)
    retain: float | None = None
    publish_timeout: float = 5.0
    max_size: int = 1024 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """One parsed URL.

    Attributes:
        scheme: what picks the transport.
        rest: everything between the scheme's colon and the query: `//host/path`.
        path: the path, unquoted; for `sqlite:///shop.db` it is `shop.db`, for `sqlite:////var/shop.db` `/var/shop.db`.
        options: the query's parameters.
        url: as it was given.  Holds secrets: never show it, show `str(address)`.
        client: a client that somebody has made, whose settings say more than a URL; else None.
    """

    scheme: str
    rest: str
    path: str
    options: Mapping[str, str]
    url: str
    client: object = None

    @classmethod
    def parse(cls, url: str | Address) -> Address:
        """Take a URL apart; an address stays what it is.

        Raises:
            ConfigError: when it is no URL, or names an option twice.
        """
        if isinstance(url, Address):
            return url
        if not isinstance(url, str) or ":" not in url:
            shown = repr(url) if isinstance(url, str) and "@" not in url else f"a {type(url).__name__}"
            raise ConfigError(
                f"{shown} is not a transport URL: expected one such as 'sqlite:///shop.db' or 'memory://'"
            )
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        options = dict(pairs)
        if len(options) != len(pairs):
            raise ConfigError(f"the URL {_shown(url)} names an option twice")
        path = unquote(parts.path)
        return cls(parts.scheme.lower(), url.partition(":")[2].partition("?")[0], path.removeprefix("/"), options, url)

    def option(self, name: str, kind: Literal["text", "number", "span"], default: object = None) -> object:
        """Return one option as text, int or seconds; `default` when absent.

        Raises:
            ConfigError: when it is not of that kind.
        """
        text = self.options.get(name)
        if text is None:
            return default
        try:
            match kind:
                case "text":
                    return text
                case "number":
                    return int(text)
                case "span":
                    return timedelta(seconds=float(text)).total_seconds()
        except (ValueError, OverflowError) as error:
            raise ConfigError(f"option {name}={text!r} of {self}: expected a number") from error

    def only(self, *known: str) -> None:
        """Refuse options that this transport does not know, so that a typing error is not taken for a setting.

        Raises:
            ConfigError: naming the unknown option and the known ones.
        """
        for name in self.options:
            if name not in known:
                have = f"the options are {', '.join(sorted(known))}" if known else "it takes no options"
                raise ConfigError(f"{self.scheme}:// has no option {name!r}: {have}")

    def __str__(self) -> str:
        return _shown(self.url)

    def __repr__(self) -> str:
        return f"Address({_shown(self.url)!r})"


def _shown(url: str) -> str:
    """The URL without userinfo and without its query, either of which may hold a secret."""
    scheme, _, rest = url.partition(":")
    rest = rest.partition("?")[0].partition("#")[0]
    slashes = "//" if rest.startswith("//") else ""
    authority, slash, path = rest.removeprefix("//").partition("/")
    return f"{scheme}:{slashes}{authority.rpartition('@')[2]}{slash}{path}"
