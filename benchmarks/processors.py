"""How much do figures differ between processors? One run's training and export again under other instruction sets.

    python benchmarks/processors.py launch/recipes/demo_de.toml --runs runs --out benchmarks/results/processors.jsonl

`runs` holds the finished run of the recipe, whose stages before training are taken as they are. oneDNN and PyTorch are
told to use no more than an older processor has (ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY), with one thread and with
two, so the differences are those of the kernels' rounding. Further flags are keys of the recipe, such as
--train.steps 8. A variant that is finished is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

VARIANTS: dict[str, dict[str, str]] = {
    "default, 2 threads": {"OMP_NUM_THREADS": "2"},
    "default, 1 thread": {"OMP_NUM_THREADS": "1"},
    "AVX512_CORE_BF16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "OMP_NUM_THREADS": "2"},
    "AVX512_CORE": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OMP_NUM_THREADS": "2"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2"},
    "AVX2, ATen too": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"},
}


def measure(recipe: Path, runs: Path, name: str, environment: dict[str, str], flags: list[str]) -> dict[str, Any]:
    """Train and export one variant; its figures."""
    run = runs / f"processor-{name.replace(', ', '-').replace(' ', '-')}"
    command = [sys.executable, "-m", "prealign_cpt", "export", str(recipe), "--out", str(runs), "--name", run.name]
    began = time.monotonic()
    done = subprocess.run([*command, "--reuse", str(runs), *flags], cwd=ROOT, env={**os.environ, **environment})
    found: dict[str, Any] = {"variant": name, "exit_code": done.returncode, "seconds": round(time.monotonic() - began)}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["valid"] = [{"step": row["step"], **row["valid"]} for row in rows if row.get("valid")]
    found["grad_norm"] = [round(row["grad_norm"], 2) for row in rows if "grad_norm" in row]
    for folder in ("export", "export.rejected"):
        if (run / folder / "parity.json").is_file():
            found["parity"] = json.loads((run / folder / "parity.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    options, flags = parser.parse_known_args()
    there = options.out.read_text().splitlines() if options.out.is_file() else []
    done = {json.loads(line)["variant"] for line in there}
    for name in options.only:
        if name not in done:
            found = measure(options.recipe.resolve(), options.runs.resolve(), name, VARIANTS[name], flags)
            with options.out.open("a") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
