"""What an audit says on the terminal.

audit.json --table--> languages by text, the identifier, what stands beside zero-shot figures, test text, clean copy
"""

from collections.abc import Mapping, Sequence
from typing import Any

from prealign_cpt.audit.gather import languages_of, share
from prealign_cpt.evaluate.exposure import identifier

SHOWN = 5
"""Languages of a text, and documents of it, that are listed."""


def table(report: Mapping[str, Any]) -> str:
    """The content of audit.json for people."""
    lines: list[str] = []
    for name, text in report["texts"].items():
        lines.append(f"{name}: {text['documents']:,} documents, {text['bytes']:,} bytes, {text['tokens']:,} tokens")
        listed = languages_of(text)
        rows = [
            (label, f"{count['lines']:,}", f"{count['tokens']:,}", share(count["tokens"], text["tokens"]).strip("()"))
            for label, count in list(listed.items())[:SHOWN]
        ]
        rest = list(listed.values())[SHOWN:]
        if rest:
            others = [sum(count[key] for count in rest) for key in ("lines", "tokens")]
            rows.append((f"{len(rest)} others", *(f"{n:,}" for n in others), share(others[1], text["tokens"]).strip("()")))
        lines += _columns([("language", "lines", "tokens", "share"), *rows])
        lines += [f"  {one['language']}: {one['place']}: {one['line']}" for one in text["worst"][:SHOWN]]
        lines.append("")
    lines += [*identifier(report), ""]
    lines += [f"{name}: {text}" for name, text in report["exposure"].items()]
    lines += [f"  {one['pair']}: {one['place']}" for one in report["pairs"]["places"][:SHOWN]]
    rows = [
        (name, *(f"{found[key]:,}" for key in ("lines", "whole", "half", "any")))
        for name, found in report["sets"].items()
    ]
    if rows:
        head = ("test text in training text", "lines", "found whole", "half of its 8-grams", "any 8-gram")
        lines += ["", *_columns([head, *rows])]
    for name, found in report["sets"].items():
        lines += [f"  {name}: {one['place']}: {one['line'][:100]}" for one in found["places"][:1]]
    for name, found in report.get("clean", {}).items():
        removed = ", ".join(f"{reason} {number:,}" for reason, (number, _) in found["removed"].items() if number)
        kept, size = found["kept"]
        lines += ["", f"clean {name}: {kept:,} documents, {size:,} bytes; removed: {removed or 'none'}"]
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells below each other, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
