"""Takes the pictures of the dashboard that README.md and docs/dashboard.md show: `python -m tools.screenshots`.

Plays the demo's storm on a bus of its own, and looks at it with a real Chromium: each page once in the theme where it
is worth a picture, one page as a phone shows it, and the overview moving.
Needs playwright, pillow and a chromium on PATH.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, Page, async_playwright

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
SIZE = {"width": 1280, "height": 800}
# When the storm is at its height: a service is down, retries tick, letters pile up.
HEIGHT_AT = 25.0
FRAMES, EVERY, WIDE = 44, 1.0, 760
STATIC = ("topics", "subscriptions", "workers", "catalogue", "system")


async def main() -> None:
    """Play, look, and write the pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or sys.exit("there is no chromium on PATH")
    with tempfile.TemporaryDirectory() as folder:
        demo, began = _play(Path(folder)), time.monotonic()
        try:
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                address = await _address(Path(folder))
                moving = asyncio.create_task(_moving(browser, address))
                await asyncio.sleep(max(0.0, began + HEIGHT_AT - time.monotonic()))
                await _pages(browser, address)
                await moving
                await browser.close()
        finally:
            demo.terminate()
            demo.wait()


def _play(folder: Path) -> subprocess.Popen[bytes]:
    """The demo in a terminal that nobody sees, for it serves its dashboard to those who watch."""
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "40"}
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        environment.pop(name, None)
    command = ["script", "-qfc", f"{sys.executable} -m postbus demo --seconds 75 --keep", str(folder / "said")]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


async def _address(folder: Path) -> str:
    said = folder / "said"
    async with asyncio.timeout(30):
        while True:
            text = said.read_text(errors="replace") if said.exists() else ""
            if "the dashboard is at http://" in text:
                return text.partition("the dashboard is at ")[2].split("/\x1b")[0].split()[0].rstrip("/")
            await asyncio.sleep(0.1)


async def _tab(browser: Browser, **options: object) -> Page:
    context = await browser.new_context(**{"viewport": SIZE, **options})  # type: ignore[arg-type]
    await context.add_init_script("localStorage.setItem('postbus-refresh', '1')")
    return await context.new_page()


async def _moving(browser: Browser, address: str) -> None:
    """The overview for half a minute, as one animated picture."""
    page = await _tab(browser)
    await page.goto(address + "/")
    frames = []
    for _ in range(FRAMES):
        await asyncio.sleep(EVERY)
        picture = Image.open(BytesIO(await page.screenshot())).convert("RGB")
        frames.append(picture.resize((WIDE, picture.height * WIDE // picture.width), Image.Resampling.LANCZOS))
    await page.context.close()
    first, *others = frames
    first.save(
        PICTURES / "moving.webp", save_all=True, append_images=others, duration=450, loop=0, quality=62, method=4
    )


async def _pages(browser: Browser, address: str) -> None:
    light, dark = await _tab(browser), await _tab(browser, color_scheme="dark")
    phone = await _tab(browser, viewport={"width": 390, "height": 800}, device_scale_factor=2)
    await _picture(light, address + "/retries", "retries")
    await dark.goto(address + "/retries")
    event = await dark.locator("tbody a.mono").last.get_attribute("href")
    origin = address.partition("//")[0] + "//" + address.partition("//")[2].partition("/")[0]
    await _picture(dark, f"{origin}{event}", "event-dark")
    await _picture(light, address + "/dead", "dead")
    await _picture(light, address + "/", "overview")
    await _picture(dark, address + "/", "overview-dark")
    await _picture(phone, address + "/", "phone")
    await _picture(light, address + "/events", "events")
    for name in STATIC:
        await _picture(light, f"{address}/{name}", name)
    await light.goto(address + "/dead")
    await light.locator("tbody").get_by_role("button", name="Replay").first.click()
    await light.locator("#dialog").wait_for()
    await _save(light, "replay")


async def _picture(page: Page, address: str, name: str) -> None:
    await page.goto(address)
    await page.locator("html[data-ticks]").wait_for(state="attached")
    await _save(page, name)


async def _save(page: Page, name: str) -> None:
    Image.open(BytesIO(await page.screenshot(animations="disabled"))).convert("RGB").save(
        PICTURES / f"{name}.webp", quality=80, method=6
    )


if __name__ == "__main__":
    asyncio.run(main())
