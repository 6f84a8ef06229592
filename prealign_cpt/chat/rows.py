"""Rendered conversations to rows of one length on disk, and these rows as a training reads them.

    conversation 0, 1, 2, … --ids, learned--> whole ones side by side, padded --> inputs, labels, positions .npy

A row holds as many whole conversations as come next and fit, each attending to itself alone. Its rest is padding, which
is not learned. There are as many rows as the training reads; row n is sequence n.

Shapes: R rows, T tokens of a row.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from prealign_cpt.chat.crossing import Conversations
from prealign_cpt.chat.instructions import Messages
from prealign_cpt.chat.render import Renderer
from prealign_cpt.data.word_spans import Ids
from prealign_cpt.model.bits import Batch
from prealign_cpt.model.loss import IGNORED
from prealign_cpt.run.errors import DataError

NAMES = ("inputs", "labels", "positions")


class Rows:
    """The rows that `write_rows` wrote, as `data.mixture.Sequences`.

    Args:
        folder: of `inputs.npy`, `labels.npy` and `positions.npy`, int32 [R, T].
    """

    def __init__(self, folder: Path) -> None:
        self._arrays = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in NAMES]

    def documents(self, numbers: list[int], start_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `Sequences` says. No start token is put anywhere: a conversation begins as its template says."""
        inputs, labels, places = (torch.from_numpy(array[numbers].astype(np.int64)) for array in self._arrays)
        return inputs, labels, places


def write_rows(
    conversations: Conversations, renderer: Renderer, num_rows: int, length: int, pad_id: int, out: Path
) -> dict[str, float]:
    """Fill `out` with rows; what was done: "conversations" in the rows, "tokens" of them, "learned" ones among these,
    "fill", and how many conversations were "longer" than a row or "unclear" (no exact borders, a special token in it).

    Raises:
        DataError: no conversation can be used.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = [open_memmap(out / f"{name}.npy", mode="w+", dtype=np.int32, shape=(num_rows, length)) for name in NAMES]
    for file, value in zip(files, (pad_id, IGNORED, 0), strict=True):
        file[:] = value
    counts: Counter[str] = Counter()
    rendered = _rendered(conversations, renderer, length, counts)
    ids, learned = next(rendered)
    for row in range(num_rows):
        place = 0
        while place + len(ids) <= length:
            part = slice(place, place + len(ids))
            for file, values in zip(files, (ids, np.where(learned, ids, IGNORED), np.arange(len(ids))), strict=True):
                file[row, part] = values
            place = part.stop
            counts.update(conversations=1, tokens=len(ids), learned=int(learned.sum()))
            ids, learned = next(rendered)
        files[2][row, place:] = np.arange(length - place)  # the padding is a document by itself
    for file in files:
        file.flush()
    told = ("conversations", "tokens", "learned", "longer", "unclear")
    return {name: counts[name] for name in told} | {"fill": round(counts["tokens"] / (num_rows * length), 4)}


def _rendered(
    conversations: Conversations, renderer: Renderer, length: int, counts: Counter[str]
) -> Iterator[tuple[Ids, np.ndarray]]:
    most = 4 * (len(conversations.items) + len(conversations.pairs))
    n = unused = 0
    while unused < most:
        example = renderer.example(conversations[n])
        n, unused = n + 1, unused + 1
        if example is None:
            counts["unclear"] += 1
        elif len(example[0]) > length:
            counts["longer"] += 1
        else:
            unused = 0
            yield example
    raise DataError(
        f"chat: of {most} conversations in a row {counts['longer']} are longer than chat.sequence_length ({length}), "
        f"{counts['unclear']} unclear (they spell a special token, or their template hides where an answer begins); "
        "raise chat.sequence_length, or look at chat.instructions"
    )


def answer_batch(asked: list[Messages], renderer: Renderer, pad_id: int) -> Batch:
    """Conversations as a batch of which the answers are scored, by the bytes of their last one."""
    examples = [(one, example) for one in asked if (example := renderer.example(one)) is not None]
    length = max(len(ids) for _, (ids, _) in examples)
    inputs, labels = torch.full((len(examples), length), pad_id), torch.full((len(examples), length), IGNORED)
    for b, (_, (ids, learned)) in enumerate(examples):
        row = torch.from_numpy(ids.astype(np.int64))
        inputs[b, : len(ids)] = row
        labels[b, : len(ids)] = torch.where(torch.from_numpy(learned), row, IGNORED)
    places = torch.arange(length).expand(inputs.shape).contiguous()
    sizes = [len(one[-1][1].encode()) for one, _ in examples]
    return Batch(inputs, labels, places, sum(sizes), int((labels != IGNORED).sum()), tuple(enumerate(sizes)))
