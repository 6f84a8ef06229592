"""Tasks of EleutherAI's lm-evaluation-harness on the served model.

    canary (canary.py) --> child process (lm_harness_run.py) --> figures, or why there are none

The harness has its own process: it must not be able to fetch anything, which is decided before its imports.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from prealign_cpt.evaluate.canary import Served, check_served
from prealign_cpt.evaluate.figures import Absent, Figure, Result, bootstrap
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.work import NoDataError, Work
from prealign_cpt.run.errors import UnavailableError
from prealign_cpt.serving import client
from prealign_cpt.serving.key import VARIABLE

DEFAULT_LENGTH = 2048
"""Of the context, where the configuration does not say."""

Z = 1.959964


def measure(subject: Subject, work: Work) -> Result:
    """`canary` (largest difference of a log-probability, nats) and `TASK/METRIC` for each task and metric.

    Raises:
        NoDataError: no task is named, or nothing is served.
        DataError: the canary fails.
        UnavailableError: the server does not answer, or the harness fails.
    """
    if not work.lm_eval_tasks:
        raise NoDataError("no task of lm-eval is named; name some with --lm-eval")
    if find_spec("lm_eval") is None:
        return dict.fromkeys(work.lm_eval_tasks, Absent('lm-eval is not installed: pip install "prealign-cpt[eval]"'))
    if not subject.url:
        raise NoDataError("lm-eval asks a served model; start `prealign serve` and give its address with --url")
    served = check_served(subject)
    request = request_of(subject, work, served)
    result: Result = {
        "canary": Figure(served.difference, note="nats, served against local; below 0.01, or what bf16 explains")
    }
    for task, answer in _ask(request, subject.key).items():
        result |= {task: Absent(answer["absent"])} if "absent" in answer else _figures(task, answer)
    return result


def request_of(subject: Subject, work: Work, served: Served) -> dict[str, Any]:
    """The child's `Request`."""
    own = int(getattr(subject.model.config, "max_position_embeddings", DEFAULT_LENGTH))
    return {
        "url": subject.url,
        "model": served.name,
        "tokenizer": str(subject.folder.resolve()),
        "start_token_id": subject.start_token_id,
        "max_length": min(served.length, own),
        "tasks": list(work.lm_eval_tasks),
        "path": str(work.lm_eval_path.resolve()) if work.lm_eval_path else "",
        "limit": work.max_items,
        "attempts": client.RETRIES + 1,
        "timeout": client.TIMEOUT,
        "seed": work.seed,
    }


def _ask(request: dict[str, Any], key: str) -> dict[str, Any]:
    """Run the child and read its answer.

    Raises:
        UnavailableError: it failed.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if key:
        environment[VARIABLE] = key
    host = urlsplit(request["url"]).hostname or ""
    if client.is_loopback(host):  # a proxy from the environment must not stand between
        environment |= {name: f"{environment.get(name, '')},{host}".strip(",") for name in ("NO_PROXY", "no_proxy")}
    with tempfile.TemporaryDirectory(prefix="prealign-lm-eval-") as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "prealign_cpt.evaluate.harness.lm_harness_run", str(asked), str(answered)]
        child = subprocess.Popen(command, env=environment, stdout=sys.stderr)
        try:
            code = child.wait()
        finally:  # also when a signal raised
            if child.poll() is None:
                child.kill()
                child.wait()
        if code != 0 or not answered.is_file():
            raise UnavailableError(f"lm-eval ended with exit code {code} and no figures; its own words stand above")
        answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
    if "error" in answer:
        raise UnavailableError(f"lm-eval failed: {answer['error']}; see the server's log, and start again")
    return answer


def _figures(task: str, answer: dict[str, Any]) -> Result:
    note = f"lm-eval; the first {answer['asked']} of {answer['all']}" if answer["asked"] != answer["all"] else "lm-eval"
    return {f"{task}/{name}": _figure(one, answer["asked"], note) for name, one in answer["metrics"].items()}


def _figure(one: dict[str, Any], asked: int | None, note: str) -> Figure:
    """With the items where the metric is their mean, or a ratio of their sums (bits per byte); else with the harness's
    standard error."""
    value, error = float(one["value"]), one["error"]
    if one["items"]:
        items = np.array(one["items"], dtype=np.float64)
        if items.ndim == 1 and math.isclose(items.mean(), value, rel_tol=1e-6, abs_tol=1e-9):
            return bootstrap(items, note=note)
        if items.ndim == 2 and (items[:, 1] > 0).all():
            bits = -items[:, 0] / items[:, 1] / math.log(2)
            made = bootstrap(bits, items[:, 1], note=note)
            if math.isclose(made.value, value, rel_tol=1e-6):
                return made
    low, high = (None, None) if error is None else (value - Z * error, value + Z * error)
    return Figure(value, low, high, asked, note)
