"""benchmarks/gpu.sh: its parts run by themselves, and one that fails or hangs stops no other."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_part_writes_what_it_found(tmp_path: Path) -> None:
    subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh", "--device", "cpu", "--tiny", "--only", "about"],
        env=os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable}, check=True, timeout=120,
    )  # fmt: skip
    found, ended = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert found["part"] == ended["part"] == "about" and found["torch"] and ended["exit_code"] == 0


def test_a_part_that_fails_or_takes_too_long_is_told(tmp_path: Path) -> None:
    for name, code in {
        "fails": "raise SystemExit(3)",
        "hangs": "import time; print('{\"a\": 1}', flush=True); time.sleep(60)",
    }.items():
        part = [
            sys.executable,
            ROOT / "benchmarks" / "gpu" / "part.py",
            tmp_path,
            name,
            "1",
            sys.executable,
            "-c",
            code,
        ]
        subprocess.run(part, check=True, timeout=40)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(one["part"], one.get("exit_code")) for one in lines] == [("fails", 3), ("hangs", None), ("hangs", 124)]
