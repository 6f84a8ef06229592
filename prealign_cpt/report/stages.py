"""The page's folded sections on the stages of one run: what each made, and what it cost."""

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.bars import Bar, bars
from prealign_cpt.report.document import flat, is_number
from prealign_cpt.report.markup import (
    Section,
    details,
    html_table,
    leaves,
    missing,
    missing_once,
    not_done,
    optional,
    seconds,
    show,
    side_by_side,
)
from prealign_cpt.report.plot import Series, line_chart
from prealign_cpt.report.record import Record
from prealign_cpt.report.verdict import MISSING, cell

MOST_POINTS = 100
"""Points in the curve of the contrastive stage; longer logs are averaged down to it."""

GATE = {"before": "before", "after": "after", "limit": "largest increase allowed"}
"""Figures of the gate on English, and what the page calls them."""


def contrast(record: Record) -> Section:
    """The alignment stage: its losses, and what it did to English."""
    title = "Contrastive stage"
    if isinstance(record.align.content, Absent):
        return not_done(title, record.align.content.reason)
    parts: list[str] = []
    log = record.align.at("contrast")
    entries = [entry for entry in log if isinstance(entry, dict)] if isinstance(log, list) else []
    charts: list[tuple[str, str]] = []
    lines: dict[str, tuple[tuple[float, float], ...]] = {}
    for key, name in (("contrastive", "Contrastive loss (training)"), ("anchor", "English loss (training)")):
        points = [(e["step"], e[key]) for e in entries if is_number(e.get("step")) and is_number(e.get(key))]
        lines[key], size = _averaged(points)
        chart = line_chart(
            [Series(name, lines[key])],
            f"{name} against step",
            "step",
            "nats",
            marks=len(lines[key]) <= MOST_POINTS // 2,
        )
        charts.append((f"{name}, {size} steps a point" if size > 1 else name, chart))
    if any(lines.values()):
        parts.append(side_by_side(charts))
        by_step: dict[float, dict[str, float]] = {}
        for key, line in lines.items():
            for step, value in line:
                by_step.setdefault(step, {})[key] = value
        rows = [
            (f"{step:,.10g}", optional(row.get("contrastive")), optional(row.get("anchor")))
            for step, row in sorted(by_step.items())
        ]
        parts.append(details("The same as a table", html_table(("step", "contrastive", "English"), rows)))
    else:
        parts.append(missing(log.reason if isinstance(log, Absent) else "no step of the contrastive stage was logged"))
    gate = [(label, cell(record.align.number("english_gate", name))) for name, label in GATE.items()]
    parts.append(html_table(("", "bpb"), gate, "English validation text around the contrastive stage"))
    parts += missing_once([record.align.number("english_gate", name) for name in GATE])
    return Section(title, "\n".join(parts))


def vocabulary(record: Record) -> Section:
    """The tokenizer before and after, and the lexicon."""
    vocab, title = record.vocab, "Vocabulary and lexicon"
    if isinstance(vocab.content, Absent):
        return not_done(title, vocab.content.reason)
    changes = [("tokens per word", record.fertility), ("bytes per token", record.bytes_per_token)]
    rows = [(label, show(change["before"]), show(change["after"])) for label, change in changes]
    styles = {"before": None, "after": 0}
    share = record.english_changed
    facts = [
        ("new tokens", show(vocab.number("new_tokens"))),
        ("new tokens that no text reaches", show(vocab.number("unreachable"))),
        ("English lines tokenized", show(vocab.number("english_lines"))),
        ("of these, now tokenized otherwise", MISSING if isinstance(share, Absent) else f"{share * 100:.4g}%"),
        ("texts not given back as they were", show(vocab.number("round_trip_failures"))),
        ("the same with the base tokenizer", show(vocab.number("round_trip_failures_base"))),
    ]
    lengths = html_table(("", "before", "after"), rows, f"{record.language} text, tokenizer before and after")
    groups = [
        (label, [Bar(when, v, style=styles[when]) for when, v in change.items() if not isinstance(v, Absent)])
        for label, change in changes
    ]
    drawn = bars(groups, f"Tokens per word and bytes per token of {record.language} text, before and after")
    figure = f"<figure>{drawn}</figure>" if drawn else ""
    parts = [
        f'<div class="pair"><div>{figure}{lengths}',
        f"{html_table(('', 'figure'), facts, 'Tokenizer')}</div>",
        f"<div>{leaves(record.align, 'rows', 'Where the new rows come from')}",
        f"{leaves(record.lexicon, '', 'Lexicon')}</div></div>",
    ]
    counts = ("new_tokens", "unreachable", "english_lines", "round_trip_failures", "round_trip_failures_base")
    wanted = [vocab.number(key) for key in counts]
    wanted += [share, *record.fertility.values(), *record.bytes_per_token.values()]
    return Section(title, "\n".join([*parts, *missing_once(wanted)]))


def training_data(record: Record) -> Section:
    """What was packed for the continual pretraining."""
    words, switched = (record.data.number("english", key) for key in ("words", "switched"))
    title = "Training data"
    if isinstance(record.data.content, Absent):
        return not_done(title, record.data.content.reason)
    sides = [record.data.at(side) for side in ("target", "english")]
    columns = [dict(flat(side)) if isinstance(side, dict) else {} for side in sides]
    rows = [
        (key.replace("_", " "), *(show(column.get(key)) for column in columns))
        for key in dict.fromkeys(key for column in columns for key in column)
    ]
    rows.append(("new tokens that occur as labels", show(record.data.number("new_tokens_labelled")), MISSING))
    parts = [html_table(("", record.language, "English"), rows, "Packed sequences")]
    if not isinstance(words, Absent) and not isinstance(switched, Absent) and words:
        parts.append(f'<p class="note">Switched share of the English words: {switched / words:.2%}</p>')
    return Section(title, "\n".join(parts))


def cost(record: Record) -> Section:
    """Time and memory of every stage, and how near the server is to the model."""
    rows = [
        (
            name,
            seconds(stage.seconds),
            show(stage.peak_mb, 0),
            stage.version if isinstance(stage.version, str) else MISSING,
        )
        for name, stage in record.stages.items()
    ]
    start = record.serve.number("start_seconds")
    rows.append(("server start", seconds(start), MISSING, MISSING))
    figures = [("tokens", show(record.tokens)), ("tokens per second", show(record.tokens_per_second))]
    parts = [
        html_table(("stage", "time", "peak memory (MB)", "version"), rows),
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
