"""The page's learning curves: bits per byte of validation text by text read, with the levels to compare with."""

from collections.abc import Sequence

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.document import Figure
from prealign_cpt.report.markup import Section, details, html_table, missing, not_done, optional, side_by_side
from prealign_cpt.report.plot import Level, Series, line_chart
from prealign_cpt.report.record import Model, Point, Record


def learning(records: Sequence[Record]) -> Section:
    """The curves of runs and their controls, each model once."""
    first = records[0]
    controls = {model.name: model for record in records for model in record.controls}
    models = {record.ours.name: record.ours for record in records} | controls
    curves = [model for model in models.values() if model.curve]
    if not curves:
        return not_done("Learning curve", first.ours.curve_absent)
    base = first.base.scores
    # Runs of one page may have different bases; a level is that of all of them or of none.
    same = all(record.base.scores.valid_target == base.valid_target for record in records)
    points = [point for model in curves for point in model.curve]
    by_text = all(point.text is not None for point in points)
    charts, lost = [], []
    for language, key, level in (
        (first.language, "target", base.valid_target),
        ("English", "english", base.valid_english),
    ):
        lines = [Series(model.name, _line(model, key, by_text), model.style) for model in curves]
        levels = [Level("", one.points[-1][1], one.style) for one in lines if one.points and one.name in controls]
        if not isinstance(level, Absent) and same:
            levels.append(Level(first.base.name, level))
        else:
            lost.append(f"no level of the base in {language}: {_why(level)}")
        across = f"bytes of {first.language} text read" if by_text else "training tokens"
        label = f"Bits per byte of {language} validation text against {across}"
        charts.append((f"{language} validation text", line_chart(lines, label, across, "bits per byte", levels)))
    rows = [
        (
            model.name,
            f"{point.step:,}",
            f"{point.tokens:,}",
            "-" if point.text is None else f"{point.text:,.0f}",
            optional(point.target),
            optional(point.english),
        )
        for model in curves
        for point in model.curve
    ]
    head = ("", "step", "tokens", f"{first.language} bytes", f"{first.language} bpb", "English bpb")
    parts = [side_by_side(charts)]
    if by_text:
        parts.append(
            '<p class="note">Text read: what the alignment read, and training tokens of the language by the bytes of '
            "training text in one, so that models with other tokenizers stand at the same place after the same text. "
            "Faint lines: the base before training, and where each control ends.</p>"
        )
    parts += [missing(line) for line in dict.fromkeys(lost)]
    parts += [missing(model.curve_absent) for model in models.values() if not model.curve]
    if broken := sum(record.broken_lines for record in records):
        parts.append(missing(f"Damaged lines in the training logs, left out: {broken}"))
    return Section("Learning curve", "\n".join([*parts, details("The same as a table", html_table(head, rows))]))


def _line(model: Model, key: str, by_text: bool) -> tuple[tuple[float, float], ...]:
    return tuple((_place(point, by_text), y) for point in model.curve if (y := getattr(point, key)) is not None)


def _place(point: Point, by_text: bool) -> float:
    return point.text if by_text and point.text is not None else point.tokens


def _why(level: Figure) -> str:
    return level.reason if isinstance(level, Absent) else "the runs have different ones"
