"""What an audit takes: seconds, rate and memory of `prealign audit --filter`, by size of the text.

python benchmarks/audit.py RECIPE --megabytes 0 24 96 --workers 2 --out benchmarks/results/audit.jsonl

texts of RECIPE, 0: as they are; else turned round in each copy (prepare.py), to so many megabytes, half of each side
--prealign audit--> wall and processor seconds, largest resident process
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from prepare import write

from prealign_cpt.recipe.file import anywhere, as_toml, load_recipe
from prealign_cpt.recipe.schema import Recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/audit"), help="folder that is made, and removed")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipe = anywhere(load_recipe(options.recipe))
    for size in sorted(options.megabytes):  # the largest process of a later one is not that of an earlier one
        shutil.rmtree(options.work, ignore_errors=True)
        result = measure(recipe, size * 1_000_000, options.workers, options.work)
        shutil.rmtree(options.work)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps(result, indent=1))


def measure(recipe: Recipe, size: int, workers: int, work: Path) -> dict[str, object]:
    """The figures of one size; 0: the texts as they are."""
    sides = {}
    for side in ("target", "english"):
        names = getattr(recipe.text, side)
        files = write(recipe.paths(names), size // 2, work / side) if size else names
        sides[side] = tuple(str(Path(file).absolute()) if size else str(file) for file in files)
    text = dataclasses.replace(recipe.text, **sides)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "recipe.toml"
    path.write_text(as_toml(dataclasses.replace(recipe, text=text, out=str(work.absolute()))), encoding="utf-8")
    command = ["audit", str(path), "--filter", str(work / "clean"), "--workers", str(workers)]
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "prealign_cpt", *command], check=True)
    seconds, after = time.monotonic() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    audit = json.loads((work / recipe.name / "audit/audit.json").read_text(encoding="utf-8"))
    read = sum(one["bytes"] for one in audit["texts"].values())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": commit.stdout.strip(),
        "hardware": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": {name: version(name) for name in ("tokenizers", "py3langid", "numpy", "regex")},
        "bytes": read,
        "workers": workers,
        "seconds": round(seconds, 1),
        "processor_seconds": round(spent, 1),
        "processor_seconds_a_megabyte": round(spent / read * 1e6, 2),
        "largest_process_mb": round(after.ru_maxrss * 1024 / 1e6),
        "command": " ".join(["python", "benchmarks/audit.py", *sys.argv[1:]]),
    }


if __name__ == "__main__":
    main()
