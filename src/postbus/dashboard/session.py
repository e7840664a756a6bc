"""Logging in: names and passwords, signed sessions, and how often one may guess."""

from __future__ import annotations

import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request

from ..errors import ConfigError
from .access import Access

__all__ = ["COOKIE", "Account", "Logins"]

COOKIE = "postbus_session"
# A day at work; whoever stays longer logs in again.
_LASTS = 12 * 3600
_GUESSES, _WITHIN = 5, 60.0
_ALL_GUESSES = 50
_SHORTEST = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Somebody who may log in.

    Raises:
        ConfigError: for a password that can be guessed.
    """

    name: str
    password: str = field(repr=False)
    access: Access = Access.FULL

    def __post_init__(self) -> None:
        if not self.name or len(self.password) < _SHORTEST:
            raise ConfigError(
                f"the password of dashboard user {self.name!r} has {len(self.password)} characters: expected at "
                f"least {_SHORTEST}, such as `python -c 'import secrets; print(secrets.token_urlsafe(24))'` prints"
            )


class Logins:
    """Says who a request is from.  The key of its signatures lives as long as the process."""

    def __init__(self, accounts: tuple[Account, ...], clock: Callable[[], float] = time.time) -> None:
        self._accounts = {account.name: account for account in accounts}
        self._key = secrets.token_bytes(32)
        self._clock = clock
        self._guesses: OrderedDict[str, list[float]] = OrderedDict()

    def account_of(self, request: Request) -> Account | None:
        """Whoever this request's session belongs to, while it lasts."""
        return self.read(request.cookies.get(COOKIE, ""))

    def login(self, client: str, name: str, password: str) -> str | None:
        """Return a session for the cookie; None when name or password are wrong.

        Raises:
            PermissionError: when too many guesses came, from this client or from all.
        """
        self._count(client)
        account = self._accounts.get(name)
        # An unknown name takes as long as a wrong password.
        known = account.password if account is not None else secrets.token_urlsafe(24)
        right = hmac.compare_digest(known.encode(), password.encode())
        if account is None or not right:
            return None
        self._guesses.pop(client, None)
        return self.sign(account.name)

    def sign(self, name: str) -> str:
        """A session of this user, from now on."""
        text = f"{int(self._clock()) + _LASTS}:{name}".encode()
        return f"{_b64(text)}.{_b64(self._mac(text))}"

    def read(self, session: str) -> Account | None:
        """The account of a session that is ours and has not ended."""
        told, _, signature = session.partition(".")
        try:
            text, mac = urlsafe_b64decode(told), urlsafe_b64decode(signature)
        except ValueError:
            return None
        if not hmac.compare_digest(mac, self._mac(text)):
            return None
        ends, _, name = text.decode().partition(":")
        return self._accounts.get(name) if int(ends) > self._clock() else None

    def _mac(self, text: bytes) -> bytes:
        return hmac.digest(self._key, text, "sha256")

    def _count(self, client: str) -> None:
        """One guess more, if there may be one."""
        since = self._clock() - _WITHIN
        for known in list(self._guesses):
            self._guesses[known] = [at for at in self._guesses[known] if at > since]
            if not self._guesses[known]:
                del self._guesses[known]
        mine = self._guesses.setdefault(client, [])
        if len(mine) >= _GUESSES or sum(map(len, self._guesses.values())) >= _ALL_GUESSES:
            raise PermissionError("too many guesses: wait a minute")
        mine.append(self._clock())


def _b64(text: bytes) -> str:
    return urlsafe_b64encode(text).decode()
