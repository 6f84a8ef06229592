"""What `prealign eval` measured: read it, find out whose it is, and lay it out for the page.

DIR/MEASURE.json                             one subject   --+
DIR/NAME/MEASURE.json  DIR/comparison.json   several         +--> Evaluation --> bars, layers, a table for every measure
RUN/export, the run's base                                 --+

A model's digests say whose figures are, never the name of a folder.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from prealign_cpt.evaluate.exposure import beside, exposure
from prealign_cpt.evaluate.figures import Absent, Figure, Outcome, Result, from_json, read_outcome
from prealign_cpt.evaluate.measures import MEASURES
from prealign_cpt.evaluate.subject import base_folder, model_digest, tokenizer_digest
from prealign_cpt.evaluate.table import FORMAT, unique
from prealign_cpt.report.charts import colour, line_chart
from prealign_cpt.report.collect import BASE
from prealign_cpt.report.document import reading
from prealign_cpt.report.table import MISSING
from prealign_cpt.run.errors import DataError, MissingInputError

Digests = tuple[str, str]
"""SHA-256 of a model (weights and configuration) and of its tokenizer."""

AGAIN = "evaluate again, what is whole is kept"

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

EXPOSED = "what the training text shows of it"

LAYER = re.compile(r"\blayer/(\d+)/")

OPEN = ("transfer", "clka", "mixed", "bitext", "generation", "lm_eval", "mteb")
"""Measures whose tables are open at first: they are what the others are for."""


@dataclass(frozen=True)
class Evaluation:
    """Measures of one or more models on the same data."""

    subjects: list[str]
    """Names; not empty."""
    outcomes: dict[str, dict[str, Outcome]]
    """By measure, of those that were measured, and subject."""
    differences: dict[str, dict[str, Result]]
    """By measure, figure and later subject: less the first subject, on the same items. Empty for one subject."""
    exposures: dict[str, dict[str, str]]
    """By subject: what its training text shows of what zero-shot figures ask."""
    cautions: tuple[str, ...] = ()
    """A line for each subject that is none of the page's runs."""


