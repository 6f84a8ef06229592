"""What a variant reads and costs: bytes of target text and floating-point operations, at every step.

    bytes = target text read before training + training tokens of target text * bytes per token of its tokenizer
    FLOPs = 6 N per token that is trained on, 2 N per token that is only read        (Kaplan et al. 2020, section 2.1)
            + what the composition map of the new rows takes in each step                    (train/composition.py)
            + those of the alignment stage, in which N are the blocks that ran, with 4 N for a token where the
              gradient passes through a frozen body                                            (align/trainable.py)

N counts the weights that a token is multiplied with: the body's matrices and the head, not the embedding table.
Not counted: attention's own products (a few percent of 6 N at usual sequence lengths, and alike in all variants),
scoring, the map of the alignment stage, and what rows and vocabulary take without running the model.

Two budgets. Equal text: the training reads `target_bytes` of the text; what the stages before it read of the same text
is shown, not taken off. Equal compute: as many steps as fit into the reference's FLOPs, those of the stages before
training taken off; where the text is at an end it is read again (data/mixture.py).
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.data.pack import encode_many
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.tokens import frame
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import DataError, RecipeError
from prealign_cpt.run.manifest import atomic_write, sha256
from prealign_cpt.text.stage import text_report, training_sample
from prealign_cpt.train.composition import step_flops

SAMPLE_BYTES = 16_000_000
"""Of the training text about so many bytes, spread over all of it, are tokenized to measure bytes per token."""

NAME = "budget.json"
"""The plan's file in the run folder."""


@dataclass(frozen=True)
class Plan:
    """How many steps a run makes, and what they cost."""

    steps: int
    sequences: int
    sequence_length: int
    english_share: float
    bytes_per_token: float
    parameters: int
    text_bytes: int
    """Of the whole training text in the new language."""
    align_bytes: int
    """Of target text that was read before training."""
    rows_flops: float
    """Of the static start: the tokens that its calibration runs."""
    align_flops: float
    """Of the training stage behind it."""
    map_flops: float = 0.0
    """Of the composition map, in each step."""

    def bytes(self, step: int) -> int:
        """Bytes of target text read until after a step, those before training included."""
        read = step * self.sequences
        target = read - math.floor(read * self.english_share)  # the interleaving of data/mixture.py
        return round(self.align_bytes + target * self.sequence_length * self.bytes_per_token)

    def flops(self, step: int) -> float:
        """Floating-point operations until after a step, those before training included."""
        return self.rows_flops + self.align_flops + step * self.step_flops

    @property
    def step_flops(self) -> float:
        """Floating-point operations of one training step."""
        return 6.0 * self.parameters * self.sequences * self.sequence_length + self.map_flops

    def costs(self, step: int) -> dict[str, float]:
        """What a point says of its costs after a step: both sums, and what they are made of."""
        return {
            "bytes": self.bytes(step),
            "flops": self.flops(step),
            "flops_rows": self.rows_flops,
            "flops_alignment": self.align_flops,
            "flops_training": step * self.step_flops,
            "passes": self.bytes(step) / self.text_bytes,
            "trained_tokens": step * self.sequences * self.sequence_length,
        }

    def write(self, run: Path) -> None:
        """Keep the plan in the run folder, where the points are made from it."""
        run.mkdir(parents=True, exist_ok=True)
        atomic_write(run / NAME, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, run: Path) -> "Plan":
        """The plan of a run folder.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            return cls(**json.loads((run / NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{run / NAME}: missing or damaged; start the comparison again") from error


def plan(recipe: Recipe, target_bytes: int, most_flops: float | None = None) -> Plan:
    """The plan of a run whose alignment stage is done.

    Args:
        target_bytes: bytes of target text for the training to read; steps are rounded to the nearest.
        most_flops: if given, it decides instead: as many steps as fit beside the stages before training.

    Raises:
        RecipeError: not one step fits.
    """
    align = recipe.run / "align"
    parameters = matmul_parameters(align)
    report: dict[str, Any] = json.loads((align / "report.json").read_text(encoding="utf-8"))
    stage = report["contrast_stage"]
    calibration = report.get("calibration", {})
    _, text_bytes = measured(recipe, align)
    start = Plan(
        steps=0,
        sequences=recipe.train.sequences,
        sequence_length=recipe.data.sequence_length,
        english_share=recipe.data.english_share,
        bytes_per_token=bytes_per_token(recipe),
        parameters=parameters,
        text_bytes=text_bytes,
        align_bytes=sum(int(part.get("target_bytes", 0)) for part in (stage, calibration)),
        rows_flops=2.0 * parameters * calibration.get("tokens_forward", 0),
        align_flops=stage.get("flops", 0.0),
        map_flops=_map_flops(recipe) if recipe.train.composition_lr else 0.0,
    )
    if most_flops is not None:
        steps = math.floor((most_flops - start.flops(0)) / start.step_flops + 1e-6)  # equal costs, equal steps
        budget = f"{most_flops:.3g} FLOPs, of which the stages before training use {start.flops(0):.3g}"
    else:
        tokens = start.sequences * start.sequence_length * (1 - start.english_share)
        steps = round(target_bytes / (tokens * start.bytes_per_token))
        budget = f"{target_bytes} bytes"
    if steps < 1:
        raise RecipeError(
            f"{recipe.name}: no training step fits into the budget of {budget}; "
            "raise target_bytes, or lower align.steps or train.sequences"
        )
    return replace(start, steps=steps)


def bytes_per_token(recipe: Recipe) -> float:
    """UTF-8 bytes of target training text per packed token, start and end tokens included, as the run spells it."""
    grown, _ = measured(recipe, recipe.run / "align")
    share = recipe.data.mixed_tokenization
    old = measured(recipe, resolve_base(recipe.base.model))[0] if share else 0.0
    return 1.0 / ((1 - share) * grown + share * old)


_MEASURED: dict[tuple[str, ...], tuple[float, int]] = {}
"""Tokens per byte, and bytes, by tokenizer and texts: most variants share theirs."""


def measured(recipe: Recipe, folder: Path) -> tuple[float, int]:
    """Tokens per byte of the training text by a folder's tokenizer, start and end tokens included; the text's bytes."""
    key = (sha256(folder / "tokenizer.json"), str(recipe.run))
    if key not in _MEASURED:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        sample = list(training_sample(recipe, "target", SAMPLE_BYTES))
        tokens = sum(len(documents.ids) for documents in encode_many(sample, tokenizer, *frame(tokenizer, recipe)))
        _MEASURED[key] = (
            tokens / sum(len(document.encode()) for document in sample),
            text_report(recipe, "target")["bytes"],
        )
    return _MEASURED[key]


def matmul_parameters(folder: Path) -> int:
    """N of a Hugging Face folder: the numbers in all matrices, the embedding table only if it is the head too."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    matrices = {id(p): p for p in [*model.parameters(), head] if p.ndim >= 2}
    return sum(p.numel() for p in matrices.values()) - (0 if table is head else table.numel())


def _map_flops(recipe: Recipe) -> float:
    """What the composition map takes in a step."""
    report = json.loads((recipe.run / "vocab" / "report.json").read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(recipe.run / "align", local_files_only=True)
    return step_flops(report["new_tokens"], config.hidden_size)
