"""What came of the runs: points of their curves for programs, and a table for people.

    RUN/{run_state.json, budget.json, metrics.jsonl, eval/report.json} --> points.jsonl  one JSON object a point
                                                                       --> table.json    every figure over seeds
                                                                       --> table.md      the ones to look at

A point has `language`, `base`, `variant`, `switching`, `seed`, `run`, `stage`, `step`, `bytes` and `flops` (both
cumulative, the stages before training included, and what they are made of: budget.py), `target_bpb`, `english_bpb` and
`set`. Stage "text" is a run with equal text, "compute" one with equal FLOPs: set "valid" for each validation while
training, "test" for the finished model, with further figures where the evaluation has them. Stage "before" is the model
before training, extended or not, on both sets: once for each variant and seed, if `evaluate.before_training`. Points of
set "test" have the tokenizer's figures too (spelling.py).

A row of table.json holds the figures of the `first` and `last` validation, of the `test` and of the test `before`
training, with their mean and standard deviation over the variant's finished seeds; differences to the reference use the
seeds that both have. There is one table for each recipe and budget.
"""

import fcntl
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.evaluate.statistics import Curve, bytes_to_reach, mean_and_deviation, paired_difference
from prealign_cpt.lab.compare.budget import Plan
from prealign_cpt.lab.compare.spelling import spelling
from prealign_cpt.lab.compare.variants import Grid, RunSpec
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.train.metrics import Log

FINISHED, UNFINISHED = "finished", "not finished"

STAGES = {"bytes": "text", "flops": "compute"}
"""A point's stage by the budget of its run."""

BITS = ("target_bpb", "english_bpb")

EXTRA = {
    "retrieval_heldout": ("retrieval", "p1"),
    "retrieval_seen": ("retrieval", "seen_p1"),
    "general_target_bpb": ("general", "target_bpb"),
    "general_english_bpb": ("general", "english_bpb"),
    "clka": ("clka", "groups", "english_only/clone", "accuracy"),
    "clka_same": ("clka", "groups", "english_only/english", "accuracy"),
    "clka_none": ("clka", "groups", "none/clone", "accuracy"),
    "clka_transfer": ("clka", "transfer", "english_to_clone"),
    "transfer": ("transfer", "acc_target"),
    "transfer_english": ("transfer", "acc_english"),
    "mixed_output": ("mixed", "target"),
    "mixed_output_english": ("mixed", "english"),
}
"""Further figures of a test point and where the scores have them; each is there only if it was measured."""

Row = dict[str, Any]


