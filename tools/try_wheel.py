"""Builds the wheel, and uses it as a user does who installs postbus and nothing else: no extra, no source beside it.

    python tools/try_wheel.py

Finds what tests in the project's own environment cannot: a dependency that is not declared, a file that is not packed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "wheel"
CORE = {"click", "msgspec", "postbus", "uuid_utils"}

# What the first hour with postbus needs, and all that a worker, a CLI and a type checker find beside the code.
PROGRAM = """
import asyncio, importlib.resources, sys
from dataclasses import dataclass
import postbus
from postbus import Bus, RawEvent, event

@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int

async def try_out(url):
    bus, heard, handled = Bus(url), [], []

    @bus.on(OrderPlaced)
    def hear(event: OrderPlaced) -> None:
        heard.append(event)

    @bus.subscriber(OrderPlaced, name="receipts")
    async def send_receipt(event: OrderPlaced) -> None:
        handled.append(event)

    placed = OrderPlaced("o-1", 4200)
    async with bus:
        await bus.publish(placed)
        await bus.drain(timeout=30)
        stats = (await bus.stats())["receipts"]
    assert heard == handled == [placed], (url, heard, handled)
    assert (stats.backlog, stats.in_flight, stats.dead) == (0, 0, 0), stats

for url in sys.argv[1:]:
    asyncio.run(try_out(url))
assert importlib.resources.files("postbus").joinpath("py.typed").is_file()
assert "site-packages" in postbus.__file__, postbus.__file__
"""


def main() -> None:
    """Build, install, use; the first thing that fails ends it."""
    shutil.rmtree(WORK, ignore_errors=True)
    home = WORK / "venv"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", str(WORK), str(ROOT))
    (wheel,) = WORK.glob("postbus-*.whl")
    if missing := not_packed(wheel):
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}")
    run(*pip, "install", str(wheel))
    installed = set(
        run(python, "-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))").split()
    )
    extra = {name.replace("-", "_") for name in installed} - CORE - {"pip", "setuptools"}
    if extra:
        sys.exit(f"postbus alone brings {', '.join(sorted(extra))}; expected only {', '.join(sorted(CORE))}")
    run(python, "-W", "error", "-c", PROGRAM, "memory://", f"sqlite:///{WORK}/shop.db")
    postbus = str(home / "bin" / "postbus")
    version = run(postbus, "version").strip()
    if wheel.name.split("-")[1] not in version:
        sys.exit(f"`postbus version` says {version!r}, and the wheel is {wheel.name}")
    if "worker" not in run(postbus, "--help"):
        sys.exit("`postbus --help` does not name `worker`")
    print(f"{wheel.name}: {wheel.stat().st_size // 1024} KiB, works with nothing but {', '.join(sorted(CORE))}")


def not_packed(wheel: Path) -> list[str]:
    """What stands beside the code and is used by it: scripts, templates, styles, data."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    files = (path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(name for path in files if (name := path.relative_to(source).as_posix()) not in packed)


def run(*command: str) -> str:
    """Return what a command prints, run where the source is out of reach; its failure is ours."""
    done = subprocess.run(command, check=False, cwd=WORK, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)[:200]} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
