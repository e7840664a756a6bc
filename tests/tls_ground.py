"""Certificates for tests, made by the openssl command, and Redis servers that speak TLS."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from redis_servers import NodeKind, OnPath, RedisWith, SentinelKind

__all__ = ["Authority", "TlsKind", "TlsNode", "TlsSentinel", "authority", "tls_servers"]


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs certificates, and where what it signed lies."""

    folder: Path

    @property
    def ca(self) -> Path:
        """What a client must have to trust it."""
        return self.folder / "ca.pem"

    def signed(self, name: str, *names: str) -> tuple[Path, Path]:
        """A certificate for these names, such as 'DNS:localhost', and its key."""
        certificate, key, request = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
        if not certificate.exists():
            _openssl("req", "-new", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
            said = ["subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid", *_names(names)]
            (self.folder / "names").write_text("\n".join(said) + "\n")
            own = ("-CA", self.ca, "-CAkey", self.folder / "ca.key", "-CAcreateserial")
            _openssl(
                "x509", "-req", "-in", request, *own, *_DAYS, "-extfile", self.folder / "names", "-out", certificate
            )
            key.chmod(0o644)  # servers may run as another user
        return certificate, key


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_DAYS = ("-days", "2")


def authority(folder: Path) -> Authority:
    """A new one, or skip where there is no openssl."""
    if shutil.which("openssl") is None:
        if os.environ.get("POSTBUS_REQUIRE_SERVERS") == "1":
            pytest.fail("no openssl command to make certificates with")
        pytest.skip("no openssl command to make certificates with")
    made = Authority(folder)
    # Python 3.13 and later accept no authority that does not say what its key is for.
    use = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    _openssl(
        "req",
        "-x509",
        *_KEY,
        *_DAYS,
        *use,
        "-keyout",
        folder / "ca.key",
        "-out",
        made.ca,
        "-subj",
        f"/CN={folder.name}",
    )
    return made


def _names(names: Sequence[str]) -> list[str]:
    return [f"subjectAltName={','.join(names)}"] if names else []


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@cache
def _speaks_tls(binary: Path | None) -> bool:
    """Whether this server was built with TLS."""
    if binary is None:
        return False
    # One that knows the option finds no such file; any other stops at the option.
    asked = [str(binary), "--port", "0", "--tls-port", "1", "--tls-cert-file", "/nowhere"]
    found = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return "Bad directive" not in found.stdout + found.stderr


def _words(signer: Authority, *, mutual: bool) -> list[str]:
    certificate, key = signer.signed("server", "DNS:localhost", "IP:127.0.0.1")
    files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", signer.ca]
    return [*map(str, files), "--tls-auth-clients", "yes" if mutual else "no"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsKind(RedisWith):
    """A server that speaks nothing but TLS; `mutual` asks clients for a certificate too."""

    signer: Authority
    mutual: bool = False

    def binary(self) -> Path | None:
        return _built_with_tls()

    def command(self, folder: Path, port: int) -> list[str]:
        plain = RedisWith.command(self, folder, port)
        plain[plain.index("--port") : plain.index("--port") + 2] = ["--port", "0", "--tls-port", str(port)]
        return [*plain, *_words(self.signer, mutual=self.mutual)]

    def url(self, port: int) -> str:
        return f"rediss://localhost:{port}/0?ssl_ca_certs={self.signer.ca}"

    def greet(self, connection: socket.socket) -> bool:
        context = ssl.create_default_context(cafile=str(self.signer.ca))
        context.load_cert_chain(*map(str, self.signer.signed("client")))
        with context.wrap_socket(connection, server_hostname="localhost") as secured:
            return RedisWith.greet(self, secured)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsNode(NodeKind):
    """A server of a cluster that also speaks TLS, at a port of its own, and to the others nothing else."""

    signer: Authority

    def binary(self) -> Path | None:
        return _built_with_tls()

    def prepare(self, folder: Path) -> None:
        NodeKind.prepare(self, folder)
        _choose_port(folder)

    def command(self, folder: Path, port: int) -> list[str]:
        own = ("--tls-port", (folder / "tls").read_text(), "--tls-cluster", "yes", "--tls-replication", "yes")
        return [*NodeKind.command(self, folder, port), *own, *_words(self.signer, mutual=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSentinel(SentinelKind):
    """A sentinel that also speaks TLS, at a port of its own, and to what it watches nothing else."""

    signer: Authority

    def binary(self) -> Path | None:
        return _built_with_tls()

    def prepare(self, folder: Path) -> None:
        SentinelKind.prepare(self, folder)
        _choose_port(folder)

    def command(self, folder: Path, port: int) -> list[str]:
        own = ("--tls-port", (folder / "tls").read_text(), "--tls-replication", "yes")
        return [*SentinelKind.command(self, folder, port), *own, *_words(self.signer, mutual=False)]


def _choose_port(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (folder / "tls").write_text(str(probe.getsockname()[1]))


def _built_with_tls() -> Path | None:
    found = OnPath().binary()
    return found if _speaks_tls(found) else None


def tls_servers() -> None:
    """Skip where no server was built with it."""
    if _built_with_tls() is None:
        pytest.skip("no redis-server on PATH was built with TLS")
