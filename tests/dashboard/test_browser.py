"""The dashboard in a real browser, with events flowing: what is clicked happens in the transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from browsing import tab
from office import HOSTILE, Office, OrderPlaced, office_at, until
from playwright.async_api import Browser, Page, expect

from postbus.dashboard import Access, Account

# They share a loop, a browser and servers, and so a process.
# A wait of a browser may take a minute on a busy machine, and says what it waited for when it ends by itself.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

PAGES = (
    "/", "/?span=day", "/topics", "/subscriptions", "/subscriptions/receipts", "/events", "/retries", "/dead",
    "/dead/letters", "/workers", "/outbox", "/catalogue", "/system",
)  # fmt: skip


async def button(page: Page, name: str) -> None:
    await page.locator("main").get_by_role("button", name=name, exact=True).first.click()
    await expect(page.locator("#dialog")).to_be_visible()


async def agree(page: Page, says: str) -> None:
    """Press the button that does it, and wait for the end."""
    await page.locator("#dialog form button:not([type=button])").click()
    await expect(page.locator("#dialog [data-said]")).to_contain_text(says)
    await page.locator("#dialog [data-close]").click()
    await expect(page.locator("#dialog")).to_be_hidden()


async def ticked(page: Page) -> None:
    """A change came by itself."""
    await expect(page.locator("html[data-ticks]")).to_be_attached()


async def test_every_page_shows_what_flows_and_asks_nobody_else(office: Office, page: Page) -> None:
    await office.bury(2)
    stored = await office.bus.publish(OrderPlaced("o-late", note="later"))
    for path in (*PAGES, f"/events/{stored.id}"):
        answer = await page.goto(office.url + path)
        assert answer is not None
        assert answer.status == 200, path
        await expect(page.locator("h1")).not_to_be_empty()
        await expect(page.locator("#route [aria-current=page]")).to_have_count(1)
    await page.goto(office.url + "/retries")
    await expect(page.locator("main")).to_contain_text("the bank is closed")
    await expect(page.locator("main")).to_contain_text("1 of 5")


async def test_a_page_changes_by_itself(office: Office, page: Page) -> None:
    await page.goto(office.url + "/dead/letters?sub=receipts&limit=200")
    await ticked(page)
    (letter,) = await office.bury(1)
    await expect(page.locator(f'[id="l-{letter}"]')).to_be_visible()
    await office.bus.dead.discard("receipts", [letter])
    await expect(page.locator(f'[id="l-{letter}"]')).to_have_count(0)


async def test_pausing_and_resuming_holds_the_transport(office: Office, page: Page) -> None:
    await page.goto(office.url + "/subscriptions/ledger")
    await button(page, "Pause")
    await expect(page.locator("#dialog code")).to_have_text("postbus subs pause shop:bus ledger")
    await agree(page, "paused")
    assert (await office.bus.stats())["ledger"].paused
    await expect(page.locator("main .chip.off")).to_have_text("paused")
    await button(page, "Resume")
    await agree(page, "goes on")
    assert not (await office.bus.stats())["ledger"].paused


async def test_a_group_of_letters_is_replayed_as_one(office: Office, page: Page) -> None:
    await office.bus.dead.discard("receipts")
    await office.bury(3, note="fail twice")
    await page.goto(office.url + "/dead?sub=receipts")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.locator("tbody")).to_contain_text("smtp-# refused '…': fail twice")
    replayed = [letter.envelope.id async for letter in office.bus.dead.each("receipts")]
    await button(page, "Replay")
    await expect(page.locator("#dialog h2")).to_have_text("Replay 3 dead letters of receipts in this group?")
    await agree(page, "3 replayed")
    await until(lambda: _is(office.dead(), 3))  # they fail again, with all their attempts
    assert sorted([one.envelope.id async for one in office.bus.dead.each("receipts")]) == sorted(replayed)
    (action, *_) = await office.bus.journal.actions(limit=1)
    assert (action.what, action.target, action.who) == ("dead.replay", "receipts", "127.0.0.1 (dashboard)")


async def test_letters_are_picked_and_discarded_after_a_word_is_typed(office: Office, page: Page) -> None:
    await office.bus.dead.discard("receipts")
    keep, *others = await office.bury(3)
    await page.goto(office.url + "/dead/letters?sub=receipts")
    for letter in others:
        await page.locator(f'input[value="{letter}"]').check()
    await ticked(page)  # what is picked stays picked
    await expect(page.locator("[data-picked]").first).to_have_text("2")
    await button(page, "Discard selected…")
    await expect(page.locator("#dialog code")).to_contain_text(
        f"postbus dead discard shop:bus --sub receipts --ids {others[0]}"
    )
    await page.locator("#dialog form button:not([type=button])").click()
    assert await office.dead() == 3  # the browser asks for the word first
    await page.locator("#dialog input[name=typed]").fill("discard")
    await agree(page, "2 discarded")
    assert [letter.id async for letter in office.bus.dead.each("receipts")] == [keep]


async def test_a_long_action_is_stopped_where_it_is(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    async with office_at("memory://") as office:
        await office.bury(3)
        discard, begun = office.bus.dead.discard, asyncio.Event()

        async def slowly(subscription: str, _: Sequence[UUID] | None, **options: Any) -> int:
            """One of them; the others would take for ever."""
            (first, *_) = [letter.id async for letter in office.bus.dead.each(subscription)]
            done = await discard(subscription, [first])
            options["progress"](done)
            begun.set()
            await asyncio.Event().wait()
            return done

        monkeypatch.setattr(office.bus.dead, "discard", slowly)
        await page.goto(office.url + "/dead/letters?sub=receipts")
        await button(page, "Discard all that match…")
        await page.locator("#dialog input[name=typed]").fill("discard")
        await page.locator("#dialog form button:not([type=button])").click()
        await begun.wait()
        await expect(page.locator("#dialog [data-said]")).to_have_text("1 of 3")
        await page.get_by_role("button", name="Stop", exact=True).click()
        await expect(page.locator("#dialog [data-said]")).to_have_text("stopped after 1.")
        await page.locator("#dialog [data-close]").click()
        assert await office.dead() == 2
        await page.goto("about:blank")


async def test_an_outbox_is_held_and_goes_on(page: Page, tmp_path: Path) -> None:
    store, own = (f"sqlite:///{tmp_path}/{name}.db" for name in ("bus", "own"))
    async with office_at(store, outbox=own) as office:
        outbox = office.bus.outbox
        assert outbox is not None
        await page.goto(office.url + "/outbox")
        await button(page, "Pause")
        await expect(page.locator("#dialog code")).to_have_text("postbus subs pause shop:bus postbus.outbox")
        await agree(page, "paused")
        assert (await outbox.stats()).paused
        await office.bus.publish(OrderPlaced("o-held"))
        await expect(page.locator("main")).to_contain_text("o-held")
        await button(page, "Resume")
        await agree(page, "goes on")
        await expect(page.locator("main")).to_contain_text("Everything is relayed")
        await until(lambda: _some(office, "o-held"))
        await page.goto("about:blank")


async def test_letters_are_exported_as_they_are_shown(office: Office, page: Page) -> None:
    await office.bus.dead.discard("receipts")
    letters = await office.bury(2)
    await page.goto(office.url + "/dead/letters?sub=receipts")
    async with page.expect_download() as download:
        await page.locator("main").get_by_role("link", name="Export all that match").click()
    lines = (await (await download.value).path()).read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {str(letter) for letter in letters}
    assert await office.dead() == 2


async def test_a_letter_is_edited_and_replayed_for_its_subscription_alone(office: Office, page: Page) -> None:
    await office.bus.dead.discard("receipts")
    billed = (await office.bus.journal.series()).subscriptions["billing"].sum.handled
    await office.bus.publish(OrderPlaced("o-edit", note="fail", password=""))
    await until(lambda: _is(office.dead(), 1))
    (letter,) = await office.bus.dead.list("receipts")
    await page.goto(office.url + f"/dead/{letter.id}")
    await expect(page.get_by_role("button", name="Edit and replay…")).to_have_count(0)  # its password is hidden
    await office.bus.dead.amend(letter.id, {"order_id": "o-edit", "note": "fail again"})
    await page.goto(office.url + f"/dead/{letter.id}")
    await button(page, "Edit and replay…")
    field = page.locator("#dialog textarea")
    await field.fill("{not json")
    await page.locator("#dialog form button:not([type=button])").click()
    await expect(page.locator("#dialog [data-said]")).to_contain_text("that is no JSON")
    await page.locator("#dialog [data-close]").click()
    await button(page, "Edit and replay…")
    await field.fill(json.dumps({"order_id": "o-edit", "amount": 9_007_199_254_740_995, "note": "fine"}))
    await agree(page, "replayed as")
    await until(lambda: _is(office.dead(), 0))
    await until(lambda: _some(office, "o-edit"))
    (paid,) = await office.bus.events.list(name="orders.order.paid", key="o-edit")
    assert paid.envelope.correlation_id == str(letter.envelope.id)  # the chain begins with what was edited
    assert (await office.bus.journal.series()).subscriptions["billing"].sum.handled - billed <= 1


async def _some(office: Office, key: str) -> bool:
    return len(await office.bus.events.list(name="orders.order.paid", key=key)) == 1


async def _is(found: Any, wanted: int) -> bool:
    return bool(await found == wanted)


async def test_stored_events_are_replayed_to_one_subscription(office: Office, page: Page) -> None:
    await office.bus.publish(OrderPlaced("o-again"))
    await until(lambda: _some(office, "o-again"))
    before = (await office.bus.journal.series()).subscriptions["ledger"].sum.handled
    await page.goto(office.url + "/subscriptions/ledger")
    await button(page, "Replay stored events…")
    await page.locator("#dialog select").select_option("start")
    await expect(page.locator("#dialog code")).to_contain_text("postbus subs seek shop:bus ledger --to start")
    await agree(page, "delivered again to ledger")

    async def handled() -> bool:
        return (await office.bus.journal.series()).subscriptions["ledger"].sum.handled > before

    await until(handled)


async def test_retries_are_run_now_one_by_one_or_those_selected(office: Office, page: Page) -> None:
    await office.bus.retries.discard("billing")
    one, two, three = [await office.bus.publish(OrderPlaced(f"o-hurry-{n}", note="later")) for n in range(3)]
    await until(lambda: _is(office.bus.retries.count("billing"), 3))
    await page.goto(office.url + "/retries?sub=billing")
    await expect(page.locator("tbody tr")).to_have_count(3)
    await page.locator(f'[id="r-{one.id}-billing"]').get_by_role("button", name="Run now").click()
    await expect(page.locator("#dialog h2")).to_have_text("Run 1 retry of billing now?")
    await expect(page.locator("#dialog code")).to_have_text(
        f"postbus retries run-now shop:bus --sub billing --ids {one.id}"
    )
    await agree(page, "1 run now")
    await until(lambda: _tried(office, 3, {one.id}))  # and failed again
    for event in (two, three):
        await page.locator(f'input[value="billing/{event.id}"]').check()
    await ticked(page)  # what is picked stays picked
    await button(page, "Run 2 selected now")
    await agree(page, "2 run now")
    await until(lambda: _tried(office, 3, {one.id, two.id, three.id}))
    await expect(page.locator(f'[id="r-{two.id}-billing"]')).to_contain_text("2 of 5")


async def _tried(office: Office, attempt: int, ids: set[Any]) -> bool:
    found = {retry.envelope.id for retry in await office.bus.retries.list("billing") if retry.attempt == attempt}
    return found == ids


async def test_retries_that_match_are_discarded_after_a_word_is_typed(office: Office, page: Page) -> None:
    await office.bus.retries.discard("billing")
    keep = await office.bus.publish(OrderPlaced("o-keep", note="later"))
    for _ in range(2):
        await office.bus.publish(OrderPlaced("o-drop", note="later"))
    await until(lambda: _is(office.bus.retries.count("billing"), 3))
    await page.goto(office.url + "/retries?sub=billing")
    await page.locator("main").get_by_label("Key", exact=True).fill("o-drop")
    await page.get_by_role("button", name="Search").click()
    await expect(page.locator("tbody tr")).to_have_count(2)
    await button(page, "Discard all that match…")
    await expect(page.locator("#dialog h2")).to_have_text("Discard 2 retries of billing?")
    await page.locator("#dialog input[name=typed]").fill("discard")
    await agree(page, "2 discarded")
    (left,) = await office.bus.retries.list("billing")
    assert left.envelope.id == keep.id
    stats = (await office.bus.stats())["billing"]
    assert (stats.retrying, stats.dead, stats.backlog) == (1, 0, 0)


async def test_a_worker_is_quieted_goes_on_and_is_stopped(page: Page) -> None:
    async with office_at("memory://", work=False) as office, office.bus.worker() as worker:
        await page.goto(office.url + "/workers")
        await button(page, "Quiet")
        await expect(page.locator("#dialog code")).to_have_text(f"postbus workers quiet shop:bus {worker.owner}")
        await agree(page, "claims nothing more")
        await expect(page.locator("tbody .chip")).to_have_text("quiet")
        await office.bus.publish(OrderPlaced("o-quiet"))
        await expect(page.locator("main")).to_contain_text("Go on")
        assert (await office.bus.stats())["billing"].backlog == 1
        await button(page, "Go on")
        await agree(page, "claims again")
        await until(lambda: _some(office, "o-quiet"))
        await button(page, "Stop…")
        await agree(page, "stops")
        await worker.ended()
        await expect(page.locator("main")).to_contain_text("No worker lives")
        assert [action.what for action in await office.bus.journal.actions(limit=3)] == [
            "worker.stop", "worker.resume", "worker.quiet",
        ]  # fmt: skip
        await page.goto("about:blank")


async def test_the_catalogue_is_one_picture_that_leads_on(sqlite_office: Office, page: Page) -> None:
    await page.goto(sqlite_office.url + "/catalogue")
    picture = page.get_by_role("group", name="3 reactors")
    await expect(picture.locator("text", has_text="orders.order.placed")).to_be_visible()
    await expect(picture.locator("path.takes")).to_have_count(3)
    await picture.locator("text", has_text="ledger").click()
    await page.wait_for_url("**/subscriptions/ledger")


async def test_a_page_on_which_only_time_passes_is_not_sent_again(page: Page) -> None:
    async with office_at("memory://", work=False) as office:
        await office.bus.publish(OrderPlaced("o-still"))
        await page.goto(office.url + "/events")
        await ticked(page)
        first = await page.locator("tbody time").first.inner_text()
        await expect(page.locator("tbody time").first).not_to_have_text(first)  # the browser counts on
        await page.wait_for_function("() => document.querySelector('tbody time').textContent.match(/^([4-9]|\\d\\d)/)")
        assert await page.evaluate("document.documentElement.dataset.ticks") == "1"
        await office.bus.publish(OrderPlaced("o-new"))
        await expect(page.locator("tbody tr")).to_have_count(2)
        await page.goto("about:blank")


async def test_what_is_hostile_is_shown_as_text(office: Office, page: Page) -> None:
    note = "fail " + HOSTILE
    order = OrderPlaced(f"k{HOSTILE}"[:150], note=note)
    envelope = await office.bus.publish(order, headers={"x-note": HOSTILE.replace("\u202e", "")})
    (letter,) = await _buried(office, envelope.id)
    for path in (
        *PAGES,
        f"/events/{envelope.id}",
        f"/dead/{letter.id}",
        "/events?name=%3Cscript%3E",
        "/events?key=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E",
    ):
        await page.goto(office.url + path)
        assert await page.evaluate("window.hit") is None, path
        assert await page.locator("main img, main script").count() == 0, path
        assert "49" not in await page.locator("h1").inner_text()
    await page.goto(office.url + f"/dead/{letter.id}")
    await expect(page.locator(".tree")).to_contain_text("<script>window.hit=1</script>{{7*7}}\\u202e")
    await office.bus.dead.discard("receipts", [letter.id])


async def _buried(office: Office, id_: Any) -> Any:
    async def there() -> bool:
        return bool(await office.bus.dead.list("receipts", ids=(id_,)))

    await until(there)
    return await office.bus.dead.list("receipts", ids=(id_,))


async def test_whole_numbers_are_exact_and_secrets_hidden(sqlite_office: Office, page: Page) -> None:
    envelope = await sqlite_office.bus.publish(OrderPlaced("o-big"))
    await page.goto(sqlite_office.url + f"/events/{envelope.id}")
    await expect(page.locator(".tree")).to_contain_text("9007199254740993")
    assert "hunter2" not in await page.content()


async def test_keys_lead_everywhere(sqlite_office: Office, page: Page) -> None:
    await sqlite_office.bury(2)
    await page.goto(sqlite_office.url + "/")
    await page.keyboard.press("?")
    await expect(page.locator("#help")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#help")).to_be_hidden()
    for letter, path in (("s", "/subscriptions"), ("e", "/events"), ("d", "/dead"), ("y", "/system"), ("o", "/")):
        await page.keyboard.press("g")
        await page.keyboard.press(letter)
        await page.wait_for_url(sqlite_office.url + path)
    await page.goto(sqlite_office.url + "/events")
    await page.keyboard.press("/")
    await expect(page.locator("[data-search]")).to_be_focused()
    await page.goto(sqlite_office.url + "/dead/letters?sub=receipts")
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("x")
    await expect(page.locator("tbody tr").nth(1).locator("input")).to_be_checked()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/dead/*-*")


async def test_refreshing_stops_when_asked_and_remembers(sqlite_office: Office, page: Page) -> None:
    await page.goto(sqlite_office.url + "/workers")
    await ticked(page)
    await page.keyboard.press("p")
    await expect(page.locator("[data-refresh]")).to_have_value("off")
    await page.goto(sqlite_office.url + "/subscriptions")
    await expect(page.locator("[data-refresh]")).to_have_value("off")
    assert await page.locator("#live").get_attribute("hx-sse:connect") is None
    await page.locator("[data-refresh]").select_option("1")
    await ticked(page)


# The least contrast that text on a page has with what is behind it, and where.
CONTRAST = """() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const rgb = (colour, under) => {
    pen.fillStyle = under; pen.fillRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.unshift(getComputedStyle(at).backgroundColor);
    return layers.reduce((under, colour) => css(rgb(colour, under)), "white");
  };
  const light = (colour) => {
    const [r, g, b] = rgb(colour, "white").map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let worst = [99, ""];
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join("");
    if (!text || !node.checkVisibility() || node.closest(".unseen, .skip, option, [disabled], .u-legend")) continue;
    const under = behind(node);
    const [a, b] = [light(css(rgb(getComputedStyle(node).color, under))), light(under)].sort();
    const ratio = (b + 0.05) / (a + 0.05);
    if (ratio < worst[0]) worst = [ratio, `${node.tagName}.${node.className}: ${text.slice(0, 40)}`];
  }
  return worst;
}"""
# What can be used and has no name that could be read aloud.
NAMELESS = """() => [...document.querySelectorAll("button, a[href], input, select, textarea, [role=img]")]
  .filter((node) => node.checkVisibility() && node.type !== "hidden")
  .filter((node) => !(node.getAttribute("aria-label") || node.labels?.length || node.textContent.trim()))
  .map((node) => node.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_and_everything_has_a_name(sqlite_office: Office, browser: Browser, scheme: Any) -> None:
    (letter, *_) = await sqlite_office.bury(1)
    async with tab(browser, color_scheme=scheme) as page:
        for path in (*PAGES, f"/dead/{letter}"):
            await page.goto(sqlite_office.url + path)
            ratio, where = await page.evaluate(CONTRAST)
            assert ratio >= 4.5, (path, where)
            assert await page.evaluate(NAMELESS) == [], path
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        await page.keyboard.press("T")  # light
        await page.keyboard.press("T")  # dark
        assert await page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert (await page.evaluate("getComputedStyle(document.body).backgroundColor") == ground) == (scheme == "dark")


async def test_it_fits_on_a_phone(sqlite_office: Office, browser: Browser) -> None:
    await sqlite_office.bury(1)
    envelope = await sqlite_office.bus.publish(OrderPlaced("o-" + "x" * 150, note="y" * 300))
    async with tab(browser, viewport={"width": 375, "height": 700}, has_touch=True) as page:
        for path in (*PAGES, f"/events/{envelope.id}"):
            await page.goto(sqlite_office.url + path)
            assert await page.evaluate("document.documentElement.scrollWidth") <= 375, path
        await page.goto(sqlite_office.url + "/dead?sub=receipts")
        await page.locator("main").get_by_role("button", name="Replay", exact=True).first.tap()
        await expect(page.locator("#dialog form button:not([type=button])")).to_be_in_viewport()


async def test_it_works_below_any_path_of_another_application(page: Page) -> None:
    async with office_at("memory://", prefix="/ops/bus") as office:
        await office.bury(2)
        await page.goto(office.url + "/")
        await ticked(page)
        await page.locator("#route").get_by_text("Dead letters").click()
        await page.wait_for_url(office.url + "/dead")
        await button(page, "Replay all 2")
        await agree(page, "2 replayed")
        links = page.locator("[href], [src]")
        hrefs = await links.evaluate_all("(all) => all.map((n) => n.getAttribute('href') || n.getAttribute('src'))")
        assert [href for href in hrefs if not href.startswith(("/ops/bus/", "#"))] == []
        await page.goto("about:blank")


async def test_who_may_only_look_finds_nothing_to_press(page: Page) -> None:
    async with office_at("memory://", read_only=True) as office:
        (letter, *_) = await office.bury(2)
        await page.goto(office.url + "/")
        await expect(page.locator(".where")).to_contain_text("read-only")
        for path in ("/dead", "/dead/letters", f"/dead/{letter}", "/subscriptions", "/subscriptions/ledger"):
            await page.goto(office.url + path)
            assert await page.locator("main [hx-get*='/ask/'], main [hx-post]").count() == 0, path
            assert await page.get_by_text("Export").count() == 0
        await page.goto("about:blank")


async def test_somebody_logs_in_and_out(page: Page) -> None:
    accounts = (
        Account(name="ada", password="correct-horse-battery"),
        Account(name="reader", password="only-looking-here", access=Access.READ_ONLY),
    )
    async with office_at("memory://", accounts=accounts) as office:
        await page.goto(office.url + "/dead")
        await page.wait_for_url(office.url + "/login")
        await page.get_by_label("Name").fill("ada")
        await page.get_by_label("Password").fill("wrong")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_contain_text("do not belong together")
        await page.get_by_label("Name").fill("reader")
        await page.get_by_label("Password").fill("only-looking-here")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.locator(".where")).to_contain_text("read-only")
        await ticked(page)  # the stream knows the session, too
        await page.get_by_role("button", name="Log out reader").click()
        await page.wait_for_url(office.url + "/login")
        await page.goto(office.url + "/")
        await page.wait_for_url(office.url + "/login")
        await page.goto("about:blank")


async def test_a_button_that_comes_by_itself_does_what_it_says(office: Office, page: Page) -> None:
    await office.bus.dead.discard("receipts")
    await office.bus.publish(OrderPlaced("o-edit", note="fail", password=""))
    await until(lambda: _is(office.dead(), 1))
    (letter,) = await office.bus.dead.list("receipts")
    await page.goto(office.url + f"/dead/{letter.id}")
    await ticked(page)
    await office.bus.dead.amend(letter.id, {"order_id": "o-edit", "note": "fail again"})
    for name, says in (("Edit and replay…", "Edit"), ("Discard…", "Discard"), ("Replay", "Replay")):
        await button(page, name)
        await expect(page.locator("#dialog h2")).to_contain_text(says)
        await page.locator("#dialog [data-close]").first.click()
        await expect(page.locator("#dialog")).to_be_hidden()
