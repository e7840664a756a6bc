"""The Grafana dashboard and the alert rules ask for metrics that exist, by labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from postbus.figures import FAMILIES

CONTRIB = Path(__file__).parent.parent / "contrib"
RULES = CONTRIB / "prometheus" / "postbus.rules.yml"
BOARD = CONTRIB / "grafana" / "postbus.json"

_METRIC = re.compile(r"\b(postbus_[a-z_]+)(?:\{([^}]*)\})?")
_BY = re.compile(r"\bby \(([^)]*)\)")
_PARTS = ("_bucket", "_count", "_sum")


def expressions_of_rules() -> Iterator[str]:
    """Each `expr:`, folded or not."""
    lines = iter(RULES.read_text("utf-8").splitlines())
    for line in lines:
        found = re.match(r"( +)expr: (.*)", line)
        if found is None:
            continue
        indent, text = len(found[1]), found[2]
        if text == ">-":
            text = ""
            for more in lines:
                if len(more) - len(more.lstrip()) <= indent:
                    break
                text += " " + more.strip()
        yield text


def expressions_of_board() -> Iterator[str]:
    board = json.loads(BOARD.read_text("utf-8"))
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (v["definition"] for v in board["templating"]["list"] if "definition" in v)


def family_of(metric: str) -> str:
    for part in _PARTS:
        base = metric.removesuffix(part)
        if base != metric and base in FAMILIES and FAMILIES[base].kind == "histogram":
            return base
    return metric


EXPRESSIONS = [*expressions_of_rules(), *expressions_of_board()]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_what_there_is(expression: str) -> None:
    assert expression.count("(") == expression.count(")")
    metrics = _METRIC.findall(expression)
    assert metrics, expression
    known = {"le"}
    for metric, selectors in metrics:
        family = FAMILIES[family_of(metric)]
        assert (family.kind == "histogram") == (family_of(metric) != metric), f"{metric} is a {family.kind}"
        assert ("rate(" in expression) == (family.kind != "gauge"), f"{metric} is a {family.kind}"
        labels = {selector.partition("=")[0].rstrip("!~").strip() for selector in selectors.split(",") if selector}
        assert labels <= set(family.labels), f"{metric} has no {labels - set(family.labels)}"
        known |= set(family.labels)
    for grouped in _BY.findall(expression):
        assert {label.strip() for label in grouped.split(",")} <= known


def test_every_alert_says_what_to_do() -> None:
    text = RULES.read_text("utf-8")
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(alerts) == len(set(alerts)) == len(list(expressions_of_rules())) >= 8
    assert text.count("summary:") == text.count("description:") == text.count("severity:") == len(alerts)


def test_the_board_shows_every_metric() -> None:
    asked = {family_of(metric) for expression in EXPRESSIONS for metric, _ in _METRIC.findall(expression)}
    assert set(FAMILIES) - asked == {"postbus_build_info"}


def test_panels_do_not_lie_on_each_other() -> None:
    places: set[tuple[int, int]] = set()
    panels = json.loads(BOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not places & cells, panel["title"]
        assert all(x < 24 for x, _ in cells)
        places |= cells
