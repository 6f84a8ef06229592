"""Text to packed sequences on disk.

    documents -> token ids -> (English: switched) -> start token + ids, end to end -> rows of `sequence_length`

A packed text is a pair of ordinary `.npy` files, int32 [sequences, sequence_length], opened as memory maps:
`NAME.inputs.npy`, and `NAME.labels.npy` only where labels differ from inputs. Every document begins with the start
token; a row may begin inside a document.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from prealign_cpt.data.codeswitch import Ids, Switched
from prealign_cpt.errors import DataError

DOCUMENTS_AT_ONCE = 256
"""Documents per call of the tokenizer, which works on them in parallel."""


def pack(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    start_id: int,
    length: int,
    out: Path,
    switch: Callable[[Ids, int], Switched] | None = None,
) -> dict[str, Any]:
    """Write `out.inputs.npy` (and `out.labels.npy` if `switch` is given); return counts.

    Args:
        documents: plain text.
        start_id: put before every document.
        length: tokens per row.
        out: path without suffix.
        switch: (ids of a document, its number) -> the switched document.

    Returns:
        documents, tokens (all), sequences, dropped_tokens (the rest that fills no row), and with `switch` the words
        seen, chosen and switched.

    Raises:
        DataError: the text does not fill one row.
    """
    writer = _Writer(out, length, with_labels=switch is not None)
    counts = {"documents": 0, "tokens": 0, "words": 0, "chosen": 0, "switched": 0}
    start = np.array([start_id], dtype=np.int32)
    for ids in encode(documents, tokenizer):
        done = switch(ids, counts["documents"]) if switch else Switched(ids, ids, 0, 0, 0)
        writer.add(np.concatenate([start, done.inputs]), np.concatenate([start, done.labels]))
        counts["documents"] += 1
        counts["tokens"] += len(done.inputs) + 1
        counts["words"] += done.words
        counts["chosen"] += done.chosen
        counts["switched"] += done.switched
    rows = writer.close()
    if not rows:
        raise DataError(
            f"{out.name}: {counts['tokens']} tokens do not fill one sequence of {length}; "
            "give more text or lower data.sequence_length"
        )
    if switch is None:
        counts = {key: counts[key] for key in ("documents", "tokens")}
    return {**counts, "sequences": rows, "dropped_tokens": counts["tokens"] - rows * length}


def encode(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterable[Ids]:
    """Token ids of each document, int32. Text that looks like a special token is ordinary text."""
    batch: list[str] = []
    for document in documents:
        batch.append(document)
        if len(batch) == DOCUMENTS_AT_ONCE:
            yield from _encode(batch, tokenizer)
            batch = []
    if batch:
        yield from _encode(batch, tokenizer)


def _encode(batch: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Ids]:
    encoded = tokenizer(batch, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return [np.array(ids, dtype=np.int32) for ids in encoded]


class _Writer:
    """Collects tokens and appends full rows to raw files; the `.npy` files are made when the count is known."""

    def __init__(self, out: Path, length: int, with_labels: bool) -> None:
        self._names = ("inputs", "labels") if with_labels else ("inputs",)
        self._out, self._length, self._rows = out, length, 0
        self._files = [self._path(name, "raw").open("wb") for name in self._names]
        self._rest: list[list[Ids]] = [[] for _ in self._names]
        self._waiting = 0

    def add(self, inputs: Ids, labels: Ids) -> None:
        for rest, ids in zip(self._rest, (inputs, labels), strict=False):
            rest.append(ids)
        self._waiting += len(inputs)
        if self._waiting >= 1024 * self._length:
            self._write()

    def close(self) -> int:
        self._write()
        for name, file in zip(self._names, self._files, strict=True):
            file.close()
            raw = self._path(name, "raw")
            if self._rows:
                shape = (self._rows, self._length)
                target = np.lib.format.open_memmap(self._path(name, "npy"), "w+", np.int32, shape)
                target[:] = np.memmap(raw, np.int32, "r", shape=shape)
                target.flush()
            raw.unlink()
        return self._rows

    def _write(self) -> None:
        rows = self._waiting // self._length
        for i, file in enumerate(self._files):
            ids = np.concatenate([*self._rest[i], np.empty(0, np.int32)]).astype(np.int32)
            ids[: rows * self._length].tofile(file)
            self._rest[i] = [ids[rows * self._length :]]
        self._waiting -= rows * self._length
        self._rows += rows

    def _path(self, name: str, suffix: str) -> Path:
        return self._out.with_name(f"{self._out.name}.{name}.{suffix}")
