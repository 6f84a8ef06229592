"""The comparison's table: one line an arm, as Markdown for people and JSON for programs.

    run folders of a grid --> table.json (every figure) --> table.md (the ones to look at)

Figures of an arm are means over its finished seeds; differences to the reference use the seeds that both have.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prealign_cpt.evaluate.statistics import (
    Curve,
    at,
    bytes_to_reach,
    mean_and_deviation,
    mean_over,
    paired_difference,
)
from prealign_cpt.lab.compare.arms import Grid, Job
from prealign_cpt.lab.compare.budget import Plan
from prealign_cpt.lab.compare.results import FINISHED, curve, scores, status
from prealign_cpt.run.manifest import atomic_write

Row = dict[str, Any]


def write_table(folder: Path, grid: Grid, jobs: list[list[Job]]) -> str:
    """Write `table.json` and `table.md` into a folder; return the Markdown.

    Args:
        jobs: those of each recipe.
    """
    tables = [{**_about(grid, found), "arms": _rows(grid, found)} for found in jobs]
    text = "\n".join(_markdown(grid, table) for table in tables)
    atomic_write(folder / "table.json", json.dumps(tables, indent=1) + "\n")
    atomic_write(folder / "table.md", text)
    return text


def _about(grid: Grid, jobs: list[Job]) -> Row:
    return {
        "recipe": jobs[0].base_name,
        "language": jobs[0].recipe.language,
        "base": jobs[0].recipe.base.model,
        "reference": grid.reference,
        "budget": grid.budget,
        "target_bytes": grid.target_bytes,
    }


class _Run:
    """The figures of a finished run."""

    def __init__(self, job: Job) -> None:
        self.seed = job.recipe.seed
        self.budget = Plan.read(job.run)
        self.scores = scores(job.run)
        self.valid = curve(job.run)
        self.curve: Curve = [(self.budget.bytes(row["step"]), row["target_bpb"]) for row in self.valid]

    def windows(self, language: str) -> Any:
        """Nats and bytes of each test window, float64 [W, 2]."""
        return np.array(self.scores["test"]["windows"][language], dtype=np.float64)


def _rows(grid: Grid, jobs: list[Job]) -> list[Row]:
    finished: dict[str, list[_Run]] = {arm.name: [] for arm in grid.arms}
    failed: dict[str, dict[str, str]] = {arm.name: {} for arm in grid.arms}
    switching = {}
    for job in jobs:
        switching[job.arm.name] = job.switching
        state = status(job.run)
        if state == FINISHED:
            finished[job.arm.name].append(_Run(job))
        else:
            failed[job.arm.name][str(job.recipe.seed)] = state
    every = [run.curve for runs in finished.values() for run in runs]
    low = max((c[0][0] for c in every), default=0.0)
    high = min((c[-1][0] for c in every), default=0.0)
    reference = {run.seed: run for run in finished[grid.reference]}
    return [
        {"arm": arm.name, "switching": switching[arm.name], "not_finished": failed[arm.name]}
        | _figures(finished[arm.name], reference, low, high)
        for arm in grid.arms
    ]


def _figures(runs: list[_Run], reference: dict[int, _Run], low: float, high: float) -> Row:
    """Everything about an arm; `low` and `high` bound the bytes that all curves cover."""
    row: Row = {"seeds": [run.seed for run in runs]}
    if not runs:
        return row

    def over_seeds(name: str, of: Callable[[_Run], float | None]) -> None:
        values = [value for run in runs if (value := of(run)) is not None]
        if values:
            mean, deviation = mean_and_deviation(values)
            row[name] = {"mean": mean, "sd": deviation, "values": values}

    over_seeds("steps", lambda run: run.budget.steps)
    over_seeds("bytes", lambda run: run.budget.bytes(run.budget.steps))
    over_seeds("flops", lambda run: run.budget.flops(run.budget.steps))
    over_seeds("align_bytes", lambda run: run.budget.align_bytes)
    over_seeds("align_flops", lambda run: run.budget.align_flops)
    for language in ("target", "english"):
        key = f"{language}_bpb"
        over_seeds(f"valid_{language}_start", lambda run, key=key: run.valid[0][key])  # type: ignore[misc]
        over_seeds(f"valid_{language}_last", lambda run, key=key: run.valid[-1][key])  # type: ignore[misc]
        for name in ("test", "general"):
            over_seeds(f"{name}_{language}", lambda run, key=key, name=name: run.scores.get(name, {}).get(key))  # type: ignore[misc]
    over_seeds("valid_target_mean", lambda run: mean_over(run.curve, low, high))
    over_seeds("retrieval_heldout", lambda run: run.scores.get("retrieval", {}).get("p1"))
    over_seeds("retrieval_seen", lambda run: run.scores.get("retrieval", {}).get("seen_p1"))
    pairs = [(run, reference[run.seed]) for run in runs if run.seed in reference]
    if pairs and all(run is not other for run, other in pairs):
        row |= _against(pairs)
    return row


def _against(pairs: list[tuple[_Run, _Run]]) -> Row:
    """An arm and the reference, seed by seed."""
    row: Row = {}
    for language in ("target", "english"):
        mine = [run.windows(language) for run, _ in pairs]
        theirs = [other.windows(language) for _, other in pairs]
        sizes = mine[0][:, 1]
        if all(len(w) == len(sizes) and (w[:, 1] == sizes).all() for w in [*mine, *theirs]):
            nats = [np.stack([w[:, 0] for w in each]) for each in (mine, theirs)]
            found = paired_difference(nats[0], nats[1], sizes)
            row[f"test_{language}_difference"] = {"mean": found.mean, "low": found.low, "high": found.high}
        else:
            row[f"test_{language}_difference"] = None  # other windows: the arm was scored on other text
    # By seed: bytes until the reference's last figure, as a share of the bytes that the reference took for it.
    reached = [bytes_to_reach(run.curve, other.curve[-1][1]) for run, other in pairs]
    row["share_of_bytes"] = [
        None if found is None else found / other.curve[-1][0] for found, (_, other) in zip(reached, pairs, strict=True)
    ]
    # The largest lead of the reference at a checkpoint of the arm; behind the reference's end, its last figure counts.
    row["worst_on_curve"] = max(value - at(other.curve, place) for run, other in pairs for place, value in run.curve)
    return row


COLUMNS = (
    "arm", "switching", "seeds", "valid: target at step 0", "last", "test: target", "difference [95 %]", "English",
    "P@1 held out / seen", "bytes to the reference's figure", "FLOPs",
)  # fmt: skip


def _markdown(grid: Grid, table: Row) -> str:
    lines = [
        f"## {table['recipe']}: {table['language']}, {table['base']}",
        "",
        f"Bits per byte, mean ± standard deviation over seeds. Budget: {_budget(table)}, the alignment stage included. "
        f"Difference to `{grid.reference}` on the test text, with a 95 % t interval paired over its windows: it covers "
        "the choice of text, not the seed. Bytes: what the arm needs to come down to the reference's last figure on "
        "the validation text, as a share of what the reference took.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "|".join([" --- "] * len(COLUMNS)) + "|",
    ]
    lines += ["| " + " | ".join(_cells(row, len(grid.seeds))) + " |" for row in table["arms"]]
    notes = [
        f"- `{row['arm']}`, seed {seed}: {reason}"
        for row in table["arms"]
        for seed, reason in row["not_finished"].items()
    ]
    return "\n".join([*lines, *(["", "Not finished:", "", *notes] if notes else [])]) + "\n"


def _budget(table: Row) -> str:
    if table["budget"] == "bytes":
        return f"{table['target_bytes']:,} bytes of target text"
    return f"the FLOPs of `{table['reference']}` for {table['target_bytes']:,} bytes of target text"


def _cells(row: Row, num_seeds: int) -> list[str]:
    name = f"`{row['arm']}`" + (" **not finished**" if row["not_finished"] else "")
    heldout, seen = (_number(row.get(f"retrieval_{which}"), 3) for which in ("heldout", "seen"))
    flops = row.get("flops")
    return [
        name,
        "yes" if row["switching"] else "no",
        f"{len(row['seeds'])} of {num_seeds}",
        _number(row.get("valid_target_start")),
        _number(row.get("valid_target_last")),
        _number(row.get("test_target")),
        _difference(row),
        _number(row.get("test_english")),
        f"{heldout} / {seen}",
        _share(row),
        f"{flops['mean']:.3g}" if flops else "–",
    ]


def _number(figure: Row | None, digits: int = 4) -> str:
    if figure is None:
        return "–"
    spread = "" if figure["sd"] is None else f" ± {figure['sd']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{spread}"


def _difference(row: Row) -> str:
    if "test_target_difference" not in row:
        return "–"
    found = row["test_target_difference"]
    if not found:
        return "other text"
    bounds = "no interval" if found["low"] is None else f"{found['low']:+z.4f}, {found['high']:+z.4f}"
    return f"{found['mean']:+z.4f} [{bounds}]"


def _share(row: Row) -> str:
    shares = row.get("share_of_bytes")
    if not shares:
        return "–"
    reached = [share for share in shares if share is not None]
    if len(reached) < len(shares):
        return "never" if not reached else f"never in {len(shares) - len(reached)} of {len(shares)} seeds"
    return f"{sum(reached) / len(reached):.0%}"
