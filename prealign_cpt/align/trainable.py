"""What moves in the alignment stage, and the forward passes through it.

    sequences ─ pack ─► rows of whole sequences ─ embed ─► hidden states of every layer, one line per token

Shapes: B rows, T tokens, N = B * T, L+1 layers (embeddings, then every block), V vocabulary, M new tokens, D hidden
size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prealign_cpt.data.mixture import positions
from prealign_cpt.model.depth import every_state, states_behind
from prealign_cpt.model.load import blocks

ROW_TOKENS = 516
"""Most tokens in a row of packed sequences, four windows with their start tokens; unless one sequence is longer."""


@dataclass(frozen=True)
class Packed:
    """Sequences, each behind the start token, in rows; attention stays inside a sequence.

    Attributes:
        ids_BT: int64 [B, T]; what is left of a row is start tokens.
        first: place of each sequence's first token behind the start token, in the flattened rows.
        tokens: how many there are, start tokens counted and padding not.
    """

    ids_BT: Tensor  # noqa: N815
    first: list[int]
    tokens: int


def pack(sequences: Sequence[Sequence[int]], start_id: int) -> Packed:
    """First fit, longest first, in rows of the length that leaves least over: no model run is spent on padding.

    No sequence makes a row of the start token alone: with several ranks one that has nothing to read runs all the same.
    """
    count, sequences = len(sequences), sequences or [[]]
    sizes = sorted((len(ids) + 1 for ids in sequences), reverse=True)
    lengths = {sum(sizes[:k]) for k in (1, 2, 3, 4, 6, 8, 16, len(sizes))}
    # Attention grows with the length; at 2,000 tokens it costs about what everything else does.
    length, rows = min(
        ((length, _first_fit(sizes, length)) for length in sorted(lengths) if length <= max(ROW_TOKENS, sizes[0])),
        key=lambda fit: len(fit[1]) * fit[0] * (1 + fit[0] / 2000),
    )
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    ids_N = torch.full((len(rows) * length,), start_id)
    first = [0] * len(sequences)
    for number, row in enumerate(rows):
        place = number * length
        for k in row:
            ids = sequences[order[k]]
            first[order[k]] = place + 1
            ids_N[place + 1 : place + 1 + len(ids)] = torch.tensor(ids, dtype=torch.long)
            place += 1 + len(ids)
    return Packed(ids_N.view(len(rows), length), first[:count], sum(sizes))


def _first_fit(sizes: list[int], length: int) -> list[list[int]]:
    """Which sizes go into which row of `length`."""
    rows: list[list[int]] = []
    left: list[int] = []
    for k, size in enumerate(sizes):
        row = next((r for r, free in enumerate(left) if free >= size), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(length)
        rows[row].append(k)
        left[row] -= size
    return rows


class Trainable:
    """Some parameters of a model, moved through fp32 copies of them; the rest is frozen until `close`.

    Attributes:
        num_old: rows that belong to old tokens.
        english_moves: whether vectors of English text can change.
        flops: floating-point operations so far: per token 2 N where it is only read, `backward_flops` N with gradient;
            N are the weights of the blocks that ran and, if all of them did, of the head.
    """

    english_moves = True
    backward_flops = 6

    def __init__(self, model: PreTrainedModel, start_id: int, num_old: int, moving: list[nn.Parameter]) -> None:
        self.model, self.start_id, self.num_old = model, start_id, num_old
        self.device = model.get_input_embeddings().weight.device
        self.tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        self.flops = 0.0
        self._learned = [p for p in model.parameters() if p.requires_grad]
        for parameter in self._learned:
            parameter.requires_grad_(False)
        self._before = [parameter.detach().clone() for parameter in moving]
        self._moving = [parameter.requires_grad_(True) for parameter in moving]
        self._wide = [nn.Parameter(parameter.detach().float().clone()) for parameter in moving]

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer moves, fp32."""
        return self._wide

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids, in the model's dtype."""
        return self.model.get_input_embeddings()(ids)

    def head(self) -> Tensor:
        """The head [V, D], in the model's dtype."""
        return self.model.get_output_embeddings().weight

    def head_rows(self, ids: Tensor) -> Tensor:
        """Rows of the head for some token ids, fp32."""
        return self.head()[ids].float()

    def collect(self) -> None:
        """After the backward pass: put the gradients where `parameters` has them."""
        for parameter, wide in zip(self._moving, self._wide, strict=True):
            wide.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None

    @torch.no_grad()
    def place(self) -> None:
        """After the optimizer's step: run with the new values from now on."""
        for parameter, wide in zip(self._moving, self._wide, strict=True):
            parameter.copy_(wide)

    @torch.no_grad()
    def close(self, keep: bool) -> None:
        """Put the result into the model, or leave the model as it was before the stage; unfreeze it."""
        for parameter, before in zip(self._moving, self._before, strict=True):
            parameter.grad = None
            parameter.requires_grad_(False)
            if not keep:
                parameter.copy_(before)
        for parameter in self._learned:
            parameter.requires_grad_(True)

    def states(self, packed: Packed) -> tuple[Tensor, ...]:
        """Hidden states of every layer, L+1 tensors [N, D]."""
        self._count(self.model, packed, len(blocks(self.model)))
        place = positions(packed.ids_BT.to(self.device), self.start_id)
        embedded = self.embed(packed.ids_BT.to(self.device))
        found = every_state(self.model, inputs_embeds=embedded, position_ids=place)
        return tuple(state.flatten(0, 1) for state in found)

    def hidden(self, packed: Packed) -> Tensor:
        """Final hidden states [N, D]."""
        return self.run(self.model, self.embed(packed.ids_BT.to(self.device)), packed).last_hidden_state.flatten(0, 1)

    def run(self, model: PreTrainedModel, embedded_BTD: Tensor, packed: Packed) -> Any:
        """The body of a model over packed rows."""
        self._count(model, packed, len(blocks(model)))
        # Any attention mask, or use_cache=True, would silently let attention cross documents.
        return model.base_model(
            inputs_embeds=embedded_BTD,
            position_ids=positions(packed.ids_BT.to(self.device), self.start_id),
            use_cache=False,
        )

    def run_to(
        self, model: PreTrainedModel, depths: Sequence[int], embedded_BTD: Tensor, packed: Packed
    ) -> list[Tensor]:
        """What the blocks numbered `depths` (from 1) give over packed rows, each [N, D]; no later one runs."""
        self._count(model, packed, max(depths))
        place = positions(packed.ids_BT.to(self.device), self.start_id)
        found = states_behind(model, depths, inputs_embeds=embedded_BTD, position_ids=place)
        return [state.flatten(0, 1) for state in found]

    def _count(self, model: PreTrainedModel, packed: Packed, depth: int) -> None:
        """Add what `depth` blocks take."""
        whole = blocks(model)
        weights = sum(p.numel() for block in whole[:depth] for p in block.parameters() if p.ndim >= 2)
        if depth == len(whole):
            weights += model.get_output_embeddings().weight.numel()
        self.flops += (self.backward_flops if torch.is_grad_enabled() else 2.0) * weights * packed.tokens


