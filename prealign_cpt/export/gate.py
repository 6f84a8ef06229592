"""Is the exported folder the trained model? Its weights exactly, its function as exactly as its type allows.

    masters (fp32)  --rounded--> every tensor of the folder, bit by bit                     check_weights
    trainer's nats  --compared-> the folder reloaded, beside the rounding of its own type   compare

Two correct programs that multiply the same bf16 weights in another order differ by hundredths of a nat per token on a
deep model, and one of them changes its order with its number of threads. So no limit is fixed: the folder is computed
once more in a type that counts as exact, and trainer and folder may differ by what that shows rounding to be.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from prealign_cpt.model.bits import held_out
from prealign_cpt.model.load import reading_device
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tensors import Tensors
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import DataError

EXACT = {"bf16": (torch.bfloat16, torch.float32), "fp32": (torch.float32, torch.float64)}
"""The type of an export, and the one that counts as exact beside it."""

MEAN_FACTOR, LARGEST_FACTOR, STANDARD_ERRORS = 2.0, 4.0, 4.0
"""Trainer and folder may differ on average and at most by so many times what rounding moves the folder's own values;
their mean difference with its sign may be so many standard errors of two roundings. Rounding has no direction, a fault
has: on SmolLM2-135M in bf16 the signed mean stayed below 0.001 nats where single tokens differed by 0.4."""

FLOOR = 1e-5
"""Nats that are never a difference: rounding is measured with an "exact" type whose norms and angles are fp32 too."""


@dataclass(frozen=True)
class Probe:
    """What the trainer itself gave for held-out text, and how it computed."""

    nats: dict[str, list[float]]
    """Negative log-likelihood per token of the first validation batch of each language."""
    device: str
    threads: int
    rows: int | None = None
    """So many of the batch's rows; None: all."""


@dataclass(frozen=True)
class Comparison:
    """Trainer against folder, in nats per token; each figure beside its bound."""

    tokens: int
    rounding: float
    """Mean distance of the folder's values from the exact ones."""
    mean: float
    mean_bound: float
    largest: float
    largest_bound: float
    signed: float
    signed_bound: float
    device: str
    threads: int

    @property
    def faults(self) -> list[str]:
        """The figures that are not within their bounds; a NaN is not."""
        return [
            f"{name} {abs(value):.4g} nats (at most {bound:.4g})"
            for name, value, bound in (
                ("on average", self.mean, self.mean_bound),
                ("at most", self.largest, self.largest_bound),
                ("in one direction", self.signed, self.signed_bound),
            )
            if not abs(value) <= bound
        ]

    @property
    def figures(self) -> dict[str, Any]:
        """For `parity.json`."""
        return asdict(self) | {"faults": self.faults}


def check_weights(folder: Path, names: Sequence[str], master: Callable[[str], Tensor], dtype: torch.dtype) -> None:
    """Compare every tensor of a folder's safetensors with its master, rounded to the export's type, bit by bit.

    Args:
        names: the tensors that the folder must hold, no more and no less.
        master: a tensor of the trained model, fp32; two of them exist at once.

    Raises:
        DataError: a tensor differs, is missing or is too many.
    """
    with Tensors(folder) as tensors:
        if different := sorted(set(names) ^ tensors.places.keys()):
            fault = "was not written" if different[0] in names else "is no part of the trained model"
            raise DataError(f"{folder}: {different[0]} {fault}; nothing is exported")
        for name in names:
            written, expected = tensors.read(name), master(name).to(dtype)
            if written.dtype != dtype or not torch.equal(_bits(written), _bits(expected)):
                raise DataError(
                    f"{tensors.places[name]}: {name} is not what was trained; the disk or memory may be faulty"
                )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)


def compare(recipe: Recipe, folder: Path, probe: Probe) -> Comparison:
    """Reload the folder and compare it, token by token, with the trainer: on its device and with its threads.

    Raises:
        DataError: the folder's tokenizer does not cut the validation text as the trainer's did, or the folder's rows
            and tokens are not of one number.
    """
    dtype, exact_dtype = EXACT[recipe.train.precision]
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, local_files_only=True
    ).eval()
    _check_rows(recipe, folder, model)
    device = torch.device(probe.device if probe.device == "cpu" or torch.cuda.is_available() else "cpu")
    device = reading_device(folder, exact_dtype, device)
    threads = torch.get_num_threads()
    try:
        if device.type == probe.device == "cpu":
            torch.set_num_threads(probe.threads)
        reloaded = _nats(recipe, folder, model.to(device), probe.rows)
    finally:
        torch.set_num_threads(threads)
    exact = _nats(recipe, folder, model.to(exact_dtype), probe.rows)
    if {name: len(values) for name, values in reloaded.items()} != {n: len(v) for n, v in probe.nats.items()}:
        raise DataError(f"{folder}: its tokenizer does not cut the validation text as training did; export again")
    trained = torch.tensor([x for name in reloaded for x in probe.nats[name]], dtype=torch.float64)
    return _compare(trained, torch.cat(list(reloaded.values())), torch.cat(list(exact.values())), device, probe)


def _compare(trained: Tensor, reloaded: Tensor, exact: Tensor, device: torch.device, probe: Probe) -> Comparison:
    difference, rounding = trained - reloaded, (reloaded - exact).abs()
    standard_error = math.sqrt(2 * float(rounding.square().mean()) / len(rounding))
    return Comparison(
        tokens=len(trained),
        rounding=float(rounding.mean()),
        mean=float(difference.abs().mean()),
        mean_bound=max(FLOOR, MEAN_FACTOR * float(rounding.mean())),
        largest=float(difference.abs().max()),
        largest_bound=max(FLOOR, LARGEST_FACTOR * float(rounding.max())),
        signed=float(difference.mean()),
        signed_bound=max(FLOOR, STANDARD_ERRORS * standard_error),
        device=device.type,
        threads=probe.threads,
    )


def _nats(recipe: Recipe, folder: Path, model: PreTrainedModel, rows: int | None) -> dict[str, Tensor]:
    """fp64, on the CPU, as the trainer's probe was taken."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    module = LanguageModelLoss(model)
    nats = {}
    with torch.no_grad():
        for language, batches in held_out(recipe, "valid", tokenizer).items():
            batch = batches[0].first(rows)
            nats[language] = module(*batch.tensors(model.device), each=True).double().cpu()
    return nats


def _check_rows(recipe: Recipe, folder: Path, model: PreTrainedModel) -> None:
    """One number of rows, and after an extension a token for each; a base that is not extended keeps what it had."""
    rows, size = model.get_input_embeddings().weight.shape[0], model.config.vocab_size
    tokens = num_ids(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    if not rows == model.get_output_embeddings().weight.shape[0] == size or (recipe.vocab.size and rows != tokens):
        raise DataError(f"{folder}: {rows} rows, {tokens} tokens, vocab_size {size} differ")


def rejection(folder: Path, comparison: Comparison) -> str:
    """The message for a folder whose function is not the trained model's."""
    return (
        f"export: the reloaded model differs from the trained one by {', '.join(comparison.faults)}, although its "
        f"weights are bit by bit those that were trained; it is kept as {folder}. Look at {folder / 'parity.json'}: "
        "another configuration, or a library that computes otherwise, is likely; update it and start again, or start "
        "again with --accept export"
    )


def write(folder: Path, comparison: Comparison, accepted: bool) -> None:
    """`parity.json`: the figures, and whether a person accepted them."""
    (folder / "parity.json").write_text(json.dumps(comparison.figures | {"accepted": accepted}, indent=1))
