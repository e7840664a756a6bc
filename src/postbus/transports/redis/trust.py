"""What it means that a secured connection could not be made, and what to do about it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator

from ...errors import AccessRefused, TransportError

__all__ = ["distrusted", "unexplained"]

# Of OpenSSL's verdicts on a certificate: not yet or no longer valid; for another host, or address.
_OUT_OF_DATE = (9, 10)
_ANOTHER = (62, 64)
_BROKEN = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, asyncio.IncompleteReadError)
# How a server says that it wants to see a certificate, or another one.
_SHOW = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "BAD_CERTIFICATE", "UNKNOWN_CA", "CERTIFICATE_UNKNOWN")


def distrusted(error: BaseException, place: object) -> TransportError | None:
    """What to raise for an error of TLS, with what to change; None for any other error.

    Nothing of this mends itself, so that it is refused at once.
    """
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return AccessRefused(_of_certificate(cause, place))
            case ssl.SSLError() if str(cause.reason).endswith(_SHOW):
                return AccessRefused(
                    f"{place} does not trust this client ({cause.reason}): show it a certificate that it knows, by "
                    f"ssl_certfile= and ssl_keyfile="
                )
            case ssl.SSLError() if cause.reason == "WRONG_VERSION_NUMBER":
                return AccessRefused(f"{place} speaks no TLS there: write redis:// or name its TLS port")
            case FileNotFoundError() if str(place).startswith("rediss"):
                return AccessRefused(
                    f"{place} cannot be asked: there is no such file as ssl_ca_certs=, ssl_certfile= or ssl_keyfile= "
                    f"names"
                )
            case _:
                pass
    return None


def unexplained(error: BaseException, place: object) -> str:
    """What may be behind a secured connection that broke at its first question.

    By TLS 1.3 a server looks at the client's certificate after the client is through, and its reason, which comes on
    the way back, is often lost with the connection.
    """
    if str(place).startswith("rediss") and any(isinstance(cause, _BROKEN) for cause in _causes(error)):
        return ": if it wants to see a certificate, or another one, say ssl_certfile= and ssl_keyfile="
    return ""


def _of_certificate(error: ssl.SSLCertVerificationError, place: object) -> str:
    why = f"{place} has a certificate that is not accepted: {error.verify_message}"
    if error.verify_code in _ANOTHER:
        return f"{why}; connect by a name that it holds, or say ssl_check_hostname=false"
    if error.verify_code in _OUT_OF_DATE:
        return f"{why}; it has to be renewed, or this machine's clock set"
    return f"{why}; name the authority that signed it, by ssl_ca_certs=/path/to/ca.pem"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
