"""The training loop's figures: a line per step in `metrics.jsonl`, and the summary of the whole.

    figures of each step --Log--> metrics.jsonl --summarize--> summary.json
                              --> trackers.py

A line: `step`, `tokens` (read so far), `targets` (learned in this step), `loss` (nats per target), `lr`, `rows_lr`,
`grad_norm` (before clipping), `skipped` (1: a spike, no update), `tokens_per_second`, `seconds`, and after an
evaluation `valid`. The line of step 0 holds the evaluation before training.
"""

import json
from pathlib import Path
from typing import Any

import torch

from prealign_cpt.model.world import World
from prealign_cpt.run.folder import StageClock, peak_mb, say
from prealign_cpt.train.trackers import Trackers


class Log:
    """`metrics.jsonl`: one JSON object per step; a step that was repeated after a restart stands there twice."""

    def __init__(self, path: Path, active: bool, trackers: Trackers | None = None) -> None:
        self.path, self.active, self.trackers = path, active, trackers
        if active and path.exists() and not path.read_bytes().endswith(b"\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def write(self, figures: dict[str, Any]) -> None:
        """Append a line, hand it to the trackers, and say the evaluations aloud."""
        if not self.active:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        if self.trackers is not None:
            self.trackers.write(figures)
        if "valid" in figures:
            v = figures["valid"]
            speed = f", {figures['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in figures else ""
            say(f"train: step {figures['step']}: " + ", ".join(f"{k} {x:.3f}" for k, x in v.items()) + speed)

    def rows(self) -> list[dict[str, Any]]:
        """All lines but those that a kill tore."""
        rows = []
        for line in self.path.read_text(encoding="utf-8").split("\n"):
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows


def summarize(log: Log, clock: StageClock, world: World) -> dict[str, Any]:
    """The figures of a finished run, on rank 0; {} on the others. Every rank calls this."""
    peak = world.sum(peak_mb())
    on_gpu = world.sum(torch.cuda.max_memory_allocated() / 1e6 if world.device.type == "cuda" else 0.0)
    summary: dict[str, Any] = {}
    if world.rank == 0:
        rows = {row["step"]: row for row in log.rows()}
        steps = [row for row in rows.values() if "seconds" in row]
        summary = {
            "seconds": round(sum(row["seconds"] for row in steps), 1),
            "wall_seconds_last_start": clock.figures()["seconds"],
            "peak_mb": round(peak, 1),
            **({"peak_gpu_mb": round(on_gpu, 1)} if on_gpu else {}),
            "ranks": world.size,
            "tokens": max(row["tokens"] for row in rows.values()),
            "skipped": sum(row["skipped"] for row in steps),
            "tokens_per_second": round(sorted(row["tokens_per_second"] for row in steps)[len(steps) // 2], 1),
        }
    return summary
