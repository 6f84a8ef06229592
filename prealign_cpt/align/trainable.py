"""What moves in the alignment stage, and the forward passes through it.

    sequences ─ pack ─► rows of whole sequences ─ embed ─► hidden states of every layer, one line per token

`NewRows` keeps the new rows beside a frozen model, so the rest of the model is also the teacher. `Weights` moves
parameters of the model itself and keeps a copy of the model as it was.
Shapes: B rows, T tokens, N = B * T, L+1 layers (embeddings, then every block), V vocabulary, M new tokens, D hidden
size.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prealign_cpt.data.mixture import positions
from prealign_cpt.model.load import blocks
from prealign_cpt.recipe.schema import Align
from prealign_cpt.run.errors import RecipeError

ROOM = 516
"""Most tokens in a row of packed sequences, four windows with their start tokens; unless one sequence is longer."""


@dataclass(frozen=True)
class Packed:
    """Sequences, each behind the start token, in rows; attention stays inside a sequence.

    Attributes:
        ids_BT: int64 [B, T]; what is left of a row is start tokens.
        first: place of each sequence's first own token in the flattened rows.
        tokens: how many there are, start tokens counted and padding not.
    """

    ids_BT: Tensor  # noqa: N815
    first: list[int]
    tokens: int


def pack(sequences: Sequence[Sequence[int]], start_id: int) -> Packed:
    """First fit, longest first, in rows of the length that leaves least over: no model run is spent on padding."""
    sizes = sorted((len(ids) + 1 for ids in sequences), reverse=True)
    lengths = {sum(sizes[:k]) for k in (1, 2, 3, 4, 6, 8, 16, len(sizes))}
    # Attention grows with the length; at 2,000 tokens it costs about what everything else does.
    room, rows = min(
        ((length, _first_fit(sizes, length)) for length in sorted(lengths) if length <= max(ROOM, sizes[0])),
        key=lambda found: len(found[1]) * found[0] * (1 + found[0] / 2000),
    )
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    ids_N = torch.full((len(rows) * room,), start_id)
    first = [0] * len(sequences)
    for number, row in enumerate(rows):
        at = number * room
        for k in row:
            ids = sequences[order[k]]
            first[order[k]] = at + 1
            ids_N[at + 1 : at + 1 + len(ids)] = torch.tensor(ids, dtype=torch.long)
            at += 1 + len(ids)
    return Packed(ids_N.view(len(rows), room), first, sum(sizes))


def _first_fit(sizes: list[int], room: int) -> list[list[int]]:
    """Which sizes go into which row."""
    rows: list[list[int]] = []
    left: list[int] = []
    for k, size in enumerate(sizes):
        row = next((r for r, free in enumerate(left) if free >= size), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(room)
        rows[row].append(k)
        left[row] -= size
    return rows


class Trainable(ABC):
    """A model, frozen but for what moves, until `close`.

    Args:
        num_old: rows that belong to old tokens.
        teacher: the model as it was before the stage, by its old rows.
    """

    def __init__(self, model: PreTrainedModel, start_id: int, num_old: int, teacher: PreTrainedModel) -> None:
        self.model, self.start_id, self.num_old = model, start_id, num_old
        self.device = model.get_input_embeddings().weight.device
        self.tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        self.tokens_forward = 0
        """Tokens that were only run forward."""
        self.tokens_backward = 0
        """Tokens that were run forward and backward."""
        self._teacher = teacher
        self._learned = [p for p in model.parameters() if p.requires_grad]
        for parameter in self._learned:
            parameter.requires_grad_(False)

    english_moves: bool
    """Whether vectors of English text can change."""

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer moves, fp32."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids, in the model's dtype."""

    @abstractmethod
    def head(self) -> Tensor:
        """The head [V, D], in the model's dtype."""

    @abstractmethod
    def head_rows(self, ids: Tensor) -> Tensor:
        """Rows of the head for some token ids, fp32."""

    def collect(self) -> None:  # noqa: B027
        """After the backward pass: put the gradients where `parameters` has them."""

    def place(self) -> None:  # noqa: B027
        """After the optimizer's step: run with the new values from now on."""

    def close(self, keep: bool) -> None:
        """Put the result into the model, or leave the model as it was before the stage; free the frozen weights."""
        self._finish(keep)
        for parameter in self._learned:
            parameter.requires_grad_(True)

    @abstractmethod
    def _finish(self, keep: bool) -> None: ...

    def states(self, packed: Packed) -> tuple[Tensor, ...]:
        """Hidden states of every layer, L+1 tensors [N, D]."""
        output = self._run(self.model, self.embed, packed.ids_BT, packed.tokens, every_layer=True)
        return tuple(state.flatten(0, 1) for state in output.hidden_states)

    def hidden(self, ids_BT: Tensor, tokens: int) -> Tensor:
        """Final hidden states [N, D] of packed rows.

        Args:
            tokens: what is to be counted of them.
        """
        return self._run(self.model, self.embed, ids_BT, tokens).last_hidden_state.flatten(0, 1)

    @torch.no_grad()
    def original(self, packed: Packed) -> Tensor:
        """Final hidden states [N, D] that the model had before the stage; the ids must be old ones."""
        embedding = self._teacher.get_input_embeddings()
        return self._run(self._teacher, embedding, packed.ids_BT, packed.tokens).last_hidden_state.flatten(0, 1)

    def original_head(self) -> Tensor:
        """Rows of the head for old tokens [num_old, D] as they were before the stage."""
        return self._teacher.get_output_embeddings().weight.detach()[: self.num_old]

    def _run(self, model: PreTrainedModel, embed, ids: Tensor, tokens: int, every_layer: bool = False):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():
            self.tokens_backward += tokens
        else:
            self.tokens_forward += tokens
        ids = ids.to(self.device)
        # Any attention mask, or use_cache=True, would silently let attention cross documents.
        return model.base_model(
            inputs_embeds=embed(ids),
            position_ids=positions(ids, self.start_id),
            use_cache=False,
            output_hidden_states=every_layer,
        )


