"""The dashboard's parts by themselves, and what is shipped with it."""

# ruff: noqa: RUF001 - a dash of the right length

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from postbus import DeadLetter
from postbus.cli import postbus, run
from postbus.dashboard.drawing import picture_of
from postbus.dashboard.kept import Kept
from postbus.dashboard.payload import as_text, parsed, tree_of
from postbus.dashboard.present import ago, bar, percent, short, span, spark
from postbus.dashboard.shown import HIDDEN, Shown, without_secrets
from postbus.delivery import Failure
from postbus.envelope import Envelope, new_id
from postbus.errors import TransportError
from postbus.graph import EventNode
from postbus.grouping import Grouping, group_of, shape_of
from postbus.transport import SubscriptionStats

STATIC = Path(str(files("postbus.dashboard"))) / "static"


# -- what is shipped


def test_vendored_files_are_those_that_their_authors_published() -> None:
    listed = {}
    for line in (STATIC / "vendor" / "VENDOR").read_text().splitlines():
        if not line.startswith("#"):
            name, version, licence, file, digest = line.split()
            assert re.fullmatch(r"\d+\.\d+\.\d+", version), line
            assert licence in ("0BSD", "MIT"), line
            assert name in ("htmx.org", "uplot"), line
            listed[file] = digest
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (STATIC / "vendor").iterdir()}
    assert there.pop("VENDOR")
    assert there == listed


def test_nothing_of_ours_names_another_machine() -> None:
    own = [*STATIC.glob("*.*"), *(STATIC.parent / "templates").glob("*.html")]
    assert len(own) > 20
    for path in own:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"(?:https?:)?//[a-z]+\.[a-z]", text) == [], path.name


# -- the shape of a problem


@pytest.mark.parametrize(
    ("message", "shape"),
    [
        ("timeout after 30s", "timeout after #s"),
        ("no order 'o-17' for \"Ada\"", "no order '…' for '…'"),
        ("user 0190d2f1-7a3b-7000-8000-00000000abcd is gone", "user <id> is gone"),
        ("at 0x7f3a2b10: 1,234.5 of 10", "at <hex>: # of #"),
        ("first line\nsecond 5", "first line"),
        ("", ""),
        ("don't", "don't"),
    ],
)
def test_a_message_loses_what_varies(message: str, shape: str) -> None:
    assert shape_of(message) == shape


@given(st.text(max_size=2000))
def test_any_message_has_a_shape_that_is_one_short_line(message: str) -> None:
    shape = shape_of(message)
    assert len(shape) <= 200
    assert "\n" not in shape


def letter(number: int, message: str, sub: str = "receipts") -> DeadLetter:
    envelope = Envelope(new_id(), "orders.order.placed", "orders.order", None, 0, 1, "application/json", b"{}")
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return DeadLetter(UUID(int=number), envelope, sub, 1, "attempts spent", "", at, Failure("OSError", message))


def test_letters_of_one_problem_are_one_group() -> None:
    letters = [letter(n, f"no route to 10.0.0.{n}") for n in range(1, 5)]
    letters += [letter(9, "disk full"), letter(10, "no route to 1", "ledger")]
    grouping = Grouping()
    for one in (*letters, letters[0]):
        grouping.add(one)
    first, *others = grouping.groups()
    assert (first.count, first.error, first.shape) == (4, "OSError", "no route to #")
    assert (first.first_at.second, first.last_at.second, first.newest) == (1, 4, UUID(int=4))
    assert sorted((group.subscription, group.count) for group in others) == [("ledger", 1), ("receipts", 1)]
    assert grouping.ids(first.id) == [UUID(int=n) for n in range(1, 5)]
    assert {group_of(one) for one in letters[:4]} == {first.id}
    grouping.remove([UUID(int=n) for n in range(1, 5)])
    assert len(grouping) == 2
    assert grouping.ids(first.id) == []


# -- what is asked once for all


async def test_who_comes_while_somebody_asks_gets_the_same_answer() -> None:
    asked, gate = [0], asyncio.Event()

    async def ask() -> int:
        asked[0] += 1
        await gate.wait()
        return asked[0]

    kept = Kept(ask, fresh=600.0)
    waiting = [asyncio.create_task(kept.get()) for _ in range(50)]
    await asyncio.sleep(0)
    waiting.pop().cancel()  # whoever goes away takes nobody's answer along
    gate.set()
    assert await asyncio.gather(*waiting) == [1] * 49
    assert await kept.get() == 1


async def test_an_error_is_told_and_not_kept() -> None:
    answers: list[Exception | str] = [TransportError("away"), "back"]

    async def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kept = Kept(ask, fresh=600.0)
    with pytest.raises(TransportError, match="away"):
        await kept.get()
    assert await kept.get() == "back"


# -- the catalogue's picture


def node(name: str, publishers: tuple[str, ...], subscriptions: tuple[str, ...]) -> EventNode:
    return EventNode(
        name=name, topic="t", version=1, class_name=None, schema=None, publishers=publishers, handlers=("app:count",),
        subscriptions=subscriptions,
    )  # fmt: skip