def read_evaluation(folder: Path, runs: Mapping[str, Path]) -> Evaluation:
    """Read a folder of results. A subject has a run's name if it is the run's export, and only then.

    Args:
        runs: the run folders of the page by name.

    Raises:
        MissingInputError: no such folder, or no result in it.
        DataError: a result is damaged or of another version, or one subject's results are of several models.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; give one that `prealign eval` wrote")
    order, differences = _comparison(folder / "comparison.json")
    if alone := _subject(folder):
        subjects, differences = {folder.resolve().name: alone}, {}
    else:
        names = order or sorted(path.name for path in folder.iterdir() if path.is_dir())
        subjects = {name: subject for name in names if (subject := _subject(folder / name))}
    if not subjects:
        raise MissingInputError(f"{folder}: holds no result; give a folder that `prealign eval` wrote")
    labels, cautions = _named({name: digests for name, (digests, _) in subjects.items()}, runs)
    renamed = {
        measure: {figure: {labels.get(n, n): gap for n, gap in gaps.items()} for figure, gaps in by_figure.items()}
        for measure, by_figure in differences.items()
    }
    outcomes: dict[str, dict[str, Outcome]] = {}
    for name, (_, them) in subjects.items():
        for measure, outcome in them.items():
            outcomes.setdefault(measure, {})[labels[name]] = outcome
    exposures = {label: exposure(runs.get(label)) for label in labels.values()}
    return Evaluation(list(labels.values()), outcomes, renamed, exposures, cautions)


def _subject(folder: Path) -> tuple[Digests, dict[str, Outcome]] | None:
    """The one model that the outcomes were made from, and the outcomes by measure; None if there is no outcome."""
    outcomes: dict[str, Outcome] = {}
    models: dict[Digests, list[str]] = {}
    for measure in MEASURES:
        path = folder / f"{measure}.json"
        if path.is_file():
            outcome = read_outcome(folder, measure)
            if outcome is None:
                raise DataError(f"{path}: damaged, or of another version; {AGAIN}")
            outcomes[measure] = outcome
            with reading(path, "it does not say what it was made from: remove it and evaluate again"):
                about = json.loads(path.read_text(encoding="utf-8"))["made_from"]
                models.setdefault((about["model"], about["tokenizer"]), []).append(measure)
    if len(models) > 1:
        groups = " / ".join(", ".join(measures) for measures in models.values())
        raise DataError(
            f"{folder}: results of {len(models)} different models ({groups}); evaluate all measures again with one, "
            "or keep each model's in a folder of its own"
        )
    return (next(iter(models)), outcomes) if models else None


def _comparison(path: Path) -> tuple[list[str], dict[str, dict[str, Result]]]:
    if not path.is_file():
        return [], {}
    with reading(path, AGAIN):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(f"{path}: format {content['format']}, this program reads {FORMAT}; evaluate again")
        differences = {
            measure: {figure: from_json(gaps, f"{path}: {measure} {figure}") for figure, gaps in figures.items()}
            for measure, figures in content["differences"].items()
        }
        return [str(name) for name in content["subjects"]], differences


def _named(subjects: Mapping[str, Digests], runs: Mapping[str, Path]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What to call the subjects, by the names of their folders; a line for each that is no run's, but for the base
    beside its run, which is what the run is compared with."""
    exports = {name: _digests(run / "export") for name, run in runs.items()}
    bases = {name: base_folder(run) for name, run in runs.items() if (run / "recipe.toml").is_file()}
    unknown = [name for name, export in exports.items() if export is None]
    compared = any(digests in exports.values() for digests in subjects.values())
    labels: list[str] = []
    lines: dict[int, str] = {}
    for number, (name, digests) in enumerate(subjects.items()):
        if owner := next((run for run, export in exports.items() if export == digests), ""):
            labels.append(owner)
        elif extended := next((run for run, base in bases.items() if _digests(base) == digests), ""):
            labels.append(BASE)
            if not compared:
                lines[number] = f"figures of the base of {extended}, not of {extended} itself"
        elif unknown:
            labels.append(f"{name} (not checked)")
            lines[number] = f"{', '.join(unknown)} has no export to say whose figures these are; finish the run"
        else:
            labels.append(f"{name} (another model)")
            them = " or ".join(runs)
            lines[number] = f"figures of another model than the export of {them}; `prealign eval RUN` measures a run"
    labels = unique(labels)
    return dict(zip(subjects, labels, strict=True)), tuple(f"{labels[n]}: {line}." for n, line in lines.items())


def _digests(folder: Path | None) -> Digests | None:
    """As an evaluation has them (`Subject`); None where there is no whole model."""
    if folder is None or not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        return None
    return model_digest(folder), tokenizer_digest(folder)


def measured(evaluation: Evaluation, styles: Mapping[str, int | None]) -> dict[str, Any]:
    """What the section shows, for the template; `styles`: colours of the page's models by name."""
    taken = max((style or 0 for style in styles.values()), default=-1) + 1
    others = [name for name in evaluation.subjects if name not in styles]
    styles = {**styles, **{name: taken + number for number, name in enumerate(others)}}
    groups, layers, tables = [], [], []
    for measure, outcomes in evaluation.outcomes.items():
        results = {name: outcomes[name].result if name in outcomes else {} for name in evaluation.subjects}
        groups += [(caption, *_bars(results, name, styles)) for owner, name, caption in HEADLINES if owner == measure]
        for owner, name, caption in LAYERED:
            lines = [(one, _by_layer(result, name), styles[one]) for one, result in results.items()]
            if owner == measure:
                layers.append(line_chart(caption, ("layer, 0 the embeddings", caption.rpartition(": ")[2]), lines))
        exposed = beside(measure, evaluation.exposures)
        head, *rows = _table(results, evaluation.differences.get(measure), exposed)
        seconds = sum(outcome.seconds for outcome in outcomes.values())
        title = f"{_readable(measure)}: {len(rows) - len(exposed)} figures, {seconds:.0f} s"
        reasons = [f"{_readable(measure)}{line}" for line in _reasons(outcomes)]
        tables.append({"title": title, "head": head, "rows": rows, "open": measure in OPEN, "reasons": reasons})
    return {
        "cautions": evaluation.cautions,
        "groups": [group for group in groups if group[2]],
        "layers": [chart for chart in layers if chart],
        "tables": tables,
        "unmeasured": [_readable(measure) for measure in MEASURES if measure not in evaluation.outcomes],
    }


