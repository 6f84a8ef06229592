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
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from prealign_cpt import __version__
from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Outcome, Result, read_outcome, write_outcome
from prealign_cpt.evaluate.subject import Subject, offline
from prealign_cpt.run import signals
from prealign_cpt.run.errors import BusyError, PrealignError, RecipeError
from prealign_cpt.run.manifest import storage_error

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy")


@dataclass(frozen=True)
class Measure:
    """A function of (subject, data), "module.name", imported when first called, and what its result depends on."""

    function: str
    reads: tuple[str, ...] = ()
    """Fields of `EvaluationData` beside `max_items`, `max_bytes`, `seed` and `window_bytes`."""
    base: bool = False
    """Whether the base model is measured beside it."""
    served: bool = False
    """Whether the subject's servers are asked."""
    libraries: tuple[str, ...] = ()
    """Distributions whose versions matter beside `LIBRARIES`."""
    needs: str = ""
    """A distribution without which there is nothing to measure."""

    def __call__(self, subject: Subject, data: EvaluationData) -> Result:
        if self.needs and find_spec(self.needs.replace("-", "_")) is None:
            raise NoDataError(f'{self.needs} is not installed: pip install "prealign-cpt[eval]"')
        module, _, name = self.function.partition(".")
        result: Result = getattr(import_module(f"prealign_cpt.evaluate.{module}"), name)(subject, data)
        if self.base and subject.base_reason:
            result["base"] = Absent(subject.base_reason)
        return result


TEXTS = ("target", "english")
PARALLEL = ("parallel", "languages")
LEXICON = ("lexicon_train", "lexicon_heldout")

MEASURES: dict[str, Measure] = {
    "tokenizer": Measure("tokenizer.measure", (*TEXTS, *PARALLEL), base=True),
    "language_model": Measure("language_model.measure", (*TEXTS, *PARALLEL), base=True, served=True),
    "icl": Measure("icl.measure", base=True),
    "words": Measure("words.measure", (*LEXICON, *TEXTS)),
    "sentences": Measure("sentences.measure", PARALLEL),
    "bitext": Measure("sentences.bitext", PARALLEL, served=True),
    "transfer": Measure("transfer.measure", ("classes_train", "classes_test")),
    "clka": Measure("clka.measure", ("facts",)),
    "mixed": Measure("mixed_matrix.measure", ("nli_train", "nli_test", *PARALLEL)),
    "mixed_output": Measure("generation.mixed_output", (*TEXTS, "mixed_prompts"), served=True),
    "generation": Measure(
        "generation.measure",
        (*TEXTS, *PARALLEL, "prompts_target", "prompts_english", "code", "language"),
        served=True,
        libraries=("py3langid", "sacrebleu"),
    ),
    "lm_eval": Measure("lm_harness.measure", ("lm_eval_tasks", "lm_eval_path"), served=True, needs="lm-eval"),
    "mteb": Measure("mteb_tasks.measure", ("mteb_tasks",), served=True, needs="mteb"),
}
"""All measures by name, in the order in which they run."""

PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("language_model", "words", "transfer", "clka", "mixed_output"),
    "full": tuple(MEASURES),
}
"""Measures by preset. "quick" is what a run's own eval stage scores; the figures of both are the same."""


def chosen(preset: str, only: Sequence[str] = ()) -> list[str]:
    """Names of the measures of a preset, or those that are named, in their order.

    Raises:
        RecipeError: `only` names a measure that does not exist.
    """
    if strange := sorted(set(only) - set(MEASURES)):
        raise RecipeError(f"--only: {', '.join(strange)}: no such measure; there are {', '.join(MEASURES)}")
    return [name for name in MEASURES if name in (only or PRESETS[preset])]


def run_suite(subject: Subject, data: EvaluationData, out: Path, names: Sequence[str]) -> dict[str, Outcome]:
    """Run measures and write what becomes of each (figures.py).

    A measure that ends in an error of this project's gives an absent figure with its message; the others go on.

    Raises:
        BusyError: another evaluation works in `out`, or this one was asked to stop.
        StorageError: a result cannot be written.
    """
    outcomes: dict[str, Outcome] = {}
    with _locked(out), offline():
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