def test_a_picture_joins_everybody_once_and_shows_names_as_text() -> None:
    nodes = [node("orders.placed", ("app:shop", '<script>"'), ("mail",)), node("orders.paid", ("app:shop",), ())]
    drawn = str(picture_of(nodes, lambda path, **query: f"/x{path}?{query}", {"mail": "bad"}))
    assert drawn.count("<rect") == 2 + 2 + 2  # publishers, events, the handler and the subscription
    assert [drawn.count(f'class="{kind}"') for kind in ("publishes", "calls", "takes")] == [3, 2, 1]
    assert 'class="sub bad"' in drawn
    assert "<script>" not in drawn
    assert "2 publishers, 2 events, 2 reactors" in drawn
    assert str(picture_of([], lambda path: path, {})).startswith("<svg")


# -- payloads

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)


@given(PLAIN)
def test_what_is_edited_without_change_is_the_same(payload: object) -> None:
    text = as_text(payload)
    assert text is not None
    assert parsed(text) == payload
    assert tree_of(payload).kind in ("object", "list", "text", "number", "word")


def test_a_huge_payload_is_cut_and_says_so() -> None:
    tree = tree_of({"rows": list(range(100_000)), "text": "x" * 10_000})
    (rows,) = tree.children[:1]
    assert rows.children[-1].kind == "more"
    assert rows.children[-1].text.endswith("more")
    assert len(rows.children) < 2000


@pytest.mark.parametrize("text", ["{", "NaN", "[Infinity]", "1 2", "[" * 100_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed(text)


def test_secrets_are_hidden_by_their_names() -> None:
    payload = {"user": "ada", "passwords": ["x"], "card": {"api_key": 5, "number": 1}, "rows": [{"Token": "t"}]}
    shown = without_secrets(Shown(name="a.b", payload=payload, headers={"authorization": "x", "tenant": "a"}))
    assert shown.payload["passwords"] == HIDDEN
    assert shown.payload == {
        **payload,
        "passwords": HIDDEN,
        "card": {"api_key": HIDDEN, "number": 1},
        "rows": [{"Token": HIDDEN}],
    }
    assert shown.headers == {"authorization": HIDDEN, "tenant": "a"}


# -- how values look


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0, "0 ms"), (0.0042, "4.2 ms"), (0.25, "250 ms"), (3.21, "3.2 s"), (59, "59 s"), (61, "1 m 1 s"),
     (3600, "1 h"), (90_000, "1 d 1 h"), (86_461, "1 d")],
)  # fmt: skip
def test_a_span_is_said_in_two_units(seconds: float | None, said: str) -> None:
    assert span(seconds) == said


def test_numbers_are_short_and_honest() -> None:
    assert [short(v) for v in (0, 999, 9_999, 12_345, 123_456, 4_560_000)] == [
        "0",
        "999",
        "9,999",
        "12.3k",
        "123k",
        "4.56M",
    ]
    assert percent(999_999, 1_000_000) == "99.9 %"  # one failure in a million is not rounded away
    assert percent(1, 1_000_000) == "0.1 %"
    assert (percent(5, 5), percent(0, 5), percent(0, 0)) == ("100 %", "0 %", "–")


def test_drawings_hold_no_style_and_say_what_they_show() -> None:
    drawn = spark([1, 2, 3], 'wai"ting', "ready") + bar(SubscriptionStats(name="x", backlog=3, dead=100_000))
    assert "style" not in drawn
    assert 'aria-label="wai&#34;ting: 1 to 3, at most 3"' in drawn
    assert "3 ready, 100,000 dead" in drawn
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert "in 42 s" in ago(now + timedelta(seconds=42), now)
    assert ">2 h ago<" in ago(now - timedelta(hours=2), now)


# -- the command


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dashshop.py").write_text("from postbus import Bus\nbus = Bus('sqlite:///shop.db')\n")
    monkeypatch.chdir(tmp_path)
    for name in ("USER", "PASSWORD", "READER_USER", "READER_PASSWORD"):
        monkeypatch.delenv(f"POSTBUS_DASHBOARD_{name}", raising=False)


@pytest.mark.usefixtures("shop")
def test_others_are_not_let_in_without_a_login(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "dash.example"):
        assert run(["dashboard", "dashshop:bus", "--host", host]) == 2
        assert "POSTBUS_DASHBOARD_USER" in capsys.readouterr().err
    monkeypatch.setenv("POSTBUS_DASHBOARD_USER", "ada")
    assert run(["dashboard", "dashshop:bus", "--host", "0.0.0.0"]) == 2
    assert "expected both" in capsys.readouterr().err
    monkeypatch.setenv("POSTBUS_DASHBOARD_PASSWORD", "short")
    assert run(["dashboard", "dashshop:bus", "--host", "0.0.0.0"]) == 2
    assert "at least 12" in capsys.readouterr().err


def test_passwords_are_no_options() -> None:
    told = CliRunner().invoke(postbus, ["dashboard", "--help"]).output
    assert "--password" not in told
    assert "POSTBUS_DASHBOARD_PASSWORD" in told


def test_a_group_of_letters_is_json() -> None:
    group = Grouping()
    group.add(letter(1, "no"))
    assert json.dumps(group.groups()[0].names) == '{"orders.order.placed": 1}'