class NewRows(Trainable):
    """The new rows as parameters of their own, fp32, beside a frozen model; one set if the head is tied, two if not.

    After `share` the input rows are the sum of rows of their own and of `x C`: features x [M, K] of each token times a
    map C [K, D] of all of them, which starts at 0. What one token learns, those with like features learn too, as in
    train/composition.py; nothing of the map is left after the stage.
    """

    english_moves = False
    backward_flops = 4  # the gradient passes through the body and stops at the rows

    def __init__(self, model: PreTrainedModel, start_id: int, num_old: int) -> None:
        super().__init__(model, start_id, num_old, [])
        self.table = model.get_input_embeddings().weight.detach()
        self.old_head = model.get_output_embeddings().weight.detach()
        # Gemma 3 scales inside its embedding module, which is passed by here.
        self.scale = getattr(model.get_input_embeddings(), "embed_scale", None)
        self.rows = nn.Parameter(self.table[num_old:].float().clone())
        self.output_rows = self.rows if self.tied else nn.Parameter(self.old_head[num_old:].float().clone())
        self._features: Tensor | None = None
        self._inputs = [self.rows]

    def share(self, features_MK: Tensor) -> None:
        """Let the input rows move by a shared map of these features too, fp32."""
        self._features = features_MK
        shape = (features_MK.shape[1], self.rows.shape[1])
        self._inputs = [nn.Parameter(self.rows.detach().clone()), nn.Parameter(features_MK.new_zeros(shape))]

    def parameters(self) -> list[nn.Parameter]:
        return self._inputs if self.tied else [*self._inputs, self.output_rows]

    def collect(self) -> None:
        if self._features is not None and self.rows.grad is not None:
            free, shared = self._inputs
            free.grad, shared.grad = self.rows.grad, self._features.T @ self.rows.grad
            self.rows.grad = None

    @torch.no_grad()
    def place(self) -> None:
        if self._features is not None:
            self.rows.copy_(torch.addmm(self._inputs[0], self._features, self._inputs[1]))

    def embed(self, ids: Tensor) -> Tensor:
        embedded = _mixed(ids, self.num_old, self.table, self.rows.to(self.table.dtype))
        return embedded if self.scale is None else embedded * self.scale.to(embedded.dtype)

    def head(self) -> Tensor:
        return torch.cat([self.old_head[: self.num_old], self.output_rows.to(self.old_head.dtype)])

    def head_rows(self, ids: Tensor) -> Tensor:
        return _mixed(ids, self.num_old, self.old_head, self.output_rows).float()

    @torch.no_grad()
    def close(self, keep: bool) -> None:
        if keep:
            self.table[self.num_old :] = self.rows.to(self.table.dtype)
            self.old_head[self.num_old :] = self.output_rows.to(self.old_head.dtype)
        super().close(keep)


def make_trainable(model: PreTrainedModel, trains: str, start_id: int, num_old: int) -> Trainable:
    """What `align.trains` names."""
    if trains == "new_rows":
        return NewRows(model, start_id, num_old)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    moving = {id(p): p for module in ([model] if trains == "all" else tables) for p in module.parameters()}
    return Trainable(model, start_id, num_old, list(moving.values()))


def _mixed(ids: Tensor, num_old: int, table: Tensor, new: Tensor) -> Tensor:
    """Rows of the table for old ids, of `new` [M, D] for the others."""
    if len(new) == 0:
        return table[ids]
    slot = (ids - num_old).clamp(min=0)
    return torch.where((ids >= num_old)[..., None], new[slot], table[ids].to(new.dtype))
