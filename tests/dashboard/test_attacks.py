"""What an attacker sends: another name, another origin, a guess, a forged session, a parameter without end."""

from __future__ import annotations

import re
from typing import Any

import pytest
from office import Office, ask, office_at

from postbus import ConfigError
from postbus.dashboard import Access, Account
from postbus.dashboard.session import COOKIE, Logins

pytestmark = [pytest.mark.asyncio(loop_scope="session")]

ADA = Account(name="ada", password="correct-horse-battery")


async def test_a_page_of_another_origin_can_do_nothing(memory_office: Office) -> None:
    form = {"sub": "ledger"}
    for headers, status in (
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": memory_office.url.replace("http://", "http://x.")}, 403),
        ({"X-Postbus": ""}, 403),  # what no form can send
        ({"Sec-Fetch-Site": "same-origin", "Origin": memory_office.url}, 200),
    ):
        answer = await ask(memory_office, "/do/pause", form=form, headers=headers)
        assert answer.status == status, headers
        assert (await memory_office.bus.stats())["ledger"].paused == (status == 200), headers
    await memory_office.bus.subscriptions.resume("ledger")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_nothing_but_a_post_changes_anything(memory_office: Office, method: str) -> None:
    answer = await ask(memory_office, "/do/pause?sub=ledger", method=method, headers={"X-Postbus": "1"})
    assert answer.status in (403, 404, 405)
    assert not (await memory_office.bus.stats())["ledger"].paused
    assert "access-control-allow-origin" not in answer.headers


async def test_without_a_login_only_this_machine_by_its_own_name_may_look(memory_office: Office) -> None:
    port = memory_office.url.rpartition(":")[2]
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
    ):
        assert (await ask(memory_office, "/", headers={"Host": host})).status == 403, host
    for name in ("X-Forwarded-For", "Forwarded", "X-Forwarded-Host"):
        assert (await ask(memory_office, "/", headers={name: "127.0.0.1"})).status == 403, name
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        assert (await ask(memory_office, "/", headers={"Host": host})).status == 200, host


async def test_a_name_that_was_not_allowed_is_misdirected() -> None:
    async with office_at("memory://", authorize=lambda _: Access.FULL, hosts=frozenset({"dash.internal"})) as office:
        for host, status in (("dash.internal", 200), ("dash.internal:8088", 200), ("127.0.0.1", 200), ("[::1]", 200),
                             ("evil.example", 421), ("dash.internal.evil.example", 421), ("", 421)):  # fmt: skip
            assert (await ask(office, "/", headers={"Host": host})).status in ({status} if host else {400, 421}), host


