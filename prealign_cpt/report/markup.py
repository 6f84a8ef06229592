"""Building blocks of the page: tables, figures, values as people read them. All text passes `html.escape`."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report import table
from prealign_cpt.report.document import Document, Figure, flat, is_number


def html_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", mark: str = "", kind: str = ""
) -> str:
    """A table whose first column names the rows; the row called `mark` stands out.

    Args:
        kind: "prose": all cells may wrap; "noted": those of the last column may.
    """
    label = escape(caption or ", ".join(filter(None, head)))
    marks = f' class="{kind}"' if kind else ""
    parts = [
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table{marks}>',
        f"<caption>{escape(caption)}</caption>" if caption else "",
    ]
    parts.append("<thead><tr>")
    parts += [f'<th scope="col">{escape(text)}</th>' if text else "<td></td>" for text in head]
    parts.append("</tr></thead><tbody>")
    for row in rows:
        parts.append('<tr class="mark">' if mark and row[0] == mark else "<tr>")
        parts.append(f'<th scope="row">{escape(row[0])}</th>')
        parts += [f"<td>{escape(text)}</td>" for text in row[1:]]
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


def run_part(name: str, inner: str, opened: bool) -> str:
    """The same for one run of several: a section of the page, with its heading."""
    marks = " open" if opened else ""
    return f'<details class="run"{marks}><summary><h2>{escape(name)}</h2></summary>{inner}</details>'


def missing(reason: str) -> str:
    """The line that stands where something is absent."""
    return f'<p class="note">{table.MISSING} {escape(reason)}</p>'


def missing_once(values: Iterable[Figure]) -> list[str]:
    """`missing` for every reason among some figures."""
    reasons = dict.fromkeys(value.reason for value in values if isinstance(value, Absent))
    return [missing(reason) for reason in reasons]


def optional(value: float | None) -> str:
    """Bits per byte, if there are any."""
    return table.MISSING if value is None else f"{value:.{table.DIGITS}f}"


def seconds(value: Figure) -> str:
    """A time for people."""
    if isinstance(value, Absent):
        return table.MISSING
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def show(value: Any, decimals: int | None = None) -> str:
    """A value of any plain type for people: grouped integers, four significant digits, yes and no."""
    if value is None or isinstance(value, Absent):
        return table.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not is_number(value):
        return str(value)
    if decimals is not None or float(value).is_integer():
        return f"{value:,.{decimals or 0}f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
