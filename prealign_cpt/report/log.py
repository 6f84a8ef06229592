"""The validations of a training log."""

from pathlib import Path
from typing import Any

from prealign_cpt.report.document import is_number, loads
from prealign_cpt.report.record import Point
from prealign_cpt.run.errors import DataError


def read_curve(run: Path, whose: str, size: float | None, before: float = 0.0) -> tuple[tuple[Point, ...], str, int]:
    """The validations of a training log by step, the reason if there are none, and the number of broken lines.

    Args:
        size: bytes of target text in a token of the log, if known.
        before: bytes of target text that were read before the log begins.
    """
    path = run / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return (), f"{whose}metrics.jsonl is not there", 0
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; check its permissions") from error
    steps: dict[int, dict[str, Any]] = {}
    broken = 0
    for line in filter(str.strip, lines):
        try:
            entry = loads(line)
            # A run that restarts from a checkpoint logs some steps again; the later ones are those that led on.
            steps[int(entry["step"])] = entry
        except (ValueError, TypeError, KeyError):
            broken += 1
    points = tuple(point for step in sorted(steps) if (point := _point(step, steps[step], size, before)) is not None)
    return points, "" if points else f"{whose}metrics.jsonl holds no validation", broken


def _point(step: int, entry: dict[str, Any], size: float | None, before: float) -> Point | None:
    valid, tokens = entry.get("valid"), entry.get("tokens", 0 if step == 0 else None)
    if not isinstance(valid, dict) or tokens is None or not is_number(tokens):
        return None
    target, english = (valid.get(key) if is_number(valid.get(key)) else None for key in ("target_bpb", "english_bpb"))
    if target is None and english is None:
        return None
    return Point(step, int(tokens), None if size is None else before + tokens * size, target, english)
