"""`prealign eval SUBJECT...`: the same work for every subject, and one table.

    subjects, work --suite--> out/[NAME/]MEASURE.json --> out/comparison.json  table (markdown)

Differences are those of the later subjects from the first, on the same items (figures.difference).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prealign_cpt.evaluate.figures import Absent, Figure, Result, difference, to_json
from prealign_cpt.evaluate.results import Outcome
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.suite import run_suite
from prealign_cpt.evaluate.work import Work
from prealign_cpt.run.manifest import atomic_write

FORMAT = 1
"""Version of comparison.json."""

Outcomes = dict[str, dict[str, Outcome]]
"""By subject and measure."""


def evaluate(subjects: list[Subject], work: Work, out: Path, only: list[str] | None = None) -> int:
    """Run the measures on every subject and print a table.

    With one subject the results lie in `out`, with several in a folder of `out` for each, and `out/comparison.json`
    has them side by side.

    Returns:
        1 if a measure failed that had something to measure, else 0.
    """
    found: Outcomes = {}
    for name, subject in zip(unique([one.name for one in subjects]), subjects, strict=True):
        found[name] = run_suite(subject, work, out / name if len(subjects) > 1 else out, only)
        subject.unload()
    gaps = differences(found, work.seed)
    if len(subjects) > 1:
        content = comparison(found, gaps)
        atomic_write(out / "comparison.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    print("\n".join(table(found, gaps)), flush=True)
    return int(any(one.status == "failed" for outcomes in found.values() for one in outcomes.values()))


def differences(found: Outcomes, seed: int) -> dict[str, dict[str, Result]]:
    """By later subject and measure: the figures less those of the first, where both have items."""
    (_, first), *rest = found.items()
    gaps: dict[str, dict[str, Result]] = {}
    for name, outcomes in rest:
        gaps[name] = {}
        for measure, outcome in outcomes.items():
            gaps[name][measure] = {
                figure: difference(own, other, seed)
                for figure, own in outcome.result.items()
                if isinstance(own, Figure)
                and own.items is not None
                and not figure.startswith(("base/", "change/"))
                and isinstance(other := first[measure].result.get(figure), Figure)
                and other.items is not None
            }
    return gaps


def comparison(found: Outcomes, gaps: dict[str, dict[str, Result]]) -> dict[str, Any]:
    """The content of comparison.json: `figures` by measure, figure and subject; `differences` from the first subject
    by measure, figure and later subject."""
    measures = list(next(iter(found.values())))
    figures = {
        measure: _by_figure({name: to_json(outcomes[measure].result) for name, outcomes in found.items()})
        for measure in measures
    }
    less_first = {
        measure: _by_figure({name: to_json(gap[measure]) for name, gap in gaps.items()}) for measure in measures
    }
    return {"format": FORMAT, "subjects": list(found), "figures": figures, "differences": less_first}


def table(found: Outcomes, gaps: dict[str, dict[str, Result]]) -> list[str]:
    """The lines of a markdown table, figures down and subjects across, and below it why figures are absent.

    The base, where it was measured, has a column of its own, and one subject's change from it another. Figures of
    single layers are only in the files. A difference whose interval leaves 0 out is marked with `*`.
    """
    names = list(found)
    measures = list(next(iter(found.values())))
    with_base = any(figure.startswith("base/") for m in measures for figure in found[names[0]][m].result)
    columns = names + ["base"] * with_base + ["change"] * (with_base and len(names) == 1)
    lines = [f"| measure | figure | {' | '.join(columns)} |", f"|---|---|{'---:|' * len(columns)}"]
    reasons: dict[str, list[str]] = {}
    for measure in measures:
        results = {name: found[name][measure].result for name in names}
        for figure in dict.fromkeys(figure for result in results.values() for figure in result):
            if "layer/" in figure or figure.startswith(("base/", "change/")):
                continue
            cells = [_cell(results[n].get(figure), gaps.get(n, {}).get(measure, {}).get(figure)) for n in names]
            cells += [_cell(results[names[0]].get(f"{prefix}/{figure}")) for prefix in columns[len(names) :]]
            if any(cell != "-" for cell in cells):
                lines.append(f"| {measure} | {figure} | {' | '.join(cells)} |")
            for name, result in results.items():
                if isinstance(one := result.get(figure), Absent):
                    of = f" of {name}" if len(names) > 1 else ""
                    reasons.setdefault(one.reason, []).append(f"{measure} {figure}{of}")
    lines += ["", *(f"- absent: {', '.join(what)}: {reason}" for reason, what in reasons.items())]
    failed = [f"{measure} of {n}" for n in names for measure, one in found[n].items() if one.status == "failed"]
    return lines + ([f"- FAILED: {', '.join(failed)}"] if failed else [])


def unique(names: Iterable[str]) -> list[str]:
    """The names, each with a number behind it where it was there before."""
    found: list[str] = []
    for name in names:
        number, own = 1, name
        while own in found:
            number += 1
            own = f"{name}-{number}"
        found.append(own)
    return found


def _cell(one: Figure | Absent | None, gap: Figure | Absent | None = None) -> str:
    if not isinstance(one, Figure):
        return "-"
    if one.low is None or one.high is None:
        text = f"{one.value:.0f}" if one.value == int(one.value) else f"{one.value:.3f}"
    else:
        text = f"{one.value:z.3f} [{one.low:z.3f}, {one.high:z.3f}]"
    if isinstance(gap, Figure):
        clear = gap.low is not None and gap.high is not None and (gap.low > 0 or gap.high < 0)
        text += f" ({gap.value:+z.3f}{'*' if clear else ''})"
    return text


def _by_figure(by_subject: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    names = dict.fromkeys(figure for figures in by_subject.values() for figure in figures)
    return {
        figure: {subject: figures[figure] for subject, figures in by_subject.items() if figure in figures}
        for figure in names
    }
