"""The house: imports run down, no two folders import each other, and nobody but the CLI imports the laboratory."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "prealign_cpt"


def _imports() -> dict[str, set[str]]:
    """Folder of the package to the folders whose modules it imports; a module at the top is a folder of its own."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        below = path.relative_to(PACKAGE).parts
        folder = below[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = (
                    [node.module] if node.module != "prealign_cpt" else [f"{node.module}.{a.name}" for a in node.names]
                )
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                if (
                    parts[0] == "prealign_cpt"
                    and len(parts) > 1
                    and not parts[1].startswith("__")
                    and parts[1] != folder
                ):
                    found[folder].add(parts[1])
    return found


def test_imports_form_no_circle() -> None:
    imports = _imports()
    done: set[str] = set()
    while left := {folder for folder in imports if folder not in done}:
        free = {folder for folder in left if not (imports[folder] & left)}
        assert free, f"a circle among {sorted(left)}: { {f: sorted(imports[f] & left) for f in left} }"
        done |= free


def test_only_the_command_line_imports_the_laboratory() -> None:
    assert {folder for folder, targets in _imports().items() if "lab" in targets} == {"cli"}
