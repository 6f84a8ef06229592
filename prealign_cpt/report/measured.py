"""The page's sections on what `prealign eval` measured: an overview, the layers, and a table for every measure."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from html import escape

from prealign_cpt.evaluate.figures import Absent, Figure, Outcome, Result
from prealign_cpt.evaluate.suite import MEASURES
from prealign_cpt.report.bars import Bar, bars
from prealign_cpt.report.evaluation import Evaluation
from prealign_cpt.report.markup import Section, details, html_table, missing, side_by_side
from prealign_cpt.report.plot import Series, line_chart
from prealign_cpt.report.record import BASE
from prealign_cpt.report.verdict import MISSING

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
    ("words", "english_to_target", "p1_csls", "Words, English to target: P@1"),
    ("words", "target_to_english", "p1_csls", "Words, target to English: P@1"),
    ("sentences", "", "mexa", "Sentences: MEXA"),
    ("sentences", "", "gap", "Sentences: cosine gap"),
    ("sentences", "", "cka", "Sentences: CKA"),
    ("sentences", "", "anc", "Sentences: ANC"),
)
"""Figures that exist for every layer: measure, part, name, title."""

OPEN = ("transfer", "clka", "mixed", "bitext", "generation", "lm_eval", "mteb")
"""Measures whose tables are open at first: they are what the others are for."""


def measured(evaluation: Evaluation, styles: Mapping[str, int | None]) -> Section:
    """The section.

    Args:
        styles: colours of the page's models by name.
    """
    others = [name for name in evaluation.subjects if name not in styles]
    taken = max((style or 0 for style in styles.values()), default=-1) + 1
    colours = {**styles, **{name: taken + number for number, name in enumerate(others)}}
    parts = [
        *(f'<p class="caution">{escape(line)}</p>' for line in evaluation.cautions),
        _overview(evaluation, colours),
        _layers(evaluation, colours),
        "<h3>Every figure</h3>",
        _tables(evaluation),
    ]
    return Section("Evaluation", "\n".join(parts))


def _overview(evaluation: Evaluation, styles: Mapping[str, int | None]) -> str:
    groups: list[tuple[str, list[Bar]]] = []
    for measure, pattern, title in HEADLINES:
        name = _first(evaluation, measure, pattern)
        found: list[Bar] = []
        for subject, outcomes in evaluation.subjects.items():
            result: Result = outcomes[measure].result if measure in outcomes else {}
            base = result.get(f"base/{name}")
            if isinstance(base, Figure) and not found:
                found.append(Bar(BASE, base.value, base.low, base.high))
            if isinstance(one := result.get(name), Figure):
                found.append(Bar(subject, one.value, one.low, one.high, styles[subject]))
        groups.append((title, found))
    groups = [(title, found) for title, found in groups if found]
    half = -(-len(groups) // 2)
    label = "Main figures of the evaluation as bars with 95 % intervals; the tables below hold them as numbers"
    drawn = [chart for part in (groups[:half], groups[half:]) if (chart := bars(part, label))]
    if not drawn:
        return ""
    note = (
        '<p class="note">Whiskers: 95 % intervals over items. Where two of them overlap a difference may still be '
        "clear: see the paired differences in the tables. They say nothing about another training seed.</p>"
    )
    return f'<h3>Main figures</h3><div class="pair">{"".join(f"<figure>{one}</figure>" for one in drawn)}</div>{note}'


def _first(evaluation: Evaluation, measure: str, pattern: str) -> str:
    """The name of the first figure that fits, else the pattern."""
    for outcomes in evaluation.subjects.values():
        for name in outcomes[measure].result if measure in outcomes else ():
            if fnmatchcase(name, pattern):
                return name
    return pattern


def _layers(evaluation: Evaluation, styles: Mapping[str, int | None]) -> str:
    charts = []
    for measure, part, name, title in LAYERED:
        lines = [
            Series(subject, tuple(_by_layer(outcomes[measure].result, part, name).items()), styles[subject])
            for subject, outcomes in evaluation.subjects.items()
            if measure in outcomes
        ]
        label = f"{title} by layer, 0 the embeddings"
        charts.append((title, line_chart(lines, label, "layer", name.upper().partition("_")[0])))
    note = (
        '<p class="note">MEXA: share of sentences whose translation is nearer than any other sentence. CKA and ANC are '
        "high for few sentences by themselves; their tables hold the same for wrong translations.</p>"
    )
    drawn = side_by_side(charts)
    return details("Alignment of the two languages, layer by layer", drawn + note) if drawn else ""


def _by_layer(result: Result, part: str, name: str) -> dict[int, float]:
    """The values of a figure by layer; the suite calls it `layer/N/NAME`, with the part before or behind `layer/N`."""
    found: dict[int, float] = {}
    for key, one in result.items():
        pieces = key.split("/")
        if "layer" not in pieces[:-1] or pieces[-1] != name or not isinstance(one, Figure):
            continue
        at = pieces.index("layer")
        rest = "/".join(pieces[:at] + pieces[at + 2 : -1])
        if rest == part and pieces[at + 1].isdigit():
            found[int(pieces[at + 1])] = one.value
    return found


def _tables(evaluation: Evaluation) -> str:
    parts: list[str] = []
    unmeasured: list[str] = []
    for measure in MEASURES:
        results: dict[str, Outcome] = {
            name: found[measure] for name, found in evaluation.subjects.items() if measure in found
        }
        if not results:
            unmeasured.append(measure.replace("_", " "))
            continue
        head, rows = _table(evaluation, measure)
        time = sum(outcome.seconds for outcome in results.values())
        if rows:
            title = f"{measure.replace('_', ' ')}: {len(rows)} figures, {time:.0f} s"
            parts.append(details(title, html_table(head, rows, kind="noted"), opened=measure in OPEN))
        lines: dict[str, list[str]] = {}
        for name, outcome in results.items():
            failed = "failed: " if outcome.status == "failed" else ""
            for line in _reasons(outcome.result):
                lines.setdefault(failed + line, []).append(name)
        for line, names in lines.items():
            who = "" if len(names) == len(evaluation.subjects) else f" of {', '.join(names)}"
            parts.append(missing(f"{measure.replace('_', ' ')}{who}: {line}"))
    if unmeasured:
        parts.append(missing(f"not measured: {', '.join(unmeasured)}"))
    return "\n".join(parts)


def _table(evaluation: Evaluation, measure: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    results: dict[str, Result] = {
        name: found[measure].result if measure in found else {} for name, found in evaluation.subjects.items()
    }
    first, *others = results
    later = others if evaluation.differences else []
    gaps = evaluation.differences.get(measure, {})
    # The base of all subjects is the same model, or there is none; one subject's change from it has a column.
    based = any(name.startswith("base/") for name in results[first])
    changed = not others and any(name.startswith("change/") for name in results[first])
    less = (*["less base"] * changed, *(f"{name} less {first}" for name in later))
    head = ("figure", *[BASE] * based, *results, *less, "items", "note")
    rows = []
    for figure in dict.fromkeys(name for result in results.values() for name in result):
        shown = [result.get(figure) for result in results.values()]
        some = next((one for one in shown if isinstance(one, Figure)), None)
        if some is None or not _listed(figure):
            continue
        values = [results[first].get(f"base/{figure}")] * based + shown
        changes = [results[first].get(f"change/{figure}")] * changed
        changes += [gaps.get(figure, {}).get(name) for name in later]
        items = MISSING if some.n is None else f"{some.n:,}"
        rows.append((_readable(figure), *map(_value, values), *map(_change, changes), items, some.note))
    return head, rows


def _reasons(result: Result) -> list[str]:
    """Why figures are absent: one line a reason, with the figures that it leaves out."""
    reasons: dict[str, list[str]] = {}
    for name, one in result.items():
        if isinstance(one, Absent):
            reasons.setdefault(one.reason, []).append(_readable(name))
    return [
        f"{', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}: {reason}"
        for reason, names in reasons.items()
    ]


def _listed(name: str) -> bool:
    return "layer/" not in name and not name.startswith(("base/", "change/"))


def _readable(name: str) -> str:
    return name.replace("/", " / ").replace("_", " ")


def _value(one: Figure | Absent | None) -> str:
    if not isinstance(one, Figure):
        return MISSING
    # Counts and numbers of layers have no interval.
    number = f"{one.value:,.0f}" if one.low is None and one.value == int(one.value) else f"{one.value:.3f}"
    return f"{number} {_interval(one)}".strip()


def _interval(one: Figure) -> str:
    return "" if one.low is None or one.high is None else f"[{_rounded(one.low)}, {_rounded(one.high)}]"


def _rounded(value: float) -> str:
    """Without the sign of a zero: a bound may be 1e-17 below it."""
    return f"{value:z.3f}"


def _change(one: Figure | Absent | None) -> str:
    """A difference with a sign; `*` if its interval leaves 0 out."""
    if not isinstance(one, Figure):
        return MISSING
    clear = one.low is not None and one.high is not None and (one.low > 0 or one.high < 0)
    return f"{one.value:+z.3f}{'*' if clear else ''} {_interval(one)}".strip()
