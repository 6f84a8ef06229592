"""Several subjects side by side, on the same data: a table, and OUT/comparison.json.

    subjects, data --suite--> out/[NAME/]MEASURE.json --> out/comparison.json  table (markdown)

Differences are those of the later subjects from the first, on the same items (statistics.difference).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.exposure import beside, exposure
from prealign_cpt.evaluate.figures import Absent, Figure, Outcome, Result, to_json
from prealign_cpt.evaluate.statistics import difference
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.suite import run_suite
from prealign_cpt.run.manifest import atomic_write

FORMAT = 1
"""Version of comparison.json."""

Outcomes = dict[str, dict[str, Outcome]]
"""By subject and measure."""


def evaluate(subjects: list[Subject], data: EvaluationData, out: Path, measures: Sequence[str]) -> int:
    """Run the measures on every subject and print a table.

    With one subject the results lie in `out`, with several in a folder of `out` for each, and `out/comparison.json`
    has them side by side.

    Returns:
        1 if a measure failed that had something to measure, else 0.
    """
    outcomes: Outcomes = {}
    exposures: dict[str, dict[str, str]] = {}
    for name, subject in zip(unique([subject.name for subject in subjects]), subjects, strict=True):
        outcomes[name] = run_suite(subject, data, out / name if len(subjects) > 1 else out, measures)
        exposures[name] = exposure(subject.run)
        subject.unload()
    gaps = differences(outcomes)
    if len(subjects) > 1:
        content = json.dumps(
            comparison(outcomes, gaps) | {"exposure": exposures}, indent=1, ensure_ascii=False, allow_nan=False
        )
        atomic_write(out / "comparison.json", content + "\n")
    print("\n".join(table(outcomes, gaps, exposures)), flush=True)
    return int(any(outcome.status == "failed" for found in outcomes.values() for outcome in found.values()))


def differences(outcomes: Outcomes) -> dict[str, dict[str, Result]]:
    """By later subject and measure: the figures less those of the first, where both have items."""
    (_, first), *rest = outcomes.items()
    gaps: dict[str, dict[str, Result]] = {}
    for name, found in rest:
        gaps[name] = {}
        for measure, outcome in found.items():
            gaps[name][measure] = {
                key: difference(figure, other)
                for key, figure in outcome.result.items()
                if isinstance(figure, Figure)
                and figure.items is not None
                and not key.startswith(("base/", "change/"))
                and isinstance(other := first[measure].result.get(key), Figure)
                and other.items is not None
            }
    return gaps


def comparison(outcomes: Outcomes, gaps: dict[str, dict[str, Result]]) -> dict[str, Any]:
    """The content of comparison.json: `figures` by measure, figure and subject; `differences` from the first subject
    by measure, figure and later subject."""
    measures = list(next(iter(outcomes.values())))

    def side_by_side(results: dict[str, dict[str, Result]]) -> dict[str, Any]:
        found: dict[str, Any] = {measure: {} for measure in measures}
        for name, by_measure in results.items():
            for measure, result in by_measure.items():
                for key, figure in to_json(result).items():
                    found[measure].setdefault(key, {})[name] = figure
        return found

    figures = {name: {m: outcome.result for m, outcome in found.items()} for name, found in outcomes.items()}
    return {
        "format": FORMAT,
        "subjects": list(outcomes),
        "figures": side_by_side(figures),
        "differences": side_by_side(gaps),
    }


def table(
    outcomes: Outcomes, gaps: dict[str, dict[str, Result]], exposures: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """The lines of a markdown table, figures down and subjects across, and below it why figures are absent. Below
    zero-shot figures stands what each subject's training text shows of what they ask (exposure.py).

    The base, where it was measured, has a column of its own, and one subject's change from it another. Figures of
    single layers are only in the files. A difference that is clear (`Figure.clear`) is marked with `*`.
    """
    names = list(outcomes)
    measures = list(next(iter(outcomes.values())))
    with_base = any(key.startswith("base/") for measure in measures for key in outcomes[names[0]][measure].result)
    columns = names + ["base"] * with_base + ["change"] * (with_base and len(names) == 1)
    lines = [f"| measure | figure | {' | '.join(columns)} |", f"|---|---|{'---:|' * len(columns)}"]
    reasons: dict[str, list[str]] = {}
    for measure in measures:
        results = {name: outcomes[name][measure].result for name in names}
        above = len(lines)
        for key in dict.fromkeys(key for result in results.values() for key in result):
            if "layer/" in key or key.startswith(("base/", "change/")):
                continue
            cells = [_cell(results[name].get(key), gaps.get(name, {}).get(measure, {}).get(key)) for name in names]
            cells += [_cell(results[names[0]].get(f"{prefix}/{key}")) for prefix in columns[len(names) :]]
            if any(cell != "-" for cell in cells):
                lines.append(f"| {measure} | {key} | {' | '.join(cells)} |")
            for name, result in results.items():
                if isinstance(figure := result.get(key), Absent):
                    of = f" of {name}" if len(names) > 1 else ""
                    reasons.setdefault(figure.reason, []).append(f"{measure} {key}{of}")
        for key, cells in beside(measure, exposures) if len(lines) > above else ():
            lines.append(f"| {measure} | {key} | {' | '.join([*cells, *['-'] * (len(columns) - len(names))])} |")
    lines += ["", *(f"- absent: {', '.join(what)}: {reason}" for reason, what in reasons.items())]
    failed = [f"{m} of {name}" for name in names for m, outcome in outcomes[name].items() if outcome.status == "failed"]
    return lines + ([f"- FAILED: {', '.join(failed)}"] if failed else [])


def unique(names: Iterable[str]) -> list[str]:
    """The names, each with a number behind it where it was there before."""
    found: list[str] = []
    for name in names:
        number, numbered = 1, name
        while numbered in found:
            number += 1
            numbered = f"{name}-{number}"
        found.append(numbered)
    return found


def _cell(figure: Figure | Absent | None, gap: Figure | Absent | None = None) -> str:
    if not isinstance(figure, Figure):
        return "-"
    if figure.low is None or figure.high is None:
        text = f"{figure.value:.0f}" if figure.value == int(figure.value) else f"{figure.value:.3f}"
    else:
        text = f"{figure.value:z.3f} [{figure.low:z.3f}, {figure.high:z.3f}]"
        if figure.p is not None:  # a change from the base: a share's difference may be clear inside its interval
            text += "*" * figure.clear
    return text + (f" ({gap.value:+z.3f}{'*' * gap.clear})" if isinstance(gap, Figure) else "")
