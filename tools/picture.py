"""Takes the picture of the demo that README.md shows: `python tools/picture.py [SECONDS INTO THE DEMO]`.

Plays `postbus demo` in a terminal of its own, stops it after a while, and writes what stood there as docs/demo.svg.
Needs rich and pyte; nothing in the picture comes from elsewhere.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte  # type: ignore[import-untyped,unused-ignore]
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, LINES = 112, 36
# What a terminal calls brown is yellow to rich.
_COLOURS = {"brown": "yellow", "brightbrown": "bright_yellow", "default": None}


def screen_of(command: list[str], seconds: float) -> pyte.Screen:
    """Run `command` in a terminal for so long, interrupt it, and return what the terminal showed."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
    )
    os.close(follower)
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and (chunk := _heard(leader, left)):
        stream.feed(chunk)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:  # read on, or it could not write its farewell
        _heard(leader, 0.1)
    os.close(leader)
    return screen


def _heard(leader: int, patience: float) -> bytes:
    """What the terminal was told; nothing when it was told nothing, or nobody is left to tell it."""
    if not select.select([leader], [], [], patience)[0]:
        return b""
    try:
        return os.read(leader, 65536)
    except OSError:
        return b""


def text_of(screen: pyte.Screen) -> Text:
    """The screen as rich text."""
    text = Text()
    for line in range(LINES):
        for column in range(COLUMNS):
            cell = screen.buffer[line][column]
            style = Style(
                color=_colour(cell.fg),
                bgcolor=_colour(cell.bg),
                bold=cell.bold,
                italic=cell.italics,
                reverse=cell.reverse,
            )
            text.append(cell.data, style)
        text.append("\n")
    return text


def _colour(name: str) -> str | None:
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return _COLOURS.get(name, name.replace("bright", "bright_"))


def picture_of(text: Text, title: str) -> str:
    """An SVG of a terminal with this text, without the fonts that rich would load from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(text, end="")
    svg = console.export_svg(title=title, unique_id="demo")
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)


def main(arguments: list[str]) -> int:
    """Take the picture."""
    after = float(arguments[0]) if arguments else 24.0
    screen = screen_of([sys.executable, "-m", "postbus", "demo", "--seconds", "50"], after)
    (ROOT / "docs" / "demo.svg").write_text(picture_of(text_of(screen), "postbus demo"), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
