"""The page's sections on what `prealign eval` measured: an overview, the layers, and a table for every measure."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from html import escape

from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.results import Outcome
from prealign_cpt.evaluate.suite import MEASURES
from prealign_cpt.report.bars import Bar, bars
from prealign_cpt.report.evaluation import Evaluation
from prealign_cpt.report.heat import heat_map
from prealign_cpt.report.markup import Section, details, html_table, missing, side_by_side
from prealign_cpt.report.plot import COLOURS
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
    parts = [
        *(f'<p class="caution">{escape(line)}</p>' for line in evaluation.cautions),
        _overview(evaluation, styles),
        _layers(evaluation),
        "<h3>Every figure</h3>",
        _tables(evaluation),
    ]
    return Section("Evaluation", "\n".join(parts))


def _overview(evaluation: Evaluation, styles: Mapping[str, int | None]) -> str:
    others = (name for name in evaluation.subjects if name not in styles)
    taken = max((style or 0 for style in styles.values()), default=-1) + 1
    styles = {**styles, **{name: (taken + number) % COLOURS for number, name in enumerate(others)}}
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


def _layers(evaluation: Evaluation) -> str:
    values: dict[str, dict[str, dict[int, float]]] = {}
    for measure, part, name, title in LAYERED:
        for subject, outcomes in evaluation.subjects.items():
            result: Result = outcomes[measure].result if measure in outcomes else {}
            line = _by_layer(result, part, name)
            if line:
                values.setdefault(title, {})[subject] = line
    if not values:
        return missing("no figure by layer: the measures words and sentences were not done")
    label = "Alignment of the two languages, layer by layer, as a heat map; the table below it holds the numbers"
    columns = [(title, subject, line) for title, models in values.items() for subject, line in models.items()]
    several = len(evaluation.subjects) > 1
    head = ("layer", *(f"{title} ({subject})" if several else title for title, subject, _ in columns))
    layers = sorted({layer for _, _, line in columns for layer in line})
    rows = [(str(n), *(f"{line[n]:.3f}" if n in line else MISSING for _, _, line in columns)) for n in layers]
    return "\n".join(
        [
            side_by_side(
                (
                    f"{kind} by layer",
                    heat_map({k[len(kind) + 2 :]: v for k, v in values.items() if k.startswith(kind)}, label),
                )
                for kind in ("Words", "Sentences")
            ),
            '<p class="note">MEXA: share of sentences whose translation is nearer than any other sentence. CKA and '
            "ANC are high for few sentences by themselves; their tables hold the same for wrong translations.</p>",
            details("Alignment by layer as a table", html_table(head, rows)),
        ]
    )


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
        if len(evaluation.subjects) == 1:
            (head, rows), kind = _single(next(iter(results.values())).result), "noted"
        else:
            (head, rows), kind = _several(evaluation, measure), ""
        time = sum(outcome.seconds for outcome in results.values())
        if rows:
            title = f"{measure.replace('_', ' ')}: {len(rows)} figures, {time:.0f} s"
            parts.append(details(title, html_table(head, rows, kind=kind), opened=measure in OPEN))
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


def _single(result: Result) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    based, changed = (any(name.startswith(prefix) for name in result) for prefix in ("base/", "change/"))
    head = ("figure", "value", "95 % interval", "items", *["base"] * based, *["change"] * changed, "note")
    rows = []
    for name, one in result.items():
        if not _listed(name) or not isinstance(one, Figure):
            continue
        middle = [_number(result.get(f"base/{name}"))] * based + [_change(result.get(f"change/{name}"))] * changed
        items = f"{one.n:,}" if one.n is not None else MISSING
        rows.append((_readable(name), _number(one), _interval(one), items, *middle, one.note))
    return head, rows


def _several(evaluation: Evaluation, measure: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    results: dict[str, Result] = {
        name: found[measure].result if measure in found else {} for name, found in evaluation.subjects.items()
    }
    first, *others = results
    later = others if evaluation.differences else []
    gaps = evaluation.differences.get(measure, {})
    # The base of all subjects is the same model, or there is none.
    based = any(name.startswith("base/") for name in results[first])
    head = ("figure", *(("base",) if based else ()), *results, *(f"{name} less {first}" for name in later))
    rows = []
    for figure in dict.fromkeys(name for result in results.values() for name in result):
        if not _listed(figure) or not any(isinstance(result.get(figure), Figure) for result in results.values()):
            continue
        before = (_number(results[first].get(f"base/{figure}")),) if based else ()
        cells = (f"{_number(one)} {_interval(one, '')}".strip() for one in (r.get(figure) for r in results.values()))
        rows.append((_readable(figure), *before, *cells, *(_change(gaps.get(figure, {}).get(name)) for name in later)))
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


def _number(one: Figure | Absent | None) -> str:
    if not isinstance(one, Figure):
        return MISSING
    # Counts and numbers of layers have no interval.
    return f"{one.value:,.0f}" if one.low is None and one.value == int(one.value) else f"{one.value:.3f}"


def _interval(one: Figure | Absent | None, otherwise: str = MISSING) -> str:
    if not isinstance(one, Figure) or one.low is None or one.high is None:
        return otherwise
    return f"[{_rounded(one.low)}, {_rounded(one.high)}]"


def _rounded(value: float) -> str:
    """Without the sign of a zero: a bound may be 1e-17 below it."""
    return f"{value:z.3f}"


def _change(one: Figure | Absent | None) -> str:
    """A difference with a sign; `*` if its interval leaves 0 out."""
    if not isinstance(one, Figure):
        return MISSING
    clear = one.low is not None and one.high is not None and (one.low > 0 or one.high < 0)
    return f"{one.value:+z.3f}{'*' if clear else ''} {_interval(one, '')}".strip()
