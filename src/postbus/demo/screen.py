"""The run as one calm screen, drawn with rich: a pure function from what is seen to what is drawn, and its frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .sight import Lane, News, Sight, Strip

__all__ = ["Screen", "draw"]

BLOCKS = " ▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉"
MOODS = {"bad": "red", "good": "green", "plain": "default"}
STATES = {
    "running": ("●", "green"),
    "killed": ("✗ killed", "red"),
    "stopping": ("◌ stopping", "yellow"),
    "gone": ("○ gone", "dim"),
}
BAR = 24


def draw(sight: Sight, width: int, height: int) -> RenderableType:
    """Everything at this moment, in `height` lines; where those are few, the board is one of them, with less air."""
    inner = max(min(width, 112) - 4, 60)
    full = _parts(sight, inner, _board(sight), len(sight.airports) + 1, air=True)
    parts, used = full if full[1] + 4 < height else _parts(sight, inner, _board_line(sight), 1, air=False)
    tries = [_line((text, "dim")) for text in sight.tries]
    news = _news(sight.news, max(height - used - len(tries) - 2, 1))
    return Padding(Group(*parts, *news, Text(), *tries), (0, 2))


def _parts(
    sight: Sight, width: int, board: RenderableType, board_lines: int, *, air: bool
) -> tuple[list[RenderableType], int]:
    """What stands above the news, and how many lines that takes."""
    gap: list[RenderableType] = [Text()] if air else []
    parts: list[RenderableType] = [
        *_head(sight, width),
        Text(),
        *_strip(sight),
        *gap,
        board,
        *gap,
        _lanes(sight.lanes, width),
        *gap,
        _workers(sight),
        _outside(sight),
        *gap,
    ]
    single = sum(1 for part in parts if isinstance(part, Text) and part is not board)
    return parts, single + board_lines + len(sight.lanes) + 1


def _line(*pieces: tuple[str, str]) -> Text:
    line = Text.assemble(*pieces)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _between(left: Text, right: Text, width: int) -> Text:
    """One at each end of a line."""
    line = left.copy()
    line.append(" " * max(width - left.cell_len - right.cell_len, 1)).append_text(right)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _head(sight: Sight, width: int) -> list[RenderableType]:
    sky = ""
    if (hour := sight.weather) is not None:
        words = "clear" if hour.visibility_miles >= 10 else "snow" if hour.visibility_miles < 5 else "haze"
        sky = f"{words}, wind {hour.wind_mph:.0f} mph, sight {hour.visibility_miles:g} mi, {hour.fahrenheit:.0f} °F"
    return [
        _between(Text("postbus demo", "bold cyan"), Text("New York, the blizzard of February 2013", "dim"), width),
        _between(
            _line((f"{sight.clock:%a %d %b  %H:%M}", "bold"), (f"   {sky}", "dim")),
            Text(f"{sight.published:,} events", "bold"),
            width,
        ),
    ]


def _strip(sight: Sight) -> list[RenderableType]:
    strip = sight.strip
    now = (sight.clock - strip.begins_at) / strip.step
    top = max(*strip.departed, *strip.cancelled, 1)
    return [
        _line(*_spark(strip.departed, top, now, "green"), (" departed", "dim")),
        _line(*_spark(strip.cancelled, top, now, "red"), (" cancelled", "dim")),
        _line((_days(strip, len(strip.departed)), "dim")),
    ]


def _spark(values: Sequence[int], top: int, now: float, colour: str) -> list[tuple[str, str]]:
    """What is behind in colour, what is to come in grey."""
    bars = "".join(BLOCKS[-(-value * (len(BLOCKS) - 1) // top)] for value in values)
    here = min(max(int(now), 0), len(bars))
    return [
        (bars[:here], colour),
        (bars[here : here + 1], f"bold {colour} reverse"),
        (bars[here + 1 :], "bright_black"),
    ]


def _days(strip: Strip, steps: int) -> str:
    line = [" "] * steps
    for step in range(steps):
        begins_at, ends_at = strip.begins_at + step * strip.step, strip.begins_at + (step + 1) * strip.step
        if step == 0 or begins_at.day != ends_at.day:
            name = f"{ends_at:%a %d}"
            if step + len(name) <= steps:
                line[step : step + len(name)] = name
    return "".join(line)


def _board(sight: Sight) -> RenderableType:
    table = _table()
    table.add_column("airport", width=12)
    for name in ("waiting", "delayed", "in the air", "landed", "cancelled"):
        table.add_column(name, justify="right", width=11)
    for airport in sight.airports:
        table.add_row(
            airport.code,
            _figure(airport.waiting),
            _figure(airport.delayed, "yellow"),
            _figure(airport.departed),
            _figure(airport.arrived, "green"),
            _figure(airport.cancelled, "red"),
        )
    return table


def _board_line(sight: Sight) -> Text:
    counts = [
        (sum(airport.waiting for airport in sight.airports), "waiting", ""),
        (sum(airport.delayed for airport in sight.airports), "delayed", "yellow"),
        (sum(airport.departed for airport in sight.airports), "flying", ""),
        (sum(airport.arrived for airport in sight.airports), "landed", "green"),
        (sum(airport.cancelled for airport in sight.airports), "cancelled", "red"),
    ]
    line = _line(("board        ", "dim"))
    for number, what, colour in counts:
        line.append_text(_figure(number, colour)).append(f" {what}  ", "dim")
    return line


def _lanes(lanes: Sequence[Lane], width: int) -> RenderableType:
    bar = max(min(width - 66, 40), 8)
    table = _table()
    table.add_column("subscription", width=12)
    table.add_column("done", justify="right", width=8)
    table.add_column("/s", justify="right", width=6)
    table.add_column("to do", width=bar + 8)
    table.add_column("running", justify="right", width=8)
    table.add_column("retrying", justify="right", width=9)
    table.add_column("dead", justify="right", width=6)
    most = max(200, *(lane.unfinished for lane in lanes)) if lanes else 200
    for lane in lanes:
        table.add_row(
            Text(lane.name, "yellow" if lane.paused else ""),
            _figure(lane.done, "green"),
            _figure(round(lane.rate)),
            _bar(lane, most, bar),
            _figure(lane.running),
            _figure(lane.retrying, "yellow"),
            _figure(lane.dead, "red"),
        )
    return table


def _bar(lane: Lane, most: int, width: int) -> Text:
    eighths = -(-lane.unfinished * width * 8 // most)
    drawn = "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
    colour = "yellow" if lane.retrying > lane.waiting or lane.paused else "cyan"
    amount = " paused" if lane.paused and not lane.unfinished else f" {lane.unfinished:,}" if lane.unfinished else ""
    return Text.assemble((drawn, colour), (amount, "dim"))


def _workers(sight: Sight) -> Text:
    """Everybody who lives, and the one who was killed last."""
    line = _line(("workers      ", "dim"))
    living = [worker for worker in sight.workers if worker.state in ("running", "stopping")]
    killed = [worker for worker in sight.workers if worker.state == "killed"]
    if not sight.workers:
        line.append("starting", "dim")
    for worker in (*living, *killed[-1:]):
        sign, colour = STATES[worker.state]
        line.append(f"{worker.number} ").append(sign, colour).append(f" pid {worker.pid}  ", "dim")
    return line


def _outside(sight: Sight) -> Text:
    line = _line(("outside      ", "dim"))
    for desk in ("messages", "rebooking", "refunds", "payroll"):
        trouble = sight.trouble.get(desk)
        line.append(f"{desk} ", "dim").append(*("●", "green") if trouble is None else (f"✗ {trouble}", "red"))
        line.append("  ")
    return line


def _news(news: Sequence[News], room: int) -> list[RenderableType]:
    """The newest first, as much as there is room for."""
    lines: list[RenderableType] = []
    for age, one in enumerate(reversed(news[-room:])):
        faded = "dim " if age > 2 else ""
        lines.append(_line((f"{one.clock:%a %H:%M}  ", "dim"), (one.text, faded + MOODS[one.mood])))
    return lines + [Text() for _ in range(room - len(lines))]


def _table() -> Table:
    return Table(box=None, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", show_header=True)


def _figure(number: int, colour: str = "") -> Text:
    return Text(f"{number:,}", colour) if number else Text("·", "bright_black")


class Screen:
    """A terminal that shows one sight after another, and is given back as it was."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, sight: Sight) -> None:
        """Draw it."""
        width, height = self._console.size
        self._live.update(draw(sight, width, height), refresh=True)
