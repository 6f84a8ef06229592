"""The measures by name: what each one reads, and which of them a preset holds. Light: the command line lists them."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from prealign_cpt.run.errors import RecipeError

if TYPE_CHECKING:
    from prealign_cpt.evaluate.data import EvaluationData
    from prealign_cpt.evaluate.figures import Result
    from prealign_cpt.evaluate.subject import Subject


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
    zero_shot: bool = False
    """Whether it asks for what the model was not shown; beside its figures stands what the text shows (exposure.py)."""
    needs: str = ""
    """A distribution without which there is nothing to measure."""

    def __call__(self, subject: "Subject", data: "EvaluationData") -> "Result":
        from prealign_cpt.evaluate.data import NoDataError
        from prealign_cpt.evaluate.figures import Absent

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
    "words": Measure("words.measure", (*LEXICON, "lexicons", *TEXTS), zero_shot=True),
    "sentences": Measure("sentences.measure", PARALLEL, zero_shot=True),
    "bitext": Measure("sentences.bitext", PARALLEL, served=True, zero_shot=True),
    "transfer": Measure("transfer.measure", ("classes_train", "classes_test"), zero_shot=True),
    "clka": Measure("clka.measure", ("facts",), zero_shot=True),
    "mixed": Measure("mixed_matrix.measure", ("nli_train", "nli_test", *PARALLEL), zero_shot=True),
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