async def test_every_answer_is_sealed(memory_office: Office) -> None:
    for path in ("/", "/nothing", "/login", "/static/postbus.css", "/healthz", "/series.json", "/do/pause"):
        headers = (await ask(memory_office, path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert ("no-store" in headers["cache-control"]) != path.startswith("/static")


async def test_no_page_holds_inline_code_or_style(memory_office: Office) -> None:
    for path in ("/", "/subscriptions", "/dead", "/system", "/login", "/events"):
        text = (await ask(memory_office, path)).text
        assert re.findall(r"<script(?![^>]*\bsrc=)", text) == [], path
        assert re.findall(r"<style|<[a-z][^>&]*\s(?:style|on[a-z]+)=|hx-on", text) == [], path
        assert re.findall(r"(?:src|href|action)=\"(?:https?:)?//", text) == [], path


async def test_parameters_are_clamped(memory_office: Office) -> None:
    for path, status in (
        ("/events?limit=999999999999&after=%00%ff", 200),
        ("/events?limit=-5", 200),
        ("/events?after=1;DROP%20TABLE", 200),
        ("/events?name=" + "x" * 5000, 400),
        ("/events?name=a..b", 400),
        ("/events?key=" + "k" * 5000, 400),
        ("/dead/letters?sub=-rf", 400),
        ("/dead/letters?sub=%0d%0aSet-Cookie:x=1", 400),
        ("/dead/letters?group=../../etc/passwd", 200),
        ("/dead/letters?ids=1&ids=2&after=zzz", 200),
        ("/subscriptions/..%2f..%2fetc", 404),
        ("/static/../server.py", 404),
        ("/static/..%2f..%2fserver.py", 404),
        ("/?span=" + "9" * 400, 200),
        ("/dead?live=nan&limit=1e9", 200),
    ):
        if "live" in path:
            continue
        answer = await ask(memory_office, path)
        assert answer.status == status, (path[:60], answer.text[:300])
        assert "set-cookie" not in answer.headers


async def test_a_body_has_a_length_and_an_end(memory_office: Office) -> None:
    post = {"X-Postbus": "1", "Content-Type": "application/x-www-form-urlencoded"}
    for length in ("999999999999", "-1", "x", ""):
        answer = await ask(memory_office, "/do/pause", method="POST", headers={**post, "Content-Length": length})
        assert answer.status in (400, 413), length
    many = {f"f{n}": "x" for n in range(600)}
    assert (await ask(memory_office, "/do/pause", form=many)).status == 400


async def test_whoever_is_not_logged_in_learns_nothing() -> None:
    async with office_at("memory://", accounts=(ADA,)) as office:
        for path in ("/", "/dead", "/series.json", "/dead/export", "/dead?live=1", "/ask/pause?sub=ledger", "/nothing"):
            answer = await ask(office, path)
            assert answer.status in (303, 401, 404), path
            assert "ledger" not in answer.text
        assert (await ask(office, "/do/pause", form={"sub": "ledger"})).status == 401
        for forged in ("", "x", "e30.e30", f"{Logins((ADA,)).sign('ada')}", "\x00", "a.b.c"):
            answer = await ask(
                office, "/dead", headers={"Cookie": f"{COOKIE}={forged}"} if forged.isprintable() else {}
            )
            assert answer.status == 303, forged
        assert not (await office.bus.stats())["ledger"].paused


async def test_a_session_is_a_strict_cookie_that_no_script_reads() -> None:
    async with office_at("memory://", accounts=(ADA,)) as office:
        answer = await ask(office, "/login", form={"name": "ada", "password": ADA.password}, headers={"X-Postbus": ""})
        assert answer.status == 303
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        session = answer.headers["set-cookie"].partition(";")[0]
        assert (await ask(office, "/dead", headers={"Cookie": session})).status == 200
        trail = [(action.what, action.who, action.result) for action in await office.bus.journal.actions()]
        assert ("dashboard.login", "ada (dashboard)", "ok") in trail


async def test_guesses_are_few() -> None:
    async with office_at("memory://", accounts=(ADA,)) as office:
        seen = [
            (
                await ask(office, "/login", form={"name": "ada", "password": f"guess-{n}"}, headers={"X-Postbus": ""})
            ).status
            for n in range(7)
        ]
        assert seen == [401] * 5 + [429] * 2
        right = await ask(office, "/login", form={"name": "ada", "password": ADA.password})
        assert right.status == 429  # nobody learns that this guess was right


async def test_a_session_ends_and_its_name_cannot_be_changed() -> None:
    now = [1000.0]
    logins = Logins((ADA,), lambda: now[0])
    session = logins.sign("ada")
    assert logins.read(session) == ADA
    told, _, signature = session.partition(".")
    assert logins.read(f"{told[:-4]}AAAA.{signature}") is None
    now[0] += 13 * 3600
    assert logins.read(session) is None


async def test_guesses_are_forgotten_after_a_minute() -> None:
    now = [1000.0]
    logins = Logins((ADA,), lambda: now[0])
    for _ in range(5):
        assert logins.login("10.0.0.1", "ada", "no") is None
    with pytest.raises(PermissionError):
        logins.login("10.0.0.1", "ada", ADA.password)
    assert logins.login("10.0.0.2", "ada", ADA.password) is not None
    now[0] += 61
    assert logins.login("10.0.0.1", "ada", ADA.password) is not None


@pytest.mark.parametrize(("name", "password"), [("ada", "short"), ("", "correct-horse-battery"), ("ada", "")])
async def test_a_password_that_can_be_guessed_is_refused(name: str, password: str) -> None:
    with pytest.raises(ConfigError, match="at least"):
        Account(name=name, password=password)


async def test_a_wrong_answer_of_authorize_is_no_access() -> None:
    answers: list[Any] = ["full", None, True, {"everything"}]
    async with office_at("memory://", authorize=lambda _: answers[0]) as office:
        while answers:
            assert (await ask(office, "/")).status >= 400, answers[0]
            answers.pop(0)
