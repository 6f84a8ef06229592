"""What messages and docs tell people to type is there to be typed."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from prealign_cpt.command_line import command_line

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = set(command_line()._subparsers._group_actions[0].choices)
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def _texts() -> Iterator[tuple[str, str]]:
    """Where it stands, and the text: every string of the package, and every page."""
    for path in [*(ROOT / "prealign_cpt").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        yield path.name, path.read_text(encoding="utf-8")


def test_commands_that_are_named_exist() -> None:
    named = [(where, word) for where, text in _texts() for word in re.findall(r"\bprealign ([a-z_]+)", text)]
    assert len(named) > 50
    assert [(where, word) for where, word in named if word not in COMMANDS] == []


def test_what_is_to_be_installed_is_an_extra_of_this_package() -> None:
    texts = list(_texts())
    extras = [(where, extra) for where, text in texts for extra in re.findall(r"prealign-cpt\[([\w,]+)\]", text)]
    assert len(extras) > 5
    assert [(where, extra) for where, extra in extras if extra not in EXTRAS] == []
    for where, text in texts:
        if where.endswith(".md"):
            continue
        for line in re.findall(r"pip install([^\n]*)", text):
            assert re.match(r' "prealign-cpt\[', line), f"{where}: pip install{line}"


def test_no_message_leads_to_a_file_of_the_checkout() -> None:
    """Who installed a wheel has no launch/ and no lexicons/ beside it; docstrings are for those who read the source."""
    for path in (ROOT / "prealign_cpt").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                assert not re.search(r"\b(launch|lexicons|benchmarks)/", node.value), f"{path}:{node.lineno}"


def test_messages_that_troubleshooting_explains_are_in_the_code() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "prealign_cpt").rglob("*.py"))
    source = re.sub(r'"\s*f?"', "", source)  # a string that goes on in the next line
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    explained = re.findall(r"(?m)^\| `([^`]+)` \|", page)
    assert len(explained) > 15
    assert [message for message in explained if message not in source] == []
