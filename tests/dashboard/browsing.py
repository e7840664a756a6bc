"""Tabs of a real browser, which fail their test when a page did what no page of ours should."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Page, expect

__all__ = ["tab"]

# In milliseconds.  Machines that are busy with other things answer later, and pages change less often then.
PATIENCE = 60_000
expect.set_options(timeout=PATIENCE)
# Refreshed every second, unless the test has chosen otherwise.
_EAGER = "try { localStorage.getItem('postbus-refresh') || localStorage.setItem('postbus-refresh', '1') } catch {}"
# A stream that ends with its page, or an answer that says no, is nothing that a page did wrong.
_EXPECTED = ("the server responded with a status of", "net::ERR_", "htmx:sse:error", "htmx:error")


@asynccontextmanager
async def tab(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A tab in which no script may run that should not, nor anything be asked of another machine."""
    wrong: list[str] = []

    def asked(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:")):
            wrong.append(f"asked {request.url}")

    context = await browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    await context.add_init_script(_EAGER)
    page = await context.new_page()
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    page.on("request", asked)
    try:
        yield page
    finally:
        # Only those who failed are shown it.
        print(page.url, await page.evaluate("document.querySelector('#dialog')?.outerHTML"))  # noqa: T201
        await context.close()
    unexpected = [text for text in wrong if not any(word in text for word in _EXPECTED)]
    assert not unexpected, unexpected
