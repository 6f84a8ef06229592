"""The measures, in order, on one subject; each result is a file as soon as it is there.

    Subject + Work --MEASURES--> out/tokenizer.json  out/language_model.json + .npz  ...

A result carries what it was made from: digests of model, tokenizer and data, options, versions. A second start keeps
what was made from the same and does the rest; damaged files are done again. One process at a time works in a folder.
"""

import fcntl
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import huggingface_hub.constants
import numpy as np
from tqdm import tqdm

from prealign_cpt import __version__, signals
from prealign_cpt.errors import BusyError, DataError, PrealignError, RecipeError
from prealign_cpt.evaluate.figures import Absent, Figure, Items, Result, from_json, to_json
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.work import NoDataError, Work
from prealign_cpt.manifest import atomic_write, storage_error

FORMAT = 1
"""Version of the result files; another one is done again."""

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class Measure:
    """`measure(subject, work)` of a module, imported when it is first called, and what its result depends on."""

    module: str
    reads: tuple[str, ...] = ()
    """Fields of `Work` beside `max_items`, `seed` and `window_bytes`."""
    base: bool = False
    """Whether the base model is measured beside it."""
    served: bool = False
    """Whether the subject's servers are asked."""
    libraries: tuple[str, ...] = ()
    """Distributions whose versions matter beside `LIBRARIES`."""

    def __call__(self, subject: Subject, work: Work) -> Result:
        result: Result = import_module(f"prealign_cpt.evaluate.{self.module}").measure(subject, work)
        return result


TEXTS = ("target", "english")
PARALLEL = ("parallel", "languages")
LEXICON = ("lexicon_train", "lexicon_heldout")

MEASURES: dict[str, Callable[[Subject, Work], Result]] = {
    "tokenizer": Measure("tokenizer", (*TEXTS, *PARALLEL), base=True),
    "language_model": Measure("language_model", (*TEXTS, *PARALLEL), base=True, served=True),
    "icl": Measure("icl", base=True),
    "words": Measure("words", (*LEXICON, *TEXTS)),
    "sentences": Measure("sentences", PARALLEL),
    "bitext": Measure("bitext", (*PARALLEL, "code", "language"), served=True, libraries=("mteb",)),
    "transfer": Measure("transfer_measure", ("classes_train", "classes_test")),
    "clka": Measure("clka_measure", ("facts",)),
    "mixed": Measure("mixed_matrix", ("nli_train", "nli_test", *PARALLEL)),
    "generation": Measure(
        "generation",
        (*TEXTS, *PARALLEL, "prompts_target", "prompts_english", "code", "language"),
        served=True,
        libraries=("py3langid", "sacrebleu"),
    ),
    "lm_eval": Measure("lm_harness", ("lm_eval_tasks", "lm_eval_path"), served=True, libraries=("lm-eval",)),
    "mteb": Measure("mteb_named", ("mteb_tasks",), served=True, libraries=("mteb",)),
}
"""All measures by name, in the order in which they run."""


@dataclass(frozen=True)
class Outcome:
    """What became of one measure."""

    status: Literal["done", "absent", "failed"]
    """"absent": there was nothing to measure with. "failed": there was, and it did not work."""
    result: Result
    seconds: float
    kept: bool
    """Whether it was there from before."""


def run_suite(subject: Subject, work: Work, out: Path, only: list[str] | None = None) -> dict[str, Outcome]:
    """Run the measures and write `out/MEASURE.json`, and `out/MEASURE.npz` with the items behind the figures.

    A measure that ends in an error of this project's gives an absent figure with its message; the others go on.

    Raises:
        RecipeError: `only` names a measure that does not exist.
        BusyError: another evaluation works in `out`, or this one was asked to stop.
        StorageError: a result cannot be written.
    """
    strange = sorted(set(only or ()) - set(MEASURES))
    if strange:
        raise RecipeError(f"--only: {', '.join(strange)}: no such measure; there are {', '.join(MEASURES)}")
    found: dict[str, Outcome] = {}
    with _locked(out), _offline():
        chosen = [name for name in MEASURES if not only or name in only]
        bar = tqdm(chosen, desc=subject.name, unit="measure", disable=None)
        for name in bar:
            bar.set_postfix_str(name)
            signals.check()
            measure = MEASURES[name]
            made_from = _made_from(name, measure, subject, work)
            kept = read_outcome(out, name, made_from)
            if kept is not None and kept.status != "failed":
                found[name] = kept
                _tell(subject, name, f"{kept.status} before, kept")
                continue
            found[name] = outcome = _outcome(name, measure, subject, work)
            _write(out, name, outcome, made_from)
            _tell(subject, name, f"{outcome.status}, {outcome.seconds:.0f} s")
    return found


