"""`postbus dashboard` as a process: it says where it is, answers there alone, and ends when it is told to."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from running import SOON, Running, Shop


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    for name in ("USER", "PASSWORD", "READER_USER", "READER_PASSWORD"):
        monkeypatch.delenv(f"POSTBUS_DASHBOARD_{name}", raising=False)
    return Shop(tmp_path)


@contextmanager
def dashboard(shop: Shop, *options: str) -> Iterator[tuple[Running, str]]:
    """The process, and the address it says."""
    with shop.start("dashboard", "deeds:bus", "--port", "0", *options) as running:
        running.says("(Ctrl-C ends it)")
        yield running, running.said().partition("the dashboard is at ")[2].split()[0].rstrip("/")


def refusal(request: Request) -> int:
    """The status of an answer that says no."""
    with pytest.raises(HTTPError) as refused:
        urlopen(request, timeout=SOON)
    refused.value.close()
    return refused.value.code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_answers_and_ends_when_it_is_told_to(shop: Shop, number: signal.Signals) -> None:
    with dashboard(shop) as (running, url):
        with urlopen(f"{url}/subscriptions", timeout=SOON) as answer:
            assert "deeds:bus" in answer.read().decode()
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert refusal(Request(f"{url}/", headers={"Host": "evil.example"})) == 421
        running.tell(number)
        assert running.ends() == 0


def test_who_may_only_look_can_do_nothing(shop: Shop) -> None:
    with dashboard(shop, "--read-only") as (_, url):
        headers = {"HX-Request": "true", "Origin": url}
        assert refusal(Request(f"{url}/do/pause", data=b"sub=work", headers=headers, method="POST")) == 403


def test_a_port_that_is_taken_is_one_clear_line(shop: Shop) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        ended = shop.run("dashboard", "deeds:bus", "--port", str(port))
    assert ended.returncode != 0
    assert "cannot listen" in ended.stderr
    assert str(port) in ended.stderr
    assert "Traceback" not in ended.stderr