class NewRows(Trainable):
    """The new rows as parameters of their own, fp32; one set if the head is tied, two if not."""

    english_moves = False

    def __init__(self, model: PreTrainedModel, start_id: int, num_old: int) -> None:
        super().__init__(model, start_id, num_old, teacher=model)
        self.table = model.get_input_embeddings().weight.detach()
        self.old_head = model.get_output_embeddings().weight.detach()
        # Gemma 3 scales inside its embedding module, which is passed by here.
        self.scale = getattr(model.get_input_embeddings(), "embed_scale", None)
        self.rows = nn.Parameter(self.table[num_old:].float().clone())
        self.output_rows = self.rows if self.tied else nn.Parameter(self.old_head[num_old:].float().clone())

    def parameters(self) -> list[nn.Parameter]:
        return [self.rows] if self.tied else [self.rows, self.output_rows]

    def embed(self, ids: Tensor) -> Tensor:
        embedded = _mixed(ids, self.num_old, self.table, self.rows.to(self.table.dtype))
        return embedded if self.scale is None else embedded * self.scale.to(embedded.dtype)

    def head(self) -> Tensor:
        return torch.cat([self.old_head[: self.num_old], self.output_rows.to(self.old_head.dtype)])

    def head_rows(self, ids: Tensor) -> Tensor:
        return _mixed(ids, self.num_old, self.old_head, self.output_rows).float()

    @torch.no_grad()
    def _finish(self, keep: bool) -> None:
        if keep:
            self.table[self.num_old :] = self.rows.to(self.table.dtype)
            self.old_head[self.num_old :] = self.output_rows.to(self.old_head.dtype)


class Weights(Trainable):
    """Parameters of the model, moved through fp32 copies of them."""

    english_moves = True

    def __init__(self, model: PreTrainedModel, start_id: int, num_old: int, moving: list[nn.Parameter]) -> None:
        super().__init__(model, start_id, num_old, teacher=copy.deepcopy(model).requires_grad_(False))
        before = {id(p): q for p, q in zip(model.parameters(), self._teacher.parameters(), strict=True)}
        self._moving = [parameter.requires_grad_(True) for parameter in moving]
        self._before = [before[id(parameter)] for parameter in moving]
        self._wide = [nn.Parameter(parameter.detach().float().clone()) for parameter in moving]

    def parameters(self) -> list[nn.Parameter]:
        return self._wide

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def head(self) -> Tensor:
        return self.model.get_output_embeddings().weight

    def head_rows(self, ids: Tensor) -> Tensor:
        return self.head()[ids].float()

    def collect(self) -> None:
        for parameter, wide in zip(self._moving, self._wide, strict=True):
            wide.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None

    @torch.no_grad()
    def place(self) -> None:
        for parameter, wide in zip(self._moving, self._wide, strict=True):
            parameter.copy_(wide)

    @torch.no_grad()
    def _finish(self, keep: bool) -> None:
        for parameter, before in zip(self._moving, self._before, strict=True):
            parameter.grad = None
            parameter.requires_grad_(False)
            if not keep:
                parameter.copy_(before)


def trainable(model: PreTrainedModel, recipe: Align, start_id: int, num_old: int) -> Trainable:
    """What `align.trains` names.

    Raises:
        RecipeError: `align.blocks` is more than the model has.
    """
    if recipe.trains == "new_rows":
        return NewRows(model, start_id, num_old)
    if recipe.trains == "all":
        moving = list(model.parameters())
    else:
        modules: list[nn.Module] = [model.get_input_embeddings(), model.get_output_embeddings()]
        if recipe.trains == "first_blocks":
            check_blocks(model, recipe)
            modules += blocks(model)[: recipe.blocks]
        moving = list({id(p): p for module in modules for p in module.parameters()}.values())
    return Weights(model, start_id, num_old, moving)


def check_blocks(model: PreTrainedModel, recipe: Align) -> None:
    """Raise RecipeError if `align.blocks` is more than the model has."""
    there = len(blocks(model))
    if recipe.blocks > there:
        raise RecipeError(
            f'align.blocks: {recipe.blocks}, but the model has {there} blocks; align.trains "all" moves all'
        )


def _mixed(ids: Tensor, num_old: int, table: Tensor, new: Tensor) -> Tensor:
    """Rows of the table for old ids, of `new` [M, D] for the others."""
    if len(new) == 0:
        return table[ids]
    slot = (ids - num_old).clamp(min=0)
    return torch.where((ids >= num_old)[..., None], new[slot], table[ids].to(new.dtype))