def read_outcome(out: Path, name: str, made_from: dict[str, Any] | None = None) -> Outcome | None:
    """A measure's outcome with its items; None if it is not there, damaged, or was made from something else."""
    try:
        content = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        if content["format"] != FORMAT or (made_from is not None and content["made_from"] != made_from):
            return None
        result = from_json(content["figures"], str(out / f"{name}.json"))
        status, seconds = content["status"], float(content["seconds"])
        if status not in ("done", "absent", "failed"):
            return None
        if content["items_sha256"]:
            data = (out / f"{name}.npz").read_bytes()
            if hashlib.sha256(data).hexdigest() != content["items_sha256"]:
                return None
            result = _with_items(result, data)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    return Outcome(status, result, seconds, kept=True)


def _tell(subject: Subject, name: str, text: str) -> None:
    """One line for the person who watches, on stderr: stdout is for the table."""
    tqdm.write(f"[prealign] {subject.name}: {name}: {text}", file=sys.stderr)


def _outcome(name: str, measure: Callable[[Subject, Work], Result], subject: Subject, work: Work) -> Outcome:
    clock = time.monotonic()
    status: Literal["done", "absent", "failed"]
    try:
        result = measure(subject, work)
        status = "absent" if all(isinstance(one, Absent) for one in result.values()) else "done"
    except signals.StoppedError:
        raise
    except NoDataError as error:
        status, result = "absent", {name: Absent(str(error))}
    except PrealignError as error:
        status, result = "failed", {name: Absent(str(error))}
    return Outcome(status, result, round(time.monotonic() - clock, 2), kept=False)


def _made_from(name: str, measure: Callable[[Subject, Work], Result], subject: Subject, work: Work) -> dict[str, Any]:
    """All that decides a result, as JSON has it."""
    about = measure if isinstance(measure, Measure) else Measure(name)
    found: dict[str, Any] = {
        "model": subject.model_digest,
        "tokenizer": subject.tokenizer_digest,
        "start_token": subject.start_token,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "data": work.digests(about.reads),
        "options": {"max_items": work.max_items, "seed": work.seed, "window_bytes": work.window_bytes},
        "versions": {"prealign_cpt": __version__} | {lib: _version(lib) for lib in (*LIBRARIES, *about.libraries)},
    }
    if about.base:
        base = subject.base_subject
        found["base"] = [base.model_digest, base.tokenizer_digest] if base else None
    if about.served:
        found["servers"] = [subject.url, subject.embeddings_url]
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _write(out: Path, name: str, outcome: Outcome, made_from: dict[str, Any]) -> None:
    """Items first, then the file that names their hash: whatever is cut short is found out and done again."""
    arrays: dict[str, Any] = {}
    for figure, one in outcome.result.items():
        if isinstance(one, Figure) and one.items is not None:
            arrays |= {f"{figure}|values": one.items.values, f"{figure}|weights": one.items.weights}
    hashed = ""
    if arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        data = buffer.getvalue()
        hashed = hashlib.sha256(data).hexdigest()
        _write_bytes(out / f"{name}.npz", data)
    content = {
        "format": FORMAT,
        "measure": name,
        "status": outcome.status,
        "figures": to_json(outcome.result),
        "items_sha256": hashed,
        "made_from": made_from,
        "seconds": outcome.seconds,
    }
    atomic_write(out / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _write_bytes(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def _with_items(result: Result, data: bytes) -> Result:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        names = {key.removesuffix("|values") for key in arrays.files if key.endswith("|values")}
        return {
            name: Figure(one.value, one.low, one.high, one.n, one.note, _items(arrays, name))
            if name in names and isinstance(one, Figure)
            else one
            for name, one in result.items()
        }


def _items(arrays: Any, name: str) -> Items:
    return Items(arrays[f"{name}|values"], arrays[f"{name}|weights"])


@contextmanager
def _locked(out: Path) -> Iterator[None]:
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


@contextmanager
def _offline() -> Iterator[None]:
    """No library may fetch anything inside this block."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    # The library reads the variable once, when it is imported, which was long ago.
    constant = huggingface_hub.constants.HF_HUB_OFFLINE
    os.environ |= dict.fromkeys(names, "1")
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = constant
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
