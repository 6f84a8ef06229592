"""What came of a run: its status, its learning curve and its test figures, as points in a JSONL file.

    RUN/{run_state.json, budget.json, metrics.jsonl, eval/report.json}  -->  points.jsonl, one JSON object a point

A point has `language`, `base`, `arm`, `switching`, `seed`, `run`, `step`, `bytes` and `flops` (both cumulative, the
alignment stage included), `target_bpb`, `english_bpb` and `set`: "valid" for each validation while training, "test"
for the finished model, which has further figures where the evaluation has them.
"""

import fcntl
import json
from pathlib import Path
from typing import Any

from prealign_cpt.lab.compare.arms import Job
from prealign_cpt.lab.compare.budget import Plan
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.train.metrics import Log

FINISHED, UNFINISHED = "finished", "not finished"

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
"""Further figures of a test point and where eval/report.json has them; each is there only if it was measured."""


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


def scores(run: Path) -> dict[str, Any]:
    """The figures of a finished run's exported model.

    Raises:
        DataError: the report is damaged.
    """
    path = run / "eval" / "report.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["models"]["trained"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged; start {run.name} again with --redo eval") from error


def curve(run: Path) -> list[dict[str, Any]]:
    """`step`, `target_bpb` and `english_bpb` of each validation, in order; a repeated step counts as it was last."""
    rows = {row["step"]: row for row in Log(run / "metrics.jsonl", active=False).rows() if "valid" in row}
    return [{"step": step, **rows[step]["valid"]} for step in sorted(rows)]


def points(job: Job) -> list[dict[str, Any]]:
    """All points of a finished run."""
    budget, final = Plan.read(job.run), scores(job.run)
    about = {
        "language": job.recipe.language,
        "base": job.recipe.base.model,
        "arm": job.arm.name,
        "switching": job.switching,
        "seed": job.recipe.seed,
        "run": job.run.name,
    }
    test = {key: final["test"][key] for key in ("target_bpb", "english_bpb")}
    for name, place in EXTRA.items():
        value: Any = final
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            test[name] = value
    rows = [{**row, "set": "valid"} for row in curve(job.run)] + [{"step": budget.steps, **test, "set": "test"}]
    return [
        about | {"step": row["step"], "bytes": budget.bytes(row["step"]), "flops": budget.flops(row["step"])} | row
        for row in rows
    ]


def write_points(path: Path, jobs: list[Job]) -> None:
    """Put the points of the finished runs into a file; what it holds of other runs stays.

    Raises:
        DataError: the file holds a line that is not a JSON object.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {job.run.name for job in jobs}
    found = [point for job in jobs if status(job.run) == FINISHED for point in points(job)]
    # Two comparisons may share a file; each must see what the other has written.
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = [line for line in _lines(path) if json.loads(line).get("run") not in own]
        atomic_write(path, "".join(f"{line}\n" for line in [*kept, *map(json.dumps, found)]))


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            whole = isinstance(json.loads(line), dict)
        except ValueError:
            whole = False
        if not whole:
            raise DataError(f"{path}:{number}: not a JSON object; mend or remove the line, or give another --out")
    return lines