def status(run: Path) -> str:
    """`finished`, or in one line why not."""
    try:
        state = json.loads((run / "run_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "not started"
    if state["status"] == FINISHED:
        return FINISHED if (run / "eval" / "report.json").is_file() else UNFINISHED
    if state["status"] == "running":
        return UNFINISHED
    return " ".join(f"{state['status']}: {state.get('reason', 'no reason was given')}".split())


class FinishedRun:
    """The figures of a finished run.

    Attributes:
        points: those of the validations in the order of their steps, and last that of the test.
        before: those of the model before training, if it was scored; the last is that of the test.

    Raises:
        DataError: a file of the run is damaged.
    """

    def __init__(self, spec: RunSpec) -> None:
        budget = Plan.read(spec.run)
        report = spec.run / "eval" / "report.json"
        try:
            models: Row = json.loads(report.read_text(encoding="utf-8"))["models"]
            self.scores: Row = models["trained"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{report}: damaged; start {spec.run.name} again with --redo eval") from error
        logged = Log(spec.run / "metrics.jsonl", active=False).rows()
        valid = {row["step"]: row["valid"] for row in logged if "valid" in row}  # a repeated step counts as it was last
        rows = [{"step": step, **valid[step], "set": "valid"} for step in sorted(valid)]
        test = {key: self.scores["test"][key] for key in BITS}
        test |= {name: value for name, place in EXTRA.items() if (value := self._score(*place)) is not None}
        rows.append({"step": budget.steps, **test, "set": "test"})
        about = {
            "language": spec.recipe.language,
            "base": spec.recipe.base.model,
            "variant": spec.variant,
            "switching": spec.switching,
            "seed": spec.recipe.seed,
            "run": spec.run.name,
        }
        tokens = spelling(spec.recipe, spec.run / "align")

        def point(stage: str, row: Row) -> Row:
            own = tokens if row["set"] == "test" else {}
            return {**about, "stage": stage, "step": row["step"], **budget.costs(row["step"]), **row, **own}

        self.points = [point(STAGES[spec.budget], row) for row in rows]
        untrained = models.get("aligned" if spec.recipe.vocab.size else "base", {})
        self.before = [
            point("before", {"step": 0, **{key: untrained[name][key] for key in BITS}, "set": name})
            for name in ("valid", "test")
            if name in untrained and spec.recipe.evaluate.before_training
        ]
        self.curve: Curve = [(point["bytes"], point["target_bpb"]) for point in self.points[:-1]]

    def _score(self, *place: str) -> Any:
        value: Any = self.scores
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def windows(self, language: str) -> NDArray[np.float64]:
        """Nats and bytes of each test window, float64 [W, 2]."""
        return np.array(self.scores["test"]["windows"][language], dtype=np.float64)


def write_points(path: Path, specs: list[RunSpec]) -> None:
    """Put the points of the finished runs into a file; what it holds of other runs stays.

    Raises:
        DataError: the file holds a line that is not a JSON object.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {spec.run.name for spec in specs}
    finished = [FinishedRun(spec) for spec in specs if status(spec.run) == FINISHED]
    new = [json.dumps(point) for run in finished for point in [*run.before, *run.points]]
    # Two comparisons may share a file; each must see what the other has written.
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for number, line in enumerate(lines, start=1) if _run_of(line, path, number) not in names]
        atomic_write(path, "".join(f"{line}\n" for line in [*filter(str.strip, kept), *new]))


def _run_of(line: str, path: Path, number: int) -> str | None:
    """The run that a line of the points' file belongs to."""
    try:
        return dict(json.loads(line)).get("run") if line.strip() else None
    except (ValueError, TypeError) as error:
        remedy = "mend or remove the line, or give another --out"
        raise DataError(f"{path}:{number}: not a JSON object; {remedy}") from error


def write_table(folder: Path, grid: Grid, specs: list[list[RunSpec]]) -> str:
    """Write `table.json` and `table.md` into a folder; return the Markdown.

    Args:
        specs: those of each recipe.
    """
    tables = [
        {
            "recipe": of_recipe[0].recipe_name,
            "language": of_recipe[0].recipe.language,
            "base": of_recipe[0].recipe.base.model,
            "reference": grid.reference,
            "budget": budget,
            "target_bytes": grid.target_bytes,
            "variants": _rows(grid, [spec for spec in of_recipe if spec.budget == budget]),
        }
        for of_recipe in specs
        for budget in grid.budgets
    ]
    text = "\n".join(_markdown(table, len(grid.seeds)) for table in tables)
    atomic_write(folder / "table.json", json.dumps(tables, indent=1) + "\n")
    atomic_write(folder / "table.md", text)
    return text


def _rows(grid: Grid, specs: list[RunSpec]) -> list[Row]:
    finished: dict[str, dict[int, FinishedRun]] = {name: {} for name in grid.variants}
    rows: dict[str, Row] = {}
    for spec in specs:
        name, seed, state = spec.variant, spec.recipe.seed, status(spec.run)
        row = rows.setdefault(name, {"variant": name, "switching": spec.switching, "not_finished": {}})
        if state == FINISHED:
            finished[name][seed] = FinishedRun(spec)
        else:
            row["not_finished"][str(seed)] = state
    reference = finished[grid.reference]
    for name, runs in finished.items():
        row = rows[name]
        row["seeds"] = list(runs)
        for key, place in (("first", 0), ("last", -2), ("test", -1)):
            row[key] = _over_seeds([run.points[place] for run in runs.values()])
        row["before"] = _over_seeds([run.before[-1] for run in runs.values() if run.before])
        pairs = [(run, reference[seed]) for seed, run in runs.items() if seed in reference]
        if pairs and name != grid.reference:
            row |= _against(pairs)
    return [rows[name] for name in grid.variants]


def _over_seeds(points: list[Row]) -> Row:
    """Mean, standard deviation and values of each figure that was measured."""
    figures: Row = {}
    for key in dict.fromkeys(key for point in points for key in point):
        values = [point[key] for point in points if key in point]
        if key not in ("seed", "switching") and not isinstance(values[0], str):
            mean, deviation = mean_and_deviation(values)
            figures[key] = {"mean": mean, "sd": deviation, "values": values}
    return figures


def _against(pairs: list[tuple[FinishedRun, FinishedRun]]) -> Row:
    """A variant and the reference, seed by seed."""
    row: Row = {}
    for language in ("target", "english"):
        windows = [[run.windows(language) for run in side] for side in zip(*pairs, strict=True)]
        bytes_W = windows[0][0][:, 1]
        if all(np.array_equal(run_W2[:, 1], bytes_W) for side in windows for run_W2 in side):
            nats_SW, other_SW = (np.stack([run_W2[:, 0] for run_W2 in side]) for side in windows)
            row[f"test_{language}_difference"] = asdict(paired_difference(nats_SW, other_SW, bytes_W))
        else:
            row[f"test_{language}_difference"] = None  # other windows: the variant was scored on other text
    # By seed: bytes until the reference's last figure, as a share of the bytes that the reference took for it.
    reached = [bytes_to_reach(run.curve, other.curve[-1][1]) for run, other in pairs]
    row["share_of_bytes"] = [
        None if count is None else count / other.curve[-1][0] for count, (_, other) in zip(reached, pairs, strict=True)
    ]
    return row


def _markdown(table: Row, num_seeds: int) -> str:
    equal, budget = "equal text", f"training reads {table['target_bytes']:,} bytes of target text"
    if table["budget"] == "flops":
        equal = "equal compute"
        budget = f"the FLOPs of `{table['reference']}` whose {budget}, the stages before training counted"
    lines = [
        f"## {table['recipe']}: {table['language']}, {table['base']}, {equal}",
        "",
        f"Bits per byte, mean ± standard deviation over seeds. Budget: {budget}. Difference to `{table['reference']}` "
        "on the test text, with a 95 % interval over windows and seeds. Bytes: what the variant needs to come down to "
        "the reference's last figure on the validation text, as a share of what the reference took. Passes over the "
        "text and FLOPs (rows + alignment + training) are those of all stages.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
    ]
    for row in table["variants"]:
        cells = {**row, "num_seeds": num_seeds}
        lines.append("| " + " | ".join(column(cells) for column in COLUMNS.values()) + " |")
    notes = [
        f"- `{row['variant']}`, seed {seed}: {reason}"
        for row in table["variants"]
        for seed, reason in row["not_finished"].items()
    ]
    return "\n".join([*lines, *(["", "Not finished:", "", *notes] if notes else [])]) + "\n"


def _number(figures: Row, name: str, digits: int = 4) -> str:
    if name not in figures:
        return "–"
    mean, deviation = figures[name]["mean"], figures[name]["sd"]
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def _retrieval(row: Row) -> str:
    return " / ".join(_number(row["test"], f"retrieval_{words}", digits=3) for words in ("heldout", "seen"))


def _difference(row: Row) -> str:
    if "test_target_difference" not in row:
        return "–"
    difference = row["test_target_difference"]
    if not difference:
        return "other text"
    low, high = difference["low"], difference["high"]
    return f"{difference['mean']:+z.4f} [{'no interval' if low is None else f'{low:+z.4f}, {high:+z.4f}'}]"


def _share(row: Row) -> str:
    shares = row.get("share_of_bytes", [])
    reached = [share for share in shares if share is not None]
    if len(reached) < len(shares):
        return "never" if not reached else f"never in {len(shares) - len(reached)} of {len(shares)} seeds"
    return f"{sum(reached) / len(reached):.0%}" if shares else "–"


def _tokens(test: Row) -> str:
    return f"{test['tokens_per_word']['mean']:.2f} ({test['share_of_base_tokens']['mean']:.0%})" if test else "–"


def _flops(test: Row) -> str:
    parts = [f"{test[f'flops_{part}']['mean']:.2g}" for part in ("rows", "alignment", "training")] if test else []
    return f"{test['flops']['mean']:.3g} ({' + '.join(parts)})" if test else "–"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "variant": lambda row: f"`{row['variant']}`" + (" **not finished**" if row["not_finished"] else ""),
    "switching": lambda row: "yes" if row["switching"] else "no",
    "seeds": lambda row: f"{len(row['seeds'])} of {row['num_seeds']}",
    "valid: target at step 0": lambda row: _number(row["first"], "target_bpb"),
    "last": lambda row: _number(row["last"], "target_bpb"),
    "test: before training": lambda row: _number(row["before"], "target_bpb"),
    "target": lambda row: _number(row["test"], "target_bpb"),
    "difference [95 %]": _difference,
    "English": lambda row: _number(row["test"], "english_bpb"),
    "P@1 held out / seen": _retrieval,
    "bytes to the reference's figure": _share,
    "tokens a word (of the base's)": lambda row: _tokens(row["test"]),
    "passes": lambda row: _number(row["test"], "passes", digits=2),
    "FLOPs": lambda row: _flops(row["test"]),
}
"""Of table.md: title, and the cell of a row."""
