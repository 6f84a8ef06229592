"""The page's section on what `prealign eval` measured: main figures, the layers, and a table for every measure."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.results import Outcome
from prealign_cpt.evaluate.suite import MEASURES
from prealign_cpt.report.charts import line_chart
from prealign_cpt.report.collect import BASE
from prealign_cpt.report.evaluation import Evaluation
from prealign_cpt.report.table import MISSING

HEADLINES = (
    ("language_model", "target/*/bits_per_byte", "Target text: bits per byte (less is better)"),
    ("language_model", "english/*/bits_per_byte", "English text: bits per byte (less is better)"),
    ("tokenizer", "target/*/fertility", "Target text: tokens per word (less is better)"),
    ("words", "english_to_target/p1_csls", "Words, English to target: P@1 (more is better)"),
    ("words", "target_to_english/p1_csls", "Words, target to English: P@1 (more is better)"),
    ("sentences", "mexa", "Sentences: MEXA (more is better)"),
    ("icl", "accuracy", "In-context learning: accuracy (more is better)"),
    ("transfer", "acc_target", "Transfer: accuracy in the target (more is better)"),
)
"""Figures drawn as bars, where they are there; `*` stands for the first text."""

LAYERED = (
    ("words", "english_to_target/p1_csls", "Words, English to target: P@1"),
    ("words", "target_to_english/p1_csls", "Words, target to English: P@1"),
    *(("sentences", name.lower(), f"Sentences: {name}") for name in ("MEXA", "gap", "CKA", "ANC")),
)
"""Figures that exist for every layer: measure, name without the layer, title."""

LAYER = re.compile(r"\blayer/(\d+)/")

OPEN = ("transfer", "clka", "mixed", "bitext", "generation", "lm_eval", "mteb")
"""Measures whose tables are open at first: they are what the others are for."""


def measured(evaluation: Evaluation, styles: Mapping[str, int | None]) -> dict[str, Any]:
    """What the section shows, for the template.

    Args:
        styles: colours of the page's models by name.
    """
    taken = max((style or 0 for style in styles.values()), default=-1) + 1
    others = [name for name in evaluation.subjects if name not in styles]
    styles = {**styles, **{name: taken + number for number, name in enumerate(others)}}
    groups, layers, tables = [], [], []
    for measure, outcomes in evaluation.outcomes.items():
        results = {name: outcomes[name].result if name in outcomes else {} for name in evaluation.subjects}
        groups += [(caption, *_bars(results, name, styles)) for owner, name, caption in HEADLINES if owner == measure]
        for owner, name, caption in LAYERED:
            lines = [(one, _by_layer(result, name), styles[one]) for one, result in results.items()]
            if owner == measure and (
                chart := line_chart(caption, ("layer, 0 the embeddings", caption.rpartition(": ")[2]), lines)
            ):
                layers.append(chart)
        head, *rows = _table(results, evaluation.differences.get(measure))
        title = (
            f"{_readable(measure)}: {len(rows)} figures, {sum(outcome.seconds for outcome in outcomes.values()):.0f} s"
        )
        reasons = [f"{_readable(measure)}{line}" for line in _reasons(outcomes)]
        tables.append({"title": title, "head": head, "rows": rows, "open": measure in OPEN, "reasons": reasons})
    return {
        "cautions": evaluation.cautions,
        "groups": [group for group in groups if group[2]],
        "layers": layers,
        "tables": tables,
        "unmeasured": [_readable(measure) for measure in MEASURES if measure not in evaluation.outcomes],
    }


def _bars(results: Mapping[str, Result], pattern: str, styles: Mapping[str, int | None]) -> tuple[float, list[Any]]:
    """Highest value and bars of a main figure: name, colour, figure. Values are not negative."""
    names = (name for result in results.values() for name in result if fnmatchcase(name, pattern))
    figure = next(names, pattern)
    base = next((one for result in results.values() if (one := result.get(f"base/{figure}"))), None)
    shown = [(BASE, None, base), *((name, styles[name], result.get(figure)) for name, result in results.items())]
    bars = [(name, style, one) for name, style, one in shown if isinstance(one, Figure) and one.value >= 0]
    return max((max(one.value, one.high or 0.0) for *_, one in bars), default=0.0) or 1.0, bars


def _by_layer(result: Result, name: str) -> list[tuple[float, float]]:
    """The values of a figure by layer; the suite has `layer/N/` somewhere in its name."""
    return sorted(
        (int(layer[1]), one.value)
        for key, one in result.items()
        if isinstance(one, Figure) and (layer := LAYER.search(key)) and LAYER.sub("", key) == name
    )


def _table(results: Mapping[str, Result], gaps: Mapping[str, Result] | None) -> list[tuple[str, ...]]:
    """The head and the rows of a measure's figures, those of single layers left out."""
    first, *later = results
    base, change = (
        {name.removeprefix(prefix): one for name, one in results[first].items() if name.startswith(prefix)}
        for prefix in ("base/", "change/")
    )
    # The base of all subjects is the same model, or there is none; one subject's change from it has a column.
    based, changed = bool(base), bool(change) and not later
    compared = later if gaps is not None else []
    less = (*["less base"] * changed, *(f"{name} less {first}" for name in compared))
    rows: list[tuple[str, ...]] = [("figure", *[BASE] * based, *results, *less, "items", "note")]
    for name in dict.fromkeys(name for result in results.values() for name in result):
        shown = [result.get(name) for result in results.values()]
        some = next((one for one in shown if isinstance(one, Figure)), None)
        if some is not None and not name.startswith(("base/", "change/")) and "layer/" not in name:
            values = [*[base.get(name)] * based, *shown]
            changes = [*[change.get(name)] * changed, *((gaps or {}).get(name, {}).get(other) for other in compared)]
            items = MISSING if some.n is None else f"{some.n:,}"
            cells = [*(_cell(one) for one in values), *(_cell(one, "+") for one in changes)]
            rows.append((_readable(name), *cells, items, some.note))
    return rows


def _reasons(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Why figures of a measure are absent: one line a reason, with the figures and the subjects that it leaves out."""
    lines: dict[str, list[str]] = {}
    for subject, outcome in outcomes.items():
        absent: dict[str, list[str]] = {}
        for name, one in outcome.result.items():
            if isinstance(one, Absent):
                absent.setdefault(one.reason, []).append(_readable(name))
        for reason, names in absent.items():
            failed = "failed: " if outcome.status == "failed" else ""
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            lines.setdefault(f": {failed}{', '.join(names[:6])}{more}: {reason}", []).append(subject)
    whose = {line: "" if len(them) == len(outcomes) else f" of {', '.join(them)}" for line, them in lines.items()}
    return [f"{whose[line]}{line}" for line in lines]


def _readable(name: str) -> str:
    return name.replace("/", " / ").replace("_", " ")


def _cell(one: Figure | Absent | None, sign: str = "") -> str:
    """A figure with its interval. Of a difference with a sign, `*` if its interval leaves 0 out.

    A bound may be 1e-17 below zero, so a zero has no sign."""
    if not isinstance(one, Figure):
        return MISSING
    if one.low is None or one.high is None:  # counts and numbers of layers have no interval
        return f"{one.value:,.0f}" if one.value == int(one.value) and not sign else f"{one.value:{sign}z.3f}"
    clear = "*" if sign and (one.low > 0 or one.high < 0) else ""
    return f"{one.value:{sign}z.3f}{clear} [{one.low:z.3f}, {one.high:z.3f}]"
