"""The catalogue: which events the program knows, what they look like, who publishes them and who reacts."""

from __future__ import annotations

import json
from typing import Any

from ...graph import EventNode
from ..commands import command
from ..drawing import picture_of
from ..present import level_of
from ..visit import Visit
from .page import Page

__all__ = ["CATALOGUE"]


async def _view(visit: Visit) -> dict[str, Any]:
    wanted = visit.text("q").casefold()
    nodes = [node for node in visit.desk.graph().events if wanted in node.name.casefold()]
    return {
        "q": visit.text("q"),
        "nodes": [(node, _schema(node)) for node in nodes],
        "picture": picture_of(nodes, visit.url, {one.name: level_of(one) for one in visit.snapshot.stats.values()}),
        "graph_command": command("graph", visit.desk.target),
        "schema_command": command("schema", "export", visit.desk.target),
    }


def _schema(node: EventNode) -> str | None:
    return json.dumps(node.schema, indent=2, ensure_ascii=False) if node.schema else None


CATALOGUE = Page(
    path="/catalogue", template="catalogue.html", view=_view, section="catalogue", title="Catalogue", jump="c"
)
