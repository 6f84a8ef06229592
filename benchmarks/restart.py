"""How long a start takes when everything is done, on much text: `python benchmarks/restart.py [--gigabytes 10]`.

A run of the demo's recipe, cut to one step, whose German text has a second file of that size: the demo's own text and
lines of blanks, which every stage reads and none keeps. Then the same command again, three times: wall and CPU seconds,
and the bytes that it read by the kernel's count. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
READ = (
    "import sys, prealign_cpt.cli as c; code = c.main(); print(open('/proc/self/io').read().split()[1]); sys.exit(code)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--work", type=Path, default=Path("restart"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    text = (options.work / "large.txt").resolve()
    if not text.is_file():
        with text.open("w", encoding="utf-8") as file:
            file.write("Am Anfang steht ein Satz.\n\n")
            for _ in range(int(options.gigabytes * 1000)):
                file.write(" " * 999_999 + "\n")
    texts = json.dumps(["cache:bible-de/target.train.txt", str(text)])
    flags = ["--out", str(options.work / "runs"), "--text.target", texts, "--train.steps", "1", "--train.warmup", "0"]
    flags += ["--align.steps", "1", "--evaluate.max_bytes", "1000", "--evaluate.before_training", "false"]
    command = [sys.executable, "-c", READ, "run", str(ROOT / "launch/recipes/demo_de.toml"), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    subprocess.run(command, env=environment, check=True, cwd=ROOT)
    result = {"gigabytes": options.gigabytes, "first_seconds": round(time.monotonic() - began, 1), "starts": []}
    for _ in range(3):
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, env=environment, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        read = int(done.stdout.split()[-1])
        figures = {
            "wall_s": round(time.monotonic() - began, 2),
            "cpu_s": round(cpu, 2),
            "read_mb": round(read / 1e6, 1),
        }
        result["starts"].append(figures)
        assert done.stdout.count("done before, kept") == 8, done.stdout
    print(json.dumps(result))


if __name__ == "__main__":
    main()
