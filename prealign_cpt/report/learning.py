"""The page's learning curves: bits per byte of validation text by tokens, of a run and its control or of several."""

from collections.abc import Sequence

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report import table
from prealign_cpt.report.collect import Point, Record
from prealign_cpt.report.document import Figure
from prealign_cpt.report.markup import details, html_table, missing, optional, side_by_side
from prealign_cpt.report.plot import COLOURS, Series, line_chart

Curves = Sequence[tuple[str, tuple[Point, ...]]]


def learning(record: Record) -> str:
    """The section of one run."""
    curves = ((table.LABELS["final"], record.curve), ("control", record.control_curve))
    base = record.scores["base"]
    parts = ["<h2>Learning curve</h2>", _drawn(curves, record.language, base.valid_target, base.valid_english)]
    parts += [missing(f"{reason}.") for reason in (record.curve_absent, record.control_curve_absent) if reason]
    if record.broken_lines:
        parts.append(missing(f"Damaged lines in the training logs, left out: {record.broken_lines}"))
    return "\n".join(parts)


def learning_of_all(records: dict[str, Record]) -> str:
    """The section that has several runs in the same plots."""
    languages = list(dict.fromkeys(record.language for record in records.values()))
    language = languages[0] if len(languages) == 1 else "target"
    curves = [(name, record.curve) for name, record in records.items()]
    none = Absent("runs may have different bases")
    parts = ["<h2>Learning curves</h2>", _drawn(curves, language, none, none)]
    parts += [missing(f"{name}: {record.curve_absent}.") for name, record in records.items() if record.curve_absent]
    return "\n".join(parts)


def _drawn(curves: Curves, language: str, target_level: Figure, english_level: Figure) -> str:
    charts = []
    for name, level, pick in ((language, target_level, _target), ("English", english_level, _english)):
        lines = [
            Series(
                label, tuple((point.tokens, y) for point in curve if (y := pick(point)) is not None), style % COLOURS
            )
            for style, (label, curve) in enumerate(curves)
        ]
        references = () if isinstance(level, Absent) else (("base", level),)
        label = f"Bits per byte of {name} validation text against tokens of continual pretraining"
        charts.append(
            (f"{name} validation text", line_chart(lines, label, "training tokens", "bits per byte", references))
        )
    rows = [
        (label, f"{point.step:,}", f"{point.tokens:,}", optional(point.target), optional(point.english))
        for label, curve in curves
        for point in curve
    ]
    head = ("", "step", "tokens", f"{language} bpb", "English bpb")
    return side_by_side(charts) + (details("The same as a table", html_table(head, rows)) if rows else "")


def _target(point: Point) -> float | None:
    return point.target


def _english(point: Point) -> float | None:
    return point.english