def _bars(results: Mapping[str, Result], pattern: str, styles: Mapping[str, int | None]) -> tuple[float, list[Any]]:
    """Highest value and bars of a main figure: name, colour, figure. Values are not negative."""
    names = (name for result in results.values() for name in result if fnmatchcase(name, pattern))
    figure = next(names, pattern)
    base = next((one for result in results.values() if (one := result.get(f"base/{figure}"))), None)
    shown = [(BASE, None, base), *((name, styles[name], result.get(figure)) for name, result in results.items())]
    bars = [(name, colour(style), one) for name, style, one in shown if isinstance(one, Figure) and one.value >= 0]
    return max((max(one.value, one.high or 0.0) for *_, one in bars), default=0.0) or 1.0, bars


def _by_layer(result: Result, name: str) -> list[tuple[float, float]]:
    """The values of a figure by layer; the suite has `layer/N/` somewhere in its name."""
    return sorted(
        (int(layer[1]), one.value)
        for key, one in result.items()
        if isinstance(one, Figure) and (layer := LAYER.search(key)) and LAYER.sub("", key) == name
    )


def _table(
    results: Mapping[str, Result], gaps: Mapping[str, Result] | None, exposed: list[tuple[str, list[str]]]
) -> list[tuple[str, ...]]:
    """The head and the rows of a measure's figures, those of single layers left out, and what the texts show."""
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
    none = [MISSING]
    return rows + [(name, *none * based, *shown, *none * len(less), MISSING, EXPOSED) for name, shown in exposed]


def _reasons(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Why figures of a measure are absent: one line a reason, with the figures and the subjects that it leaves out."""
    lines: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for subject, outcome in outcomes.items():
        for name, one in outcome.result.items():
            if isinstance(one, Absent):
                reason = f"failed: {one.reason}" if outcome.status == "failed" else one.reason
                figures, subjects = lines.setdefault(reason, ({}, {}))
                figures[_readable(name)] = subjects[subject] = None
    whose = {reason: f" of {', '.join(who)}" if len(who) < len(outcomes) else "" for reason, (_, who) in lines.items()}
    named = {reason: ", ".join([*figures][:6]) + ", ..." * (len(figures) > 6) for reason, (figures, _) in lines.items()}
    return [f"{whose[reason]}: {named[reason]}: {reason}" for reason in lines]


def _readable(name: str) -> str:
    return name.replace("/", " / ").replace("_", " ")


def _cell(one: Figure | Absent | None, sign: str = "") -> str:
    """A figure with its interval. Of a difference with a sign, `*` where it is clear.

    A bound may be 1e-17 below zero, so a zero has no sign."""
    if not isinstance(one, Figure):
        return MISSING
    if one.low is None or one.high is None:  # counts and numbers of layers have no interval
        return f"{one.value:,.0f}" if one.value == int(one.value) and not sign else f"{one.value:{sign}z.3f}"
    clear = "*" if sign and one.clear else ""
    return f"{one.value:{sign}z.3f}{clear} [{one.low:z.3f}, {one.high:z.3f}]"
