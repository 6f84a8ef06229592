"""The measures, in order, on one subject; each result is a file as soon as it is there.

    Subject + EvaluationData --MEASURES--> out/tokenizer.json  out/language_model.json + .npz  ...

A result carries what it was made from: digests of model, tokenizer and data, options, versions. A second start keeps
what was made from the same and does the rest; damaged files are done again. One process at a time works in a folder.
"""

import fcntl
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from prealign_cpt import __version__
from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Outcome, read_outcome, write_outcome
from prealign_cpt.evaluate.measures import MEASURES, Measure
from prealign_cpt.evaluate.subject import Subject, offline
from prealign_cpt.run import signals
from prealign_cpt.run.errors import BusyError, PrealignError
from prealign_cpt.run.manifest import storage_error

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy")


def run_suite(subject: Subject, data: EvaluationData, out: Path, names: Sequence[str]) -> dict[str, Outcome]:
    """Run measures and write what becomes of each (figures.py).

    A measure that ends in an error of this project's gives an absent figure with its message; the others go on.

    Raises:
        BusyError: another evaluation works in `out`, or this one was asked to stop.
        StorageError: a result cannot be written.
    """
    outcomes: dict[str, Outcome] = {}
    with locked(out), offline():
        bar = tqdm(names, desc=subject.name, unit="measure", disable=None)
        for name in bar:
            bar.set_postfix_str(name)
            signals.check()
            measure = MEASURES[name]
            made_from = _made_from(measure, subject, data)
            kept = read_outcome(out, name, made_from)
            if kept is not None and kept.status != "failed":
                outcomes[name] = kept
                _tell(subject, name, f"{kept.status} before, kept")
                continue
            outcomes[name] = outcome = _outcome(name, measure, subject, data)
            write_outcome(out, name, outcome, made_from)
            if outcome.status != "absent":  # the table says why
                _tell(subject, name, f"{outcome.status}, {outcome.seconds:.0f} s")
    return outcomes


def _tell(subject: Subject, name: str, text: str) -> None:
    """One line for the person who watches, on stderr: stdout is for the table."""
    tqdm.write(f"[prealign] {subject.name}: {name}: {text}", file=sys.stderr)


def _outcome(name: str, measure: Measure, subject: Subject, data: EvaluationData) -> Outcome:
    clock = time.monotonic()
    status: Literal["done", "absent", "failed"]
    try:
        result = measure(subject, data)
        status = "absent" if all(isinstance(figure, Absent) for figure in result.values()) else "done"
    except signals.StoppedError:
        raise
    except NoDataError as error:
        status, result = "absent", {name: Absent(str(error))}
    except PrealignError as error:
        status, result = "failed", {name: Absent(str(error))}
    return Outcome(status, result, round(time.monotonic() - clock, 2), kept=False)


def _made_from(measure: Measure, subject: Subject, data: EvaluationData) -> dict[str, Any]:
    """All that decides a result, as JSON has it."""
    libraries = [library for library in (*LIBRARIES, *measure.libraries, measure.needs) if library]
    content: dict[str, Any] = {
        "model": subject.model_digest,
        "tokenizer": subject.tokenizer_digest,
        "start_token": subject.start_token,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "data": data.digests(measure.reads),
        "options": {key: getattr(data, key) for key in ("max_items", "max_bytes", "seed", "window_bytes")},
        "versions": {"prealign_cpt": __version__} | {library: _version(library) for library in libraries},
    }
    if measure.base:
        base = subject.base_subject
        content["base"] = [base.model_digest, base.tokenizer_digest] if base else None
    if measure.served:
        content["servers"] = [subject.url, subject.embeddings_url]
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Work in a folder, which is made, while no other evaluation does.

    Raises:
        BusyError: another one does.
        StorageError: the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / "eval.lock").open("a+")
    except OSError as error:
        raise storage_error(out, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(f"{out}: another evaluation works here; wait for it, or choose another --out") from error
        yield
