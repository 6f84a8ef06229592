"""What an audit says, as tables for the terminal and for the report's page.

audit.json --grids--> languages of each text, what stands beside zero-shot figures, test text, clean copy --text-->
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

SHOWN = 5
"""Languages of a text, and places, that are listed."""

Report = Mapping[str, Any]


class Grid(NamedTuple):
    """A table, and lines below it."""

    title: str
    rows: list[tuple[str, ...]]
    """The head first."""
    notes: list[str]


def grids(report: Report) -> list[Grid]:
    """The tables of an audit."""
    found = [_languages(name, text) for name, text in report["texts"].items()]
    met = [f"{one['pair']}: {one['place']}" for one in report["pairs"]["places"][:SHOWN]]
    beside = [("", "in the training text"), *report["exposure"].items()]
    found.append(Grid("Beside zero-shot figures", beside, [*map(_identifier, report["judged"].items()), *met]))
    if report["sets"]:
        head = ("", "lines", "whole", "half of their 8-grams", "any 8-gram")
        rows = [(name, *(f"{one[key]:,}" for key in ("lines", "whole", "half", "any"))) for name, one in
                report["sets"].items()]  # fmt: skip
        places = [(name, place) for name, one in report["sets"].items() for place in one["places"][:1]]
        notes = [f"{name}: {place['place']}: {place['line'][:100]}" for name, place in places]
        found.append(Grid("Lines of test text that stand in the training text", [head, *rows], notes))
    if clean := report.get("clean"):
        reasons = list(next(iter(clean.values()))["removed"])
        rows = [(name, f"{one['kept'][0]:,}", *(f"{one['removed'][key][0]:,}" for key in reasons)) for name, one in
                clean.items()]  # fmt: skip
        notes = ["language and test: lines left out, the rest: documents"]
        found.append(Grid("Clean copy", [("", "documents kept", *reasons), *rows], notes))
    return found


def text(report: Report) -> str:
    """The tables for the terminal."""
    lines = []
    for grid in grids(report):
        widths = [max(map(len, column)) for column in zip(*grid.rows, strict=True)]
        lines += [grid.title, *(_aligned(row, widths) for row in grid.rows), *(f"  {note}" for note in grid.notes), ""]
    return "\n".join(lines)


def share(part: int, whole: int) -> str:
    """ "99.7 %" or "0.012 %": two digits, so that one line of ten thousand is seen."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def _languages(name: str, text: Report) -> Grid:
    counts = sorted(text["languages"].items(), key=lambda one: (-one[1]["tokens"], one[0]))
    if rest := counts[SHOWN:]:
        others = {key: sum(count[key] for _, count in rest) for key in ("lines", "tokens")}
        counts = [*counts[:SHOWN], (f"{len(rest)} others", others)]
    rows = [
        (label, f"{count['lines']:,}", f"{count['tokens']:,}", share(count["tokens"], text["tokens"]))
        for label, count in counts
    ]
    title = f"{name}: {text['documents']:,} documents, {text['bytes']:,} bytes, {text['tokens']:,} tokens"
    notes = [f"{one['language']}: {one['place']}: {one['line'][:100]}" for one in text["worst"][:SHOWN]]
    return Grid(title, [("language", "lines", "tokens", "share of the tokens"), *rows], notes)


def _identifier(one: tuple[str, Report]) -> str:
    """How far the languages of a side can be trusted."""
    side, found = one
    if not found["asked"]:
        codes = " and ".join(found["codes"])
        return f"{side}: py3langid cannot tell {codes}; only lines in another script are called foreign"
    if not found["lines"]:
        return f"{side}: py3langid, not checked: no held-out text"
    taken = "".join(f", {label} {count:,}" for label, count in list(found["taken_for"].items())[:3])
    return (
        f"{side}: py3langid is wrong on {found['wrong']:,} of {found['lines']:,} held-out lines{taken}, and unsure on "
        f"{found['unsure']:,}; a line in another script than {', '.join(found['scripts'])} is foreign for certain"
    )


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """The cells of a row, the first one to the left."""
    cells = [row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))]
    return f"  {'  '.join(cells)}"
