"""The page's folded sections on the stages of one run: what each counted, and what it cost."""

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.document import is_number
from prealign_cpt.report.markup import (
    Section,
    html_table,
    leaves,
    missing,
    missing_once,
    not_done,
    seconds,
    show,
    side_by_side,
)
from prealign_cpt.report.plot import Series, line_chart
from prealign_cpt.report.record import Record
from prealign_cpt.report.verdict import MISSING

MOST_POINTS = 100
"""Points in the curve of the contrastive stage; longer logs are averaged down to it."""


def contrast(record: Record) -> Section:
    """The alignment stage: its losses, and what it did to English."""
    title = "Alignment"
    if isinstance(record.align.content, Absent):
        return not_done(title, record.align.content.reason)
    log = record.align.at("contrast")
    entries = [entry for entry in log if isinstance(entry, dict)] if isinstance(log, list) else []
    charts: list[tuple[str, str]] = []
    for key, name in (("contrastive", "Contrastive loss (training)"), ("anchor", "English loss (training)")):
        points = [(e["step"], e[key]) for e in entries if is_number(e.get("step")) and is_number(e.get(key))]
        line, size = _averaged(points)
        marks = len(line) <= MOST_POINTS // 2
        chart = line_chart([Series(name, line, record.ours.style)], f"{name} by step", "step", "nats", marks=marks)
        charts.append((f"{name}, {size} steps a point" if size > 1 else name, chart))
    parts = [side_by_side(charts) or missing("no step of the contrastive stage was logged")]
    parts.append(leaves(record.align, "english_gate", "English validation text around the stage, bits per byte"))
    parts.append(leaves(record.align, "rows", "Where the new rows come from"))
    return Section(title, "\n".join(parts))


def counters(record: Record) -> list[Section]:
    """What the stages before training counted, with their own names."""
    documents = {"Vocabulary": record.vocab, "Lexicon": record.lexicon, "Training data": record.data}
    return [
        not_done(title, one.content.reason)
        if isinstance(one.content, Absent)
        else Section(title, leaves(one, "", title))
        for title, one in documents.items()
    ]


def cost(record: Record) -> Section:
    """Time and memory of every stage, and how near the server is to the model."""
    start = record.serve.number("start_seconds")
    rows = [(name, seconds(stage.seconds), show(stage.peak_mb, 0)) for name, stage in record.stages.items()]
    rows.append(("server start", seconds(start), MISSING))
    figures = [("tokens", show(record.tokens)), ("tokens per second", show(record.tokens_per_second))]
    parts = [
        html_table(("stage", "time", "peak memory (MB)"), rows),
        html_table(("continual pretraining", "figure"), figures),
        leaves(record.serve, "parity", "Parity of the server with the trained model"),
    ]
    wanted = [value for stage in record.stages.values() for value in (stage.seconds, stage.peak_mb)]
    wanted += [start, record.tokens, record.tokens_per_second]
    return Section("Time, memory, parity", "\n".join([*parts, *missing_once(wanted)]))


def _averaged(points: list[tuple[float, float]]) -> tuple[tuple[tuple[float, float], ...], int]:
    """Means of so many neighbours that at most `MOST_POINTS` remain, and how many neighbours that are."""
    points = sorted(points)
    size = -(-len(points) // MOST_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple((group[-1][0], sum(y for _, y in group) / len(group)) for group in groups), size
