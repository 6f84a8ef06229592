"""One part of gpu.sh, with its time limit: what it found goes to results.jsonl, all that it said to log.

    python benchmarks/gpu/part.py FOLDER NAME SECONDS COMMAND ...

results.jsonl gets one line for each JSON object that the command printed as a line of its own, {"part": NAME, ...}, and
one at the end: {"part": NAME, "exit_code", "seconds", "last": its last line}, exit code 124 if the time was up. This
command itself always succeeds, so that the parts behind it run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    folder, name, limit, *command = sys.argv[1:]
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (out / "log").open("ab") as log, (out / "results.jsonl").open("a", encoding="utf-8") as results:
        log.write(f"\n===== {name}: {' '.join(command)}\n".encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(float(limit))
        except subprocess.TimeoutExpired:
            code = 124
            os.killpg(process.pid, signal.SIGTERM)  # a training saves then
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        said = (out / "log").read_bytes()[start:].decode(errors="replace").splitlines()
        for line in said:
            if line.startswith("{"):
                results.write(json.dumps({"part": name} | json.loads(line)) + "\n")
        last = next((line for line in reversed(said) if line.strip() and not line.startswith("{")), "")
        told = {"part": name, "exit_code": code, "seconds": round(time.monotonic() - began, 1), "last": last[:300]}
        results.write(json.dumps(told) + "\n")
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
