"""How values look: numbers, spans, times, sparklines and bars.  Everything else is escaped by the templates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from itertools import pairwise

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from ..inspection import Stats
from ..shown import one_line, printable
from ..transport import SubscriptionStats

__all__ = [
    "NOTHING",
    "STATIC",
    "ago",
    "asset",
    "bar",
    "clock",
    "environment",
    "level_of",
    "moment",
    "number",
    "per_second",
    "percent",
    "short",
    "span",
    "spark",
]

STATIC = files("postbus.dashboard") / "static"

NOTHING = "\N{EN DASH}"

# The states of a delivery in the order of its road; the style sheet has a colour for each.
_PARTS = (
    ("ready", "backlog"),
    ("running", "in_flight"),
    ("scheduled", "scheduled"),
    ("retrying", "retrying"),
    ("parked", "parked_events"),
    ("dead", "dead"),
)


def environment() -> Environment:
    """The templates, with what they may call."""
    env = Environment(
        loader=PackageLoader("postbus.dashboard"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "number": number,
        "short": short,
        "span": span,
        "moment": moment,
        "clock": clock,
        "per_second": per_second,
        "percent": percent,
        "line": lambda text, width=200: one_line(str(text), width),
        "iso": lambda at: at.astimezone(UTC).isoformat(timespec="milliseconds"),
    }
    env.globals |= {"ago": ago, "spark": spark, "bar": bar, "asset": asset, "level_of": level_of}
    return env


def _harmless(value: object) -> object:
    """Whatever a template prints: text steers nothing, not even the direction of writing."""
    return printable(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def number(value: float | None) -> str:
    """A whole number with its thousands."""
    return NOTHING if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """A number in a few characters: 950, 12.3k, 4.56M."""
    if value is None:
        return NOTHING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1000 if unit == "k" else size)
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{unit}"
    return f"{value:,.0f}"


def per_second(value: float | None) -> str:
    """A rate: as exact as its size deserves."""
    if value is None:
        return NOTHING
    if value == 0 or value >= 100:
        return short(value)
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"


def percent(part: float, whole: float) -> str:
    """A share; a failure among a million is not rounded away."""
    if not whole:
        return NOTHING
    share = 100 * part / whole
    return f"{share:.0f} %" if share in (0, 100) else f"{min(99.9, max(0.1, share)):.1f} %"


def span(seconds: float | None) -> str:
    """A span of time in its two largest units."""
    if seconds is None:
        return NOTHING
    if seconds < 0.0005:
        return "0 ms"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
    parts = [(whole // size if size == 86400 else whole % (size * (24 if size == 3600 else 60)) // size, unit)
             for size, unit in units]  # fmt: skip
    first = next(place for place, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def moment(at: datetime | None) -> str:
    """A time, to the second, in UTC."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def clock(at: datetime | None) -> str:
    """A time of day, to the millisecond, in UTC."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%H:%M:%S.%f}"[:-3]


def ago(at: datetime | None, now: datetime) -> Markup:
    """A time as people say it, with the exact one behind it."""
    if at is None:
        return Markup("{}").format(NOTHING)
    distance = (now - at).total_seconds()
    said = f"{span(distance)} ago" if distance >= 1 else f"in {span(-distance)}" if distance <= -1 else "now"
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        at.astimezone(UTC).isoformat(timespec="milliseconds"), moment(at), said
    )


def level_of(one: SubscriptionStats) -> str:
    """How a subscription does: 'bad', 'warn', 'off' or 'good'."""
    if one.paused:
        return "off"
    if one.backlog and not one.workers:
        return "bad"
    return "warn" if one.dead or one.retrying or one.parked_events else "good"


def spark(values: Sequence[float], label: str, kind: str = "") -> Markup:
    """A line of the last values, drawn here: no script is needed to see where things go."""
    if len(values) < 2:
        return Markup('<svg class="spark" viewBox="0 0 100 24" aria-hidden="true"></svg>')
    top = max(*values, 1e-9)
    points = [(100 * place / (len(values) - 1), 22 - 20 * value / top) for place, value in enumerate(values)]
    line = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    said = f"{label}: {short(values[0])} to {short(values[-1])}, at most {short(max(values))}"
    return Markup(
        '<svg class="spark {}" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path class="area" d="{}L100,24L0,24Z"/><path class="line" d="{}"/></svg>'
    ).format(kind, said, line, line)


def bar(one: SubscriptionStats | Stats) -> Markup:
    """How much of what is there is in which state; what is little is still seen."""
    parts = [(state, int(getattr(one, field, 0))) for state, field in _PARTS]
    shares = [(state, count, max(3.0, 100 * count**0.5)) for state, count in parts if count]
    said = ", ".join(f"{count:,} {state}" for state, count, _ in shares) or "nothing waits"
    whole = sum(share for _, _, share in shares) or 1
    ends = [0.0]
    for _, _, share in shares:
        ends.append(ends[-1] + 100 * share / whole)
    drawn = Markup("").join(
        Markup('<rect class="fill-{}" x="{}%" width="{}%" height="100%"/>').format(
            state, f"{begin:.2f}", f"{end - begin:.2f}"
        )
        for (state, _, _), (begin, end) in zip(shares, pairwise(ends), strict=True)
    )
    return Markup('<svg class="bar" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(said, said, drawn)


_ASSETS: dict[str, str] = {}


def asset(path: str) -> str:
    """The address of a static file, which changes with its content, so that browsers may keep it for ever."""
    if path not in _ASSETS:
        digest = hashlib.sha256(STATIC.joinpath(*path.split("/")).read_bytes()).hexdigest()[:12]
        _ASSETS[path] = f"/static/{path}?v={digest}"
    return _ASSETS[path]
