"""The measures, in order, on one subject; each result is a file as soon as it is there.

    Subject + Work --MEASURES--> out/tokenizer.json  out/language_model.json + .npz  ...

A result carries what it was made from: digests of model, tokenizer and data, options, versions. A second start keeps
what was made from the same and does the rest; damaged files are done again. One process at a time works in a folder.
"""

import fcntl
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
from tqdm import tqdm

from prealign_cpt import __version__
from prealign_cpt.evaluate.figures import Absent, Result
from prealign_cpt.evaluate.results import Outcome, read_outcome, write_outcome
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.work import NoDataError, Work
from prealign_cpt.run import signals
from prealign_cpt.run.errors import BusyError, PrealignError, RecipeError
from prealign_cpt.run.manifest import storage_error

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
    "tokenizer": Measure("text.tokenizer", (*TEXTS, *PARALLEL), base=True),
    "language_model": Measure("text.language_model", (*TEXTS, *PARALLEL), base=True, served=True),
    "icl": Measure("text.icl", base=True),
    "words": Measure("representation.words", (*LEXICON, *TEXTS)),
    "sentences": Measure("representation.sentences", PARALLEL),
    "bitext": Measure("representation.bitext", (*PARALLEL, "code", "language"), served=True, libraries=("mteb",)),
    "transfer": Measure("transfer.zero_shot", ("classes_train", "classes_test")),
    "clka": Measure("transfer.clka", ("facts",)),
    "mixed": Measure("transfer.mixed_matrix", ("nli_train", "nli_test", *PARALLEL)),
    "generation": Measure(
        "generation.generation",
        (*TEXTS, *PARALLEL, "prompts_target", "prompts_english", "code", "language"),
        served=True,
        libraries=("py3langid", "sacrebleu"),
    ),
    "lm_eval": Measure("harness.lm_harness", ("lm_eval_tasks", "lm_eval_path"), served=True, libraries=("lm-eval",)),
    "mteb": Measure("representation.mteb_named", ("mteb_tasks",), served=True, libraries=("mteb",)),
}
"""All measures by name, in the order in which they run."""


def run_suite(subject: Subject, work: Work, out: Path, only: list[str] | None = None) -> dict[str, Outcome]:
    """Run the measures and write what becomes of each (results.py).

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
            write_outcome(out, name, outcome, made_from)
            _tell(subject, name, f"{outcome.status}, {outcome.seconds:.0f} s")
    return found


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
