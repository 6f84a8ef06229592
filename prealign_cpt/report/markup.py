"""Building blocks of the page: sections, tables, values as people read them. All text passes `html.escape`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.document import Document, Figure, flat, is_number
from prealign_cpt.report.verdict import DIGITS, MISSING


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading; where there is nothing to show, the reason instead."""

    title: str
    body: str
    absent: str = ""

    def open(self) -> str:
        """For a part that everyone should see."""
        return f"<h2>{escape(self.title)}</h2>\n{self.body}"

    def folded(self) -> str:
        """For a part that the reader opens."""
        return f'<details class="part"><summary><h2>{escape(self.title)}</h2></summary>{self.body}</details>'


def not_done(title: str, reason: str) -> Section:
    """A section that is named and not shown."""
    return Section(title, "", reason)


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", kind: str = "") -> str:
    """A table whose first column names the rows; on a narrow screen it scrolls in its box, and its edges show it.

    Args:
        kind: "prose": all cells may wrap; "noted": those of the last column may.
    """
    return framed(head, ((row[0], [escape(row[0]), *map(escape, row[1:])]) for row in rows), caption, kind)


def framed(
    head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], caption: str = "", kind: str = "", mark: str = ""
) -> str:
    """The same of cells that are markup already, each row with its name; the row called `mark` stands out.

    Args:
        kind: besides "cards": on a narrow screen every row is a card, its cells below each other with their headings.
    """
    label = escape(caption or ", ".join(filter(None, head)))
    parts = [
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table class="{kind}">',
        f"<caption>{escape(caption)}</caption>" if caption else "",
        "<thead><tr>",
        *(f'<th scope="col">{escape(text)}</th>' if text else "<td></td>" for text in head),
        "</tr></thead><tbody>",
    ]
    for name, (first, *cells) in rows:
        parts.append('<tr class="mark">' if mark and name == mark else "<tr>")
        parts.append(f'<th scope="row">{first}</th>')
        titles = (f' data-head="{escape(text)}"' if kind == "cards" else "" for text in head[1:])
        parts += [f"<td{title}>{cell}</td>" for title, cell in zip(titles, cells, strict=True)]
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table></div>"])


def leaves(document: Document, key: str, caption: str) -> str:
    """Whatever plain values a part of a document holds, with their own names."""
    content = document.at(key) if key else document.content
    if isinstance(content, Absent):
        return missing(f"{caption}: {content.reason}")
    if not isinstance(content, dict):
        return missing(f"{caption}: {document.name} is not as expected")
    rows = [
        (name.replace(".", ": ").replace("_", " "), show(value))
        for name, value in flat(content)
        if value is None or isinstance(value, str | int | float | bool)
    ]
    return html_table(("", "figure"), rows, caption)


def side_by_side(charts: Iterable[tuple[str, str]]) -> str:
    """Plots with titles, in two columns where there is room."""
    drawn = [f"<figure><h3>{escape(title)}</h3>{chart}</figure>" for title, chart in charts if chart]
    return f'<div class="pair">{"".join(drawn)}</div>' if drawn else ""


def details(title: str, inner: str, opened: bool = False) -> str:
    """A part that the reader can open and close."""
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{inner}</details>"


def lowered(body: str) -> str:
    """A body whose headings are one level lower, for a place inside a section."""
    for level in (3, 2):
        body = body.replace(f"<h{level}>", f"<h{level + 1}>").replace(f"</h{level}>", f"</h{level + 1}>")
    return body


def missing(reason: str) -> str:
    """The line that stands where something is absent."""
    return f'<p class="note">{MISSING} {escape(reason)}</p>'


def missing_once(values: Iterable[Figure]) -> list[str]:
    """`missing` for every reason among some figures."""
    reasons = dict.fromkeys(value.reason for value in values if isinstance(value, Absent))
    return [missing(reason) for reason in reasons]


def optional(value: float | None) -> str:
    """Bits per byte, if there are any."""
    return MISSING if value is None else f"{value:.{DIGITS}f}"


def seconds(value: Figure) -> str:
    """A time for people."""
    if isinstance(value, Absent):
        return MISSING
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def show(value: Any, decimals: int | None = None) -> str:
    """A value of any plain type for people: grouped integers, four significant digits, yes and no."""
    if value is None or isinstance(value, Absent):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not is_number(value):
        return str(value)
    if decimals is not None or float(value).is_integer():
        return f"{value:,.{decimals or 0}f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
