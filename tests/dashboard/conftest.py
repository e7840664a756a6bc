"""One event loop, one browser and one office for each transport, for all tests of the dashboard."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from browsing import tab
from office import Office, office_at
from playwright.async_api import Browser, Page, async_playwright

from postbus.dashboard import counting

# How long a dialog counts is for people; here it says how many there are, however busy the machine.
counting.PATIENCE = 60.0
CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A real Chromium, without a window."""
    if CHROMIUM is None:
        said = "there is no chromium: apt-get install chromium"
        pytest.fail(said) if os.environ.get("POSTBUS_REQUIRE_SERVERS") == "1" else pytest.skip(said)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sqlite_office(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Office]:
    """On SQLite; what most tests use."""
    async with office_at(f"sqlite:///{tmp_path_factory.mktemp('dashboard')}/bus.db") as office:
        yield office


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_office(redis_url: str) -> AsyncIterator[Office]:
    """On Redis."""
    async with office_at(redis_url) as office:
        yield office


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_office(postgres_url: str) -> AsyncIterator[Office]:
    """On PostgreSQL."""
    async with office_at(postgres_url) as office:
        yield office


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def memory_office() -> AsyncIterator[Office]:
    """In memory, as an application that embeds both."""
    async with office_at("memory://") as office:
        yield office


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def office(request: pytest.FixtureRequest) -> Office:
    """One after the other on each transport that has a server."""
    found: Office = request.getfixturevalue(f"{request.param}_office")
    return found


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def any_office(request: pytest.FixtureRequest) -> Office:
    """The same, and in memory."""
    found: Office = request.getfixturevalue(f"{request.param}_office")
    return found


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A tab that fails its test when a script ran that should not, or anything was asked of another machine."""
    async with tab(browser) as found:
        yield found
