"""Writes docs/recipe.md, the page of all keys: `python -m docs.keys`. A test says when it is not current."""

from pathlib import Path

from prealign_cpt.recipe.describe import Key, heading, sections
from prealign_cpt.stages import made_anew

PAGE = Path(__file__).with_name("recipe.md")

HEAD = """# The keys of a recipe

Written by `python -m docs.keys` from prealign_cpt/recipe/schema.py; `prealign run -h` shows the same.

A recipe is a TOML file. Every key is also a flag, `--train.steps 10` or `--train.steps=10`, whose value is read as TOML
if it can be and as a string if not: `--text.target '["a.txt", "b.txt"]'`. Paths are relative to the recipe's own file;
`cache:NAME` names a file that `prealign fetch` brought; `out` is relative to the current folder. *Required* keys have
no default. *Anew*: the stages that are made anew when the key changes, or the content of the files that it names
([reliability](reliability.md)).
"""


def page() -> str:
    """The page as it should be."""
    parts = [HEAD]
    for section, (about, found) in sections().items():
        parts += [f"\n## `{heading(section)}`\n\n{about}\n" if section else "\n## Above all sections\n"]
        parts += ["| key | type | default | what it is | anew |", "|---|---|---|---|---|", *map(_row, found)]
    return "\n".join(parts) + "\n"


def _row(key: Key) -> str:
    default = f"`{key.default}`" if key.default else "*required*"
    anew = " ".join(made_anew(key.name)) or "–"
    cells = [f"`{key.name.rpartition('.')[2]}`", _escaped(key.kind), default, _escaped(key.text), anew]
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
