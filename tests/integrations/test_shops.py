"""The shops among the examples: each runs as its page says, with its own server and a worker that is killed."""

from __future__ import annotations

import http.client
import http.cookiejar
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

SHOPS = Path(__file__).resolve().parents[2] / "examples" / "shops"
PATIENCE = 30.0


class Shop:
    """A server and a worker in processes of their own."""

    json = False

    def __init__(self, folder: Path, database: str, stack: ExitStack) -> None:
        self._environment = {n: v for n, v in os.environ.items() if not n.startswith(("POSTBUS_", "DJANGO_"))}
        self._environment |= {"SHOP_DATABASE": database, "PYTHONPATH": os.pathsep.join(map(str, (SHOPS, folder)))}
        self._folder = folder
        self._stack = stack
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def run(self, *arguments: str, **environment: str) -> None:
        ended = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=self._folder,
            env={**self._environment, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, *arguments], cwd=self._folder, env=self._environment)
        self._stack.callback(_ended, process)
        return process

    def ask(self, method: str, path: str, form: dict[str, str] | None = None) -> tuple[int, str]:
        data = None if form is None else urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        try:
            with self.opener.open(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def serving(self) -> bool:
        try:
            return self.ask("GET", "/orders/nobody")[0] == 404
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError):
            return False

    def invoices(self, order: str) -> object:
        status, text = self.ask("GET", f"/orders/{order}")
        assert status == 200, text
        return json.loads(text)["invoices"]


def _ended(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(PATIENCE)
        raise


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def own_database(url: str, name: str) -> Iterator[str]:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name}")
        try:
            yield urllib.parse.urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def sells(shop: Shop, worker: Sequence[str], place: Callable[[str, int], str], *, once: object) -> None:
    """Orders are invoiced once, by whichever worker lives; what is sold out leaves nothing behind."""
    until(shop.serving)
    first = shop.start(*worker)
    assert shop.ask("POST", place("o-1", 4200)) == (201, shop_answer(shop, "o-1"))
    assert shop.ask("POST", place("sold-out-1", 4200))[0] == 409
    assert shop.ask("GET", "/orders/sold-out-1")[0] == 404
    until(lambda: shop.invoices("o-1") == once)

    first.send_signal(signal.SIGKILL)
    first.wait(PATIENCE)
    orders = [f"k-{n}" for n in range(10)]
    for order in orders:
        assert shop.ask("POST", place(order, 4200))[0] == 201
    second = shop.start(*worker)
    until(lambda: all(shop.invoices(order) == once for order in orders))
    second.terminate()
    assert second.wait(PATIENCE) in (0, -signal.SIGTERM)


def shop_answer(shop: Shop, order: str) -> str:
    """FastAPI answers with JSON, the others with the order's id."""
    return json.dumps({"order": order}, separators=(",", ":")) if shop.json else order


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_the_fastapi_shop_sells(postgres_url: str, tmp_path: Path, stack: ExitStack) -> None:
    database = stack.enter_context(own_database(postgres_url, "fastapi_shop"))
    shop = Shop(tmp_path, database, stack)
    shop.json = True
    shop.start("-m", "uvicorn", "fastapi_shop:app", "--port", str(shop.port), "--log-level", "warning")
    worker = ("-m", "postbus", "worker", "fastapi_shop:bus", "--lease", "2")
    sells(shop, worker, lambda order, cents: f"/orders/{order}?cents={cents}", once=1)


def test_the_flask_shop_sells(tmp_path: Path, stack: ExitStack) -> None:
    shop = Shop(tmp_path, str(tmp_path / "shop.db"), stack)
    shop.start("-m", "flask", "--app", "flask_shop", "run", "--port", str(shop.port))
    worker = ("-m", "flask", "--app", "flask_shop", "postbus", "worker", "--lease", "2")
    sells(shop, worker, lambda order, cents: f"/orders/{order}/{cents}", once=["42.00 EUR"])


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_django_shop_sells_and_its_admin_mends(
    database: str, postgres_url: str, tmp_path: Path, stack: ExitStack
) -> None:
    place = f"sqlite://{tmp_path}/shop.db"
    if database == "postgresql":
        place = stack.enter_context(own_database(postgres_url, "django_shop"))
    shop = Shop(SHOPS / "django_shop", place, stack)
    shop.run("manage.py", "migrate", "--verbosity", "0")
    shop.run("manage.py", "check", "--database", "default")
    user = {"DJANGO_SUPERUSER_PASSWORD": "secret", "DJANGO_SUPERUSER_EMAIL": "a@example.com"}
    shop.run("manage.py", "createsuperuser", "--noinput", "--username", "admin", **user)
    shop.start("manage.py", "runserver", "--noreload", "--nothreading", str(shop.port))
    worker = ("manage.py", "postbus", "worker", "--lease", "2")
    sells(shop, worker, lambda order, cents: f"/orders/{order}/{cents}", once=1)

    assert shop.ask("POST", "/orders/free/0")[0] == 201
    shop.start(*worker)
    admin = "/admin/postbus/deadletter/"
    log_in(shop, admin)
    until(lambda: "free costs nothing" in shop.ask("GET", admin)[1])
    letter = marked(shop, admin)
    page = shop.ask("GET", f"{admin}{letter}/change/")[1]
    assert "ValueError: free costs nothing" in page
    assert "&#x27;cents&#x27;: 0" in page

    assert "1 dead letters: replay done" in act(shop, admin, letter, "replay")
    until(lambda: "free costs nothing" in shop.ask("GET", admin)[1])  # it fails again
    page = act(shop, admin, marked(shop, admin), "discard")
    assert "1 dead letters: discard done" in page
    assert "There are no dead letters here" in page


def marked(shop: Shop, admin: str) -> str:
    """The id of the one letter in the list."""
    (letter,) = re.findall(r'name="letter" value="([0-9a-f-]+)"', shop.ask("GET", admin)[1])
    return str(letter)


def log_in(shop: Shop, admin: str) -> None:
    form = {"username": "admin", "password": "secret", "csrfmiddlewaretoken": token(shop, admin)}
    assert shop.ask("POST", f"/admin/login/?next={admin}", form)[0] == 200


def act(shop: Shop, admin: str, letter: str, action: str) -> str:
    """Press a button; return the page that says what came of it."""
    form = {"letter": letter, "action": action, "csrfmiddlewaretoken": token(shop, admin)}
    status, page = shop.ask("POST", admin, form)
    assert status == 200
    return page


def token(shop: Shop, page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', shop.ask("GET", page)[1])
    assert found is not None
    return found[1]
