"""When was it learned? Every kept step of a run by the measures of `prealign eval`, one model at a time.

    align/ (step 0), train/{kept/step-…, the last} --export, measure--> trajectory/step-…/MEASURE.json
                                                    --derive, table---> trajectory/trajectory.json, text

Blevins et al. (arXiv 2205.11758) found on checkpoints of XLM-R that skills come at different times, and that the last
layers lose what the lower ones come to know. So every layer is looked at; layer 0 is the embeddings.
Shapes: S steps, L+1 layers.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from prealign_cpt.evaluate.data import EvaluationData, data_from
from prealign_cpt.evaluate.figures import Absent, Figure, Outcome
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.suite import run_suite
from prealign_cpt.export.kept import export_step
from prealign_cpt.recipe.file import recipe_of
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.run.folder import alone, say
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.text.lines import read_lines
from prealign_cpt.train.checkpoint import kept

FORMAT = 1
"""Version of trajectory.json."""

NEAR = 0.98
"""A step has reached the best if it has so much of it."""

MEASURES = ("language_model", "words", "sentences", "transfer")


@dataclass(frozen=True)
class Asked:
    """A figure that is followed over the steps."""

    title: str
    measure: str
    figures: tuple[str, ...]
    """Their mean is taken; of `layers`, of each layer, whose number stands in place of "*"."""
    layers: bool = True
    lower: bool = False
    """Whether less is better."""


ASKED = {
    "target_bpb": Asked("target bpb", "language_model", ("target/{set}/bits_per_byte",), layers=False, lower=True),
    "english_bpb": Asked("English bpb", "language_model", ("english/{set}/bits_per_byte",), layers=False, lower=True),
    "words": Asked(
        "words P@1", "words", ("english_to_target/layer/*/p1_csls", "target_to_english/layer/*/p1_csls")
    ),
    "sentences": Asked("sentences", "sentences", ("layer/*/mexa",)),
    "transfer_english": Asked("transfer, English", "transfer", ("layer/*/acc_english",)),
    "transfer_target": Asked("transfer, target", "transfer", ("layer/*/acc_target",)),
}  # fmt: skip


def trajectory(run: Path, flags: dict[str, Any]) -> str:
    """Measure the aligned model, every milestone and the last step; write `RUN/trajectory/trajectory.json`; the table.

    What was measured before from the same is kept.

    Args:
        flags: fields of `EvaluationData` in place of the recipe's: `parallel`, `languages`, `max_bytes`, `max_items`.

    Raises:
        MissingInputError: nothing was kept.
        DataError: a measure failed; it is named.
        BusyError: another evaluation works in the folder.
        as `export_step`.
    """
    recipe, out = recipe_of(run), run / "trajectory"
    steps = [step for step in kept(run) if recipe.train.is_milestone(step) or step == recipe.train.steps]
    if not steps or not (run / "align").is_dir():
        raise MissingInputError(f'{run / "train"}: no step is kept there; train with train.save_at = "log"')
    with alone(out, "eval.lock", "evaluation"):
        data = data_of_run(recipe, out, flags)
        found = {step: _measured(recipe, step, data, out) for step in (0, *steps)}
    content = {"format": FORMAT, "run": recipe.name, "language": recipe.language, **_series(found, data)}
    atomic_write(out / "trajectory.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    return table(content)


def data_of_run(recipe: Recipe, out: Path, flags: dict[str, Any]) -> EvaluationData:
    """A run's evaluation data: of each language one held-out text, "test" where there is one; and parallel lines, those
    of the flags, or else those of the recipe that alignment may have read."""
    data = data_from(recipe, recipe.run, flags)
    data = dataclasses.replace(data, target=_main(data.target), english=_main(data.english))
    sides = [getattr(recipe.text, f"parallel_{side}") for side in ("english", "target")]
    if data.parallel is None and all(sides):
        lines = zip(*(read_lines(recipe.path(side)) for side in sides), strict=False)
        pairs = ([text.replace("\t", " ").strip() for _, text in pair] for pair in lines)
        chosen = islice((pair for pair in pairs if all(pair)), data.max_items)
        atomic_write(out / "parallel.tsv", "".join(f"{english}\t{target}\n" for english, target in chosen))
        data = dataclasses.replace(data, parallel=out / "parallel.tsv")
    return data


def _main(sets: tuple[tuple[str, Path], ...]) -> tuple[tuple[str, Path], ...]:
    return tuple(sorted(sets, key=lambda one: one[0] != "test")[:1])


@contextmanager
def folder_of(recipe: Recipe, step: int, out: Path) -> Iterator[Path]:
    """The model after a step as a folder, which is removed afterwards; step 0 is what training began with."""
    if step == 0:
        yield recipe.run / "align"
        return
    target = out / "model"
    for left in (target, out / "model.rejected"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        yield export_step(recipe, step, target)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def subject_of(recipe: Recipe, folder: Path, name: str) -> Subject:
    """A model of the run, as its own evaluation reads it."""
    return Subject(
        folder, name=name, device=recipe.device, dtype=recipe.train.precision, start_token=recipe.base.start_token
    )


def _measured(recipe: Recipe, step: int, data: EvaluationData, out: Path) -> dict[str, Outcome]:
    with folder_of(recipe, step, out) as folder:
        subject = subject_of(recipe, folder, f"step {step}")
        outcomes = run_suite(subject, data, out / f"step-{step:010}", MEASURES)
        subject.unload()
    (out / f"step-{step:010}" / "eval.lock").unlink()
    for name, outcome in outcomes.items():
        if outcome.status == "failed":
            reason = next(one.reason for one in outcome.result.values() if isinstance(one, Absent))
            raise DataError(f"trajectory: {name} at step {step}: {reason}")
    say(f"trajectory: step {step}: measured")
    return outcomes


def _series(found: dict[int, dict[str, Outcome]], data: EvaluationData) -> dict[str, Any]:
    """Of every figure that is there its values, [S] or [S][L+1], and what follows from them; of the others why not."""
    series: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, asked in ASKED.items():
        result = {step: outcomes[asked.measure].result for step, outcomes in found.items()}
        names = [one.format(set=(getattr(data, one.split("/")[0]) or [("", "")])[0][0]) if "{" in one else one
                 for one in asked.figures]  # fmt: skip
        values = [_by_layer(figures, names) if asked.layers else _mean(figures, names) for figures in result.values()]
        if any(value is None for value in values):
            reasons = [one.reason for one in result[0].values() if isinstance(one, Absent)]
            absent[name] = reasons[0] if reasons else "not measured"
            continue
        series[name] = {
            "title": asked.title,
            "lower": asked.lower,
            "values": values,
            **derived([*found], values, asked.lower),
        }
    return {"steps": [*found], "series": series, "absent": absent}


def _mean(figures: Any, names: list[str]) -> float | None:
    values = [one.value for name in names if isinstance(one := figures.get(name), Figure)]
    return sum(values) / len(values) if len(values) == len(names) else None


def _by_layer(figures: Any, names: list[str]) -> list[float] | None:
    values: list[float] = []
    while (one := _mean(figures, [name.replace("*", str(len(values))) for name in names])) is not None:
        values.append(one)
    return values or None


def derived(steps: list[int], values: list[Any], lower: bool) -> dict[str, Any]:
    """`best`, `best_step`; `reached`: the first step with `NEAR` of the best; `forgotten`: how much worse the last step
    is than the best. By layers the best layer of each step counts, `layers` (the lowest of equals), and
    `forgotten_last_layer` is of the last layer alone.

    Args:
        values: of each step a number, or one of each layer.
        lower: whether less is better.
    """
    sign = -1.0 if lower else 1.0
    by_layer = isinstance(values[0], list)
    tops = [max(row) if by_layer else row for row in values]
    best = max(tops, key=lambda value: sign * value)
    near = best / NEAR if lower else NEAR * best
    found: dict[str, Any] = {
        "best": best,
        "best_step": steps[tops.index(best)],
        "reached": next(step for step, top in zip(steps, tops, strict=True) if sign * top >= sign * near),
        "forgotten": sign * (best - tops[-1]),
    }
    if by_layer:
        found["layers"] = [row.index(max(row)) for row in values]
        found["forgotten_last_layer"] = max(row[-1] for row in values) - values[-1][-1]
    return found


def rows(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """Head and lines of the table: steps down and figures across, in brackets the layer that is best at that step;
    below what follows from them."""
    series = content["series"].values()
    lines = [("step", *(one["title"] for one in series))]
    for place, step in enumerate(content["steps"]):
        lines.append((str(step), *(_cell(one, place) for one in series)))
    for title, key in (
        ("98 % of the best at step", "reached"),
        ("best less last", "forgotten"),
        ("the same, last layer", "forgotten_last_layer"),
    ):
        values = [one.get(key, "-") for one in series]
        lines.append((title, *(f"{value:z.3f}" if isinstance(value, float) else str(value) for value in values)))
    return lines


def table(content: dict[str, Any]) -> str:
    """The table for a terminal, and why figures are absent."""
    absent = [f"- absent: {name}: {reason}" for name, reason in content["absent"].items()]
    return "\n".join([markdown(rows(content)), *[""] * bool(absent), *absent])


def markdown(lines: list[tuple[str, ...]]) -> str:
    """A table of a head and lines."""
    head, *body = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---", *("---:",) * (len(head) - 1)), *body))


def _cell(one: dict[str, Any], place: int) -> str:
    if "layers" not in one:
        return f"{one['values'][place]:.3f}"
    layer = one["layers"][place]
    return f"{one['values'][place][layer]:.3f} ({layer})"
