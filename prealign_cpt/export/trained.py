"""The trained model's tensors one by one: of a checkpoint what moved, of the folder it began with the rest, merged.

align/ + train/step-… --full: as trained; else: old rows + new rows, W + alpha/rank B A--> a tensor by its name
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tensors import Tensors
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.train import adapters
from prealign_cpt.train.stored import Weights


class Trained:
    """Reads them.

    Args:
        model: of the folder `align`, on the meta device; prepared in place as for training.
        step_folder: a verified checkpoint.
        first_new: id of the first new token; None where there are none.

    Raises:
        DataError: the checkpoint holds other weights.
    """

    def __init__(
        self, recipe: Recipe, model: PreTrainedModel, align: Path, step_folder: Path, first_new: int | None
    ) -> None:
        adapters.prepare(model, recipe.train, first_new, recipe.seed)
        self._align, self._first_new, self._method = align, first_new, recipe.train.method
        self._computed = adapters.COMPUTED[recipe.train.precision]
        self._adapted = {f"{name}.weight": linear for name, linear in adapters.adapted(model).items()}
        self._cut = {f"{name}.weight" for name, module in model.named_modules() if hasattr(module, "new")}
        for linear in self._adapted.values():
            if linear.in_4bit:
                linear.weight = None  # no tensor of the checkpoint
        self._weights = Weights(step_folder, LanguageModelLoss(model))

    @torch.no_grad()
    def read(self, name: str) -> Tensor:
        """A tensor of the whole model, fp32, on the CPU."""
        if self._method == "full":
            return self._weights.read(name)
        with Tensors(self._align) as tensors:
            if name in self._cut:
                assert self._first_new is not None
                old = tensors.rows(name, 0, self._first_new).to(self._computed).float()
                return torch.cat([old, self._weights.read(f"{name.removesuffix('.weight')}.new")])
            frozen = tensors.read(name).to(self._computed)
        if name not in self._adapted:
            return frozen.float()
        linear, owner = self._adapted[name], name.removesuffix(".weight")
        linear.a, linear.b = (nn.Parameter(self._weights.read(f"{owner}.{factor}")) for factor in "ab")
        linear.weight = nn.Parameter(frozen, requires_grad=False)
        if linear.in_4bit:
            linear.quantize(frozen)
        whole = linear.merged(self._computed).weight.detach().float()
        linear.weight = linear.packed = linear.state = None
        return whole
