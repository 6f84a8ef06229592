"""Is training bit by bit what it was at another commit?

    python benchmarks/same_training.py COMMIT RECIPE [--train.steps 6 ...]

Runs the recipe up to training with the code of COMMIT and with the code here, in folders of their own with one cache,
and compares loss and gradient norm of every step, as they were written, and the weights of the last checkpoint. The
exit code is 1 if they differ. The run of COMMIT is kept below --work and is made once.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

ROOT = Path(__file__).resolve().parent.parent


def train(code: Path, recipe: Path, out: Path, flags: list[str]) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of a run with the code of a folder."""
    environment = os.environ | {"PYTHONPATH": str(code)}
    command = [sys.executable, str(code / "launch" / "cpt.py"), str(recipe), "--out", str(out), *flags]
    subprocess.run(command, cwd=code, env=environment, check=True)
    (run,) = [path for path in out.iterdir() if (path / "metrics.jsonl").is_file()]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if row["step"]]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint of a run, optimizer state included."""
    newest = max(out.glob("*/*/step-*"))
    content: dict[str, torch.Tensor] = {}
    _load_state_dict(content, dcp.FileSystemReader(newest), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    flat, rest = {}, [("", content)]
    while rest:
        name, value = rest.pop()
        if isinstance(value, dict):
            rest += [(f"{name}/{key}", inner) for key, inner in value.items()]
        elif isinstance(value, torch.Tensor):
            flat[name] = value
    return flat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--work", type=Path, default=Path("same-training"))
    options, flags = parser.parse_known_args()
    work, recipe = options.work.resolve(), options.recipe.resolve().relative_to(ROOT)
    before = work / "code"
    if not before.is_dir():
        subprocess.run(["git", "worktree", "add", "--detach", str(before), options.commit], cwd=ROOT, check=True)
    then = train(before, before / recipe, work / "then", flags)
    now = train(ROOT, ROOT / recipe, work / "now", flags)
    for old, new in zip(then, now, strict=True):
        print(f"step {old[0]}: loss {old[1]!r} {new[1]!r}  gradient norm {old[2]!r} {new[2]!r}")
    first, second = weights(work / "then"), weights(work / "now")
    differing = [name for name in first | second if not torch.equal(first[name], second[name])]
    same = then == now and not differing
    print(
        f"{len(then)} steps, {len(first)} tensors: {'bit by bit the same' if same else f'they differ {differing[:5]}'}"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
