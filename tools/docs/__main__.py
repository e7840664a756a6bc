"""Checks README.md and docs/: snippets, generated parts, links and commands.

`python -m tools.docs` says what is stale or wrong, and exits with 1.
`python -m tools.docs --write` writes snippets and generated parts anew, then checks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .commands import check_commands
from .links import check_entry, check_links
from .pages import pages_of
from .parts import PARTS, check_parts, with_parts
from .snippets import check_snippets, with_snippets

ROOT = Path(__file__).resolve().parents[2]


def write(root: Path) -> list[str]:
    """Bring every page up to date; return the names of those that changed."""
    changed = []
    for path in pages_of(root):
        before = path.read_text("utf-8")
        after = with_parts(with_snippets(before, root), PARTS)
        if after != before:
            path.write_text(after, "utf-8")
            changed.append(str(path.relative_to(root)))
    return changed


def check(root: Path) -> list[str]:
    """Everything that is wrong, as `page:line: what`."""
    pages = {str(path.relative_to(root)): path.read_text("utf-8") for path in pages_of(root)}
    return [f"README.md:{complaint}" for complaint in check_entry(pages)] + [
        f"{name}:{complaint}"
        for name, text in pages.items()
        for complaint in (
            *check_snippets(text, root),
            *check_parts(text, PARTS),
            *check_links(name, text, pages, root),
            *check_commands(text),
        )
    ]


def main(arguments: list[str]) -> int:
    """Run; return the exit code."""
    if arguments not in ([], ["--write"]):
        print(__doc__)
        return 2
    if arguments:
        for name in write(ROOT):
            print(f"wrote {name}")
    complaints = check(ROOT)
    for complaint in complaints:
        print(complaint)
    if complaints and not arguments:
        print("`python -m tools.docs --write` mends snippets and generated parts")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
