"""Token ids of documents to packed sequences on disk.

    documents -> token ids, framed by start and end token -> (switched) -> end to end -> rows of `sequence_length`

A packed text is a pair of ordinary `.npy` files, int32 [sequences, sequence_length], opened as memory maps:
`NAME.inputs.npy`, and `NAME.labels.npy` only where labels differ from inputs. A row may begin inside a document; there
is no padding.

Shapes: R rows.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prealign_cpt.data.codeswitch import Switched
from prealign_cpt.data.word_spans import Documents, Ids
from prealign_cpt.model.tokens import encode_plain

DOCUMENTS_AT_ONCE = 256
"""Documents per call of the tokenizer, which works on them in parallel."""

ROWS_AT_ONCE = 1024
"""Rows that are written together."""


@dataclass(frozen=True)
class Packed:
    """Counts of what `pack` has written; addable.

    Args:
        documents, tokens: all that were given; the start tokens count.
        sequences: rows.
        length: tokens per row.
        words, chosen, switched: sums of those of the parts.
    """

    documents: int
    tokens: int
    sequences: int
    length: int
    words: int
    chosen: int
    switched: int

    def __add__(self, other: "Packed") -> "Packed":
        assert self.length == other.length
        sums = {key: value + getattr(other, key) for key, value in vars(self).items()}
        return Packed(**sums | {"length": self.length})

    @property
    def counts(self) -> dict[str, float]:
        """For a report. `dropped_tokens` is the rest that fills no row; `fill` is tokens used / places in the rows."""
        capacity = self.sequences * self.length
        dropped = self.tokens - capacity
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "sequences": self.sequences,
            "dropped_tokens": dropped,
            "fill": (self.tokens - dropped) / capacity,
        }


def pack(parts: Iterable[Switched], length: int, out: Path, with_labels: bool = False) -> Packed:
    """Write `out.inputs.npy`, `out.labels.npy` if asked, and where words were looked for `out.words.npy`: int32 [R, 2],
    the words that begin in each row, and those of them that were replaced.

    Args:
        parts: documents in order, some at a time.
        length: tokens per row.
        out: path without suffix.
    """
    sums = np.zeros(5, dtype=np.int64)
    marks = [np.empty((0, 2), dtype=np.int32)]
    paths = {name: out.with_name(f"{out.name}.{name}.npy") for name in ("inputs", "labels")[: 1 + with_labels]}
    with ExitStack() as stack:
        files = {name: stack.enter_context(path.open("wb")) for name, path in paths.items()}
        for file in files.values():
            _write_header(file, 0, length)
        for rows, counts in _rows(parts, length):
            sums += counts
            for name, file in files.items():
                getattr(rows, name).tofile(file)
            of_rows = rows.marks.reshape(-1, length)
            marks.append(np.stack([(of_rows > 0).sum(1), (of_rows == 2).sum(1)], axis=1, dtype=np.int32))
        words_R2 = np.concatenate(marks)
        for file in files.values():
            file.seek(0)
            _write_header(file, len(words_R2), length)
    documents, tokens, words, chosen, switched = sums.tolist()
    if words:
        np.save(out.with_name(f"{out.name}.words.npy"), words_R2)
    return Packed(documents, tokens, len(words_R2), length, words, chosen, switched)


def _rows(parts: Iterable[Switched], length: int) -> Iterator[tuple[Switched, NDArray[np.int64]]]:
    """The parts laid end to end and cut into whole rows, many at a time, each time with the counts of the parts that
    came in: documents, tokens, words, chosen, switched. What fills no row is left out, but counted."""
    waiting: list[Switched] = []
    size = 0
    counts = np.zeros(5, dtype=np.int64)
    for part in chain(parts, [None]):
        if part is not None:
            waiting.append(part)
            counts += (len(part.borders) - 1, len(part.inputs), part.words, part.chosen, part.switched)
            size += len(part.inputs)
            if size < ROWS_AT_ONCE * length:
                continue
        if waiting:
            inputs, labels, marks = (
                np.concatenate([getattr(p, name) for p in waiting]) for name in ("inputs", "labels", "marks")
            )
            end = len(inputs) // length * length
            yield Switched(inputs[:end], labels[:end], np.empty(0, np.int64), marks[:end]), counts
            waiting = [Switched(inputs[end:], labels[end:], np.empty(0, np.int64), marks[end:])]
            size -= end
            counts = np.zeros(5, dtype=np.int64)


def _write_header(file: BinaryIO, rows: int, length: int) -> None:
    """A header's length does not depend on the number of rows: numpy leaves room for arrays that grow."""
    descr = np.lib.format.dtype_to_descr(np.dtype(np.int32))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (rows, length)})


def encode(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[Ids]:
    """Token ids of each document, int32. Text that looks like a special token is ordinary text."""
    for batch in _encoded(documents, tokenizer):
        yield from (np.array(ids, dtype=np.int32) for ids in batch)


def encode_many(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, start_id: int, end_id: int | None = None
) -> Iterator[Documents]:
    """Token ids of some documents at a time, `start_id` before each and `end_id`, if there is one, behind it."""
    end = [] if end_id is None else [end_id]
    for batch in _encoded(documents, tokenizer):
        framed = [[start_id, *ids, *end] for ids in batch]
        borders = np.cumsum([0, *map(len, framed)])
        yield Documents(np.fromiter(chain.from_iterable(framed), np.int32, borders[-1]), borders)


def _encoded(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[list[int]]]:
    remaining = iter(documents)
    while batch := list(islice(remaining, DOCUMENTS_AT_ONCE)):
        yield encode_plain(tokenizer, batch)
