"""The pages are true: `tools/docs` checks their code, links, commands and generated parts, and this checks that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `tools`, however pytest was started

from tools.docs.api import unlisted  # noqa: E402
from tools.docs.commands import check_commands  # noqa: E402
from tools.docs.links import anchors, check_entry, check_links  # noqa: E402
from tools.docs.parts import PARTS, check_parts, with_parts  # noqa: E402
from tools.docs.snippets import check_snippets, with_snippets  # noqa: E402

EXAMPLE = """import shop

# --8<-- [start:part]
def inner() -> None:
    # --8<-- [start:body]
    if True:
        print("x")
    # --8<-- [end:body]
# --8<-- [end:part]

# Output:
# x
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "one.py").write_text(EXAMPLE, "utf-8")
    return tmp_path


def page(source: str, code: str) -> str:
    return f"# Title\n\n{source}\n```python\n{code}```\n"


def test_the_documentation_is_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "tools.docs"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert checked.stdout + checked.stderr == ""
    assert checked.returncode == 0


def test_the_reference_names_everything_public() -> None:
    assert unlisted() == set()


def test_a_snippet_is_its_example_without_marks_and_expected_output(root: Path) -> None:
    text = with_snippets(page("<!-- examples/one.py -->", ""), root)
    assert 'import shop\n\ndef inner() -> None:\n    if True:\n        print("x")\n```' in text
    assert list(check_snippets(text, root)) == []


def test_a_region_is_shown_without_its_indentation(root: Path) -> None:
    text = with_snippets(page("<!-- examples/one.py#body -->", ""), root)
    assert '```python\nif True:\n    print("x")\n```' in text
    assert list(check_snippets(text, root)) == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("", "4: a Python block without its source"),
        ("<!-- examples/one.py -->", "4: differs from examples/one.py"),
        ("<!-- examples/two.py -->", "4: there is no examples/two.py"),
        ("<!-- examples/one.py#other -->", "4: examples/one.py has no region 'other'"),
    ],
)
def test_python_that_no_example_holds_is_found(root: Path, source: str, complaint: str) -> None:
    (found,) = check_snippets(page(source, "print(1)\n"), root)
    assert found.startswith(complaint)


def test_a_stale_part_is_found_and_mended() -> None:
    stale = "# Title\n\n<!-- generated: x -->\nold\n<!-- /generated -->\n"
    parts = {"x": lambda: "new"}
    assert list(check_parts(stale, parts)) == ["3: the generated part 'x' is stale"]
    fresh = with_parts(stale, parts)
    assert "new" in fresh
    assert list(check_parts(fresh, parts)) == []
    assert list(check_parts(stale, {})) == ["3: nothing generates 'x': expected one of "]


@pytest.mark.parametrize("name", PARTS)
def test_a_generated_part_does_not_depend_on_terminal_or_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = PARTS[name]()
    monkeypatch.setenv("COLUMNS", "40")
    assert PARTS[name]() == first
    assert " at 0x" not in first


def test_links_lead_to_files_and_headings_that_are_there(root: Path) -> None:
    pages = {
        "docs/a.md": "[x](b.md#one-two) [y](c.md) [z](b.md#three) `[code](none.md)`\n",
        "docs/b.md": "# One `two`\n",
    }
    (root / "docs").mkdir()
    for name, text in pages.items():
        (root / name).write_text(text, "utf-8")
    assert list(check_links("docs/a.md", pages["docs/a.md"], pages, root)) == [
        "1: links to c.md, and there is no docs/c.md",
        "1: links to b.md#three, and docs/b.md has no heading of that name",
    ]


def test_a_page_that_the_readme_does_not_lead_to_is_found() -> None:
    pages = {"README.md": "[A](docs/a.md#part)", "docs/a.md": "", "docs/b.md": ""}
    assert list(check_entry(pages)) == ["1: links to every page but docs/b.md"]


def test_headings_of_one_text_are_told_apart_by_number() -> None:
    assert anchors("# Why, `what`?\n\n## Why what\n") == {"why-what", "why-what-1"}


def test_commands_and_options_that_do_not_exist_are_found() -> None:
    def block(line: str) -> str:
        return f"```sh\n{line}\n```\n"

    assert list(check_commands(block("postbus worker shop:bus --workers 4  # as many as you like"))) == []
    assert [line.rpartition(": ")[2] for line in check_commands(block("postbus work shop:bus"))] == [
        "postbus has no command 'work'"
    ]
    assert [line.rpartition(": ")[2] for line in check_commands(block("postbus worker shop:bus --wrkers 4"))] == [
        "worker has no option --wrkers"
    ]
