"""Language-model losses of the training stage: text in the new language, and English text as anchor.

    documents ─► windows [., 1 + WINDOW] ─► TextLoss (anything may move) or FrozenTextLoss (only new rows move)

While the body and the old rows stand still, English hidden states are constant: `FrozenTextLoss` runs the model once,
and a step costs one small matrix product with the new output rows.
Shapes: N positions, D hidden size, M new tokens.
"""

import random
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from prealign_cpt.align.trainable import NewRows, Packed, Trainable, pack
from prealign_cpt.model.loss import chunked_nll
from prealign_cpt.model.world import World

WINDOW = 128
"""Tokens that a window of text predicts."""


def target_windows(documents: Iterable[list[int]], start_id: int, count: int, seed: int) -> Tensor:
    """Windows taken at random, int64 [count or fewer, 1 + WINDOW]."""
    rows = list(_windows(documents, start_id))
    return torch.tensor(random.Random(seed).sample(rows, min(count, len(rows))), dtype=torch.long)


def english_windows(documents: Iterable[list[int]], num_old: int, start_id: int, count: int) -> Tensor:
    """The first windows, int64 [count or fewer, 1 + WINDOW]; new tokens are left out, so every label is an old one."""
    old = ([i for i in ids if i < num_old] for ids in documents)
    return torch.tensor(list(islice(_windows(old, start_id), count)), dtype=torch.long)


def _windows(documents: Iterable[list[int]], start_id: int) -> Iterator[list[int]]:
    """Documents end to end, each after the start token, cut into pieces of 1 + WINDOW that share their border token;
    the rest that fills no piece is given only if it is all there is."""
    rest: list[int] = []
    whole = False
    for ids in documents:
        rest += [start_id, *ids]
        while len(rest) > WINDOW:
            whole = True
            yield rest[: WINDOW + 1]
            rest = rest[WINDOW:]
    if not whole and len(rest) > 1:
        yield rest


class TextLoss:
    """Mean negative log-likelihood in nats of windows of text, with what moves in place at both ends.

    Args:
        windows: int64 [W, 1 + WINDOW], W > 0; read from front to back and then again.
        per_step: windows in a step, over all ranks.
    """

    weight = 1.0

    def __init__(self, name: str, model: Trainable, windows: Tensor, per_step: int, world: World) -> None:
        self.name, self._model, self._windows, self._per_step, self._world = name, model, windows, per_step, world

    def loss(self, step: int) -> Tensor:
        """This rank's part of the loss of a step (0, 1, ...); the parts of all ranks add up to it."""
        first = step * self._per_step
        places = range(first + self._world.rank, first + self._per_step, self._world.size)
        mine = [place % len(self._windows) for place in places]
        # A rank without a window runs one for nothing: all ranks must run the model equally often.
        chosen = self._windows[mine or [0]].to(self._model.device)
        inputs, labels = chosen[:, :-1], chosen[:, 1:].reshape(-1)
        hidden = self._model.hidden(Packed(inputs, [], inputs.numel()))
        nats = chunked_nll(hidden, labels, self._model.head())[: len(mine) * inputs.shape[1]]
        return nats.sum() / (self._per_step * inputs.shape[1])


class FrozenTextLoss:
    """The same loss for text of old tokens when only new rows move, on positions drawn at random.

    Args:
        windows: int64 [W, 1 + WINDOW], labels are old tokens; each rank keeps the hidden states of its part.
        positions: of each step, over all ranks.
    """

    weight = 1.0

    def __init__(self, name: str, model: NewRows, windows: Tensor, positions: int, seed: int, world: World) -> None:
        self.name, self._model, self._positions, self._seed, self._world = name, model, positions, seed, world
        self._count, self._length = len(windows), windows.shape[1] - 1
        hidden, lse, logit = [], [], []
        head = model.old_head[: model.num_old]
        with torch.no_grad():
            mine = windows[world.rank :: world.size].to(model.device)
            for start in range(0, -(-len(windows) // world.size), 8):
                batch = mine[start : start + 8]
                if not len(batch):
                    model.hidden(pack([], model.start_id))  # all ranks must run the model equally often
                    continue
                states = model.hidden(Packed(batch[:, :-1], [], batch[:, :-1].numel()))
                logits = (states @ head.T).float()
                hidden.append(states.float())
                lse.append(logits.logsumexp(dim=-1))
                logit.append(logits.gather(1, batch[:, 1:].reshape(-1, 1))[:, 0])
        empty = torch.zeros(0, device=model.device)
        self.hidden_ND = torch.cat([empty.view(0, head.shape[1]), *hidden])
        self.old_logsumexp_N = torch.cat([empty, *lse])
        self.label_logit_N = torch.cat([empty, *logit])

    def loss(self, step: int) -> Tensor:
        """This rank's part of the loss of a step; the parts of all ranks add up to it."""
        generator = torch.Generator().manual_seed(self._seed + step)
        picked = torch.randint(self._count * self._length, (self._positions,), generator=generator)
        window, place = picked // self._length, picked % self._length
        mine = window % self._world.size == self._world.rank
        chosen = (window[mine] // self._world.size * self._length + place[mine]).to(self._model.device)
        return self.nats(chosen).sum() / self._positions

    def nats(self, chosen: Tensor) -> Tensor:
        """Negative log-likelihood of some of this rank's positions, fp32."""
        new = (self.hidden_ND[chosen] @ self._model.output_rows.T).logsumexp(dim=-1)
        return torch.logaddexp(self.old_logsumexp_N[chosen], new) - self.label_logit_N[chosen]
