"""What the tests of training have in common: a text of random tokens, weights over all ranks, and a slow reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call

from prealign_cpt.data.mixture import Mixture, PackedText, positions
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.recipe.schema import Train
from prealign_cpt.train.composition import features
from prealign_cpt.train.stored import Weights
from tests.conftest import make_model

VOCAB, LENGTH = 67, 16
TABLES = {"model.model.embed_tokens.weight", "model.lm_head.weight"}


def full(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor, whole wherever its shards lie; numpy has no bf16."""
    whole = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
    return (whole.float() if whole.dtype == torch.bfloat16 else whole).numpy().copy()


def weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Copies of all parameters by name; every rank calls this."""
    return {name: full(parameter) for name, parameter in module.named_parameters()}


def write_text(folder: Path, rows: int, starts: tuple[int, ...] = (9,)) -> None:
    """Random tokens, packed: at the columns `starts` documents begin; rows begin inside one."""
    inputs = np.random.default_rng(5).integers(1, VOCAB, size=(rows, LENGTH)).astype(np.int32)
    inputs[:, list(starts)] = 0
    np.save(folder / "text.inputs.npy", inputs)


def write_models(folder: Path) -> Path:
    """Models `tied` and `untied`, and a text."""
    for name in ("tied", "untied"):
        make_model(VOCAB, tied=name == "tied").save_pretrained(folder / name)
    write_text(folder, 24)
    return folder


def mixture(folder: Path) -> Mixture:
    """The batches of that text."""
    return Mixture([PackedText(folder)], [], 0.0, seed=3)


def reference(
    folder: Path, model_name: str, recipe: Train, first_new: int, spellings: Sequence[Sequence[int]] | None = None
) -> dict[str, Any]:
    """A training in which old and new rows really are two parameters, a table their `cat`, under torch's AdamW.

    What does not move yet has no gradient. With spellings the new input rows are `row + x C`, and C is a parameter too.
    """
    model = load_whole(folder / model_name).train()
    whole = LanguageModelLoss(model)
    tables = {n: p.detach() for n, p in whole.named_parameters() if n in TABLES}
    body = {n: p for n, p in whole.named_parameters() if n not in TABLES}
    old = {n: nn.Parameter(p[:first_new].clone()) for n, p in tables.items()}
    new = {n: nn.Parameter(p[first_new:].clone()) for n, p in tables.items()}
    maps: dict[str, nn.Parameter] = {}
    if spellings:
        x_MK = features(spellings, model.get_input_embeddings().weight.detach()[:first_new])
        maps = {n: nn.Parameter(torch.zeros(x_MK.shape[1], p.shape[1])) for n, p in tables.items() if "embed" in n}
    groups: list[tuple[list[nn.Parameter], float, float]] = [
        ([p for p in body.values() if p.ndim == 2], recipe.lr, recipe.weight_decay),
        ([p for p in body.values() if p.ndim == 1], recipe.lr, 0.0),
        ([*old.values()], recipe.embeddings_lr or recipe.lr, recipe.weight_decay),
        ([*new.values()], recipe.rows_lr, recipe.weight_decay),
        *([([*maps.values()], recipe.composition_lr, 0.0)] if maps else []),
    ]
    optimizer = torch.optim.AdamW(
        [{"params": params, "lr": lr, "weight_decay": decay} for params, lr, decay in groups], betas=(0.9, 0.95)
    )

    def table(name: str) -> torch.Tensor:
        return torch.cat([old[name], new[name] + x_MK @ maps[name] if name in maps else new[name]])

    def now() -> dict[str, np.ndarray]:
        return {n: full(table(n) if n in tables else p) for n, p in whole.named_parameters()}

    found: dict[str, Any] = {"weights": [now()], "norms": [], "losses": []}
    for step in range(recipe.steps):
        inputs, labels = mixture(folder).rows(list(range(step * recipe.sequences, (step + 1) * recipe.sequences)))
        inputs[:, 0] = 0  # the start token
        values = {n: table(n) for n in tables}
        call = {n.removeprefix("model."): values.get(n, next(iter(values.values()))) for n in TABLES}
        arguments = {"input_ids": inputs, "position_ids": positions(inputs, 0), "use_cache": False}
        logits = functional_call(model, call, kwargs=arguments, tie_weights=False).logits
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        if step < recipe.rows_steps:
            for p in [*body.values(), *old.values()]:
                p.grad = None
        # The gradient's norm is that of the rows themselves; the map has no part in it.
        norm = float(nn.utils.clip_grad_norm_([p for params, *_ in groups[:4] for p in params], recipe.clip))
        for p in maps.values():
            p.grad.mul_(min(1.0, recipe.clip / (norm + 1e-6)))
        optimizer.step()
        found["norms"].append(norm)
        found["losses"].append(float(loss.detach()))
        found["weights"].append(now())
    return found


def load_weights(path: Path, module: LanguageModelLoss) -> None:
    """Fill an ordinary, whole module from a checkpoint, tensor by tensor."""
    stored = Weights(path, module)
    with torch.no_grad():
        for name, parameter in module.model.named_parameters():
            parameter.copy_(stored.read(name))
