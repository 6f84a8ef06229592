"""Documents that stand in a text more than once, exactly or nearly.

documents --signatures--> uint64 [D, 1 + BANDS], 120 bytes a document, by task --repeated--> which to leave out

Nearly alike are documents one of whose bands of ROWS minima (MinHash, Broder 1997) is the same: of pairs with 80 % of
their 5-grams of words in common 92 % are found, of those with 50 %, 5 %. The first document stays. Arrays are read
band by band, so that memory is some 30 bytes a document of the whole text: 3 GB for a hundred million.
Shapes: D documents, G grams.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prealign_cpt import __version__
from prealign_cpt.run.manifest import new_folder
from prealign_cpt.text.grams import Hashes, Words

BANDS, ROWS = 14, 8

SHINGLE = 5
"""Words of the grams that two documents are compared by."""

_RANDOM = np.random.default_rng(0)
_FACTORS = _RANDOM.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_ADDENDS = _RANDOM.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)


def signatures(words: Words, number: int) -> Hashes:
    """Of each of so many documents a hash of the whole, then one of each band; a document of fewer words than a shingle
    has bands of its own."""
    rows = np.zeros((number, 1 + BANDS), dtype=np.uint64)
    whole, documents = words.whole(words.document)
    rows[documents] = whole[:, None]
    grams, first = words.grams(SHINGLE)
    if len(grams):
        of = words.document[first]
        starts = np.flatnonzero(np.diff(of, prepend=-1))
        minima = minhash(grams, starts)  # [BANDS * ROWS, documents with grams]
        bands = np.zeros((BANDS, len(starts)), dtype=np.uint64)
        for row in range(ROWS):
            bands = mixed(bands + minima[row::ROWS])
        rows[of[starts], 1:] = bands.T
    return rows


def minhash(grams: Hashes, starts: NDArray[np.int64]) -> Hashes:
    """The least value of each of some permutations of the hashes of each stretch, [BANDS * ROWS, stretches]."""
    spread = mixed(grams)
    return np.array([
        np.minimum.reduceat(spread * factor + addend, starts)
        for factor, addend in zip(_FACTORS, _ADDENDS, strict=True)
    ])  # fmt: skip


def mixed(hashes: Hashes) -> Hashes:
    """A permutation of 64-bit numbers after which every bit hangs on all (the end of SplitMix64, Steele 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def repeated(files: Sequence[Path]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which documents repeat an earlier one exactly, and which others nearly; of all files' signatures, in order."""
    columns = [np.load(file, mmap_mode="r") for file in files]
    exact, near = (np.zeros(sum(map(len, columns)), dtype=bool) for _ in range(2))
    for band in range(1 + BANDS):
        _, first = np.unique(np.concatenate([column[:, band] for column in columns]), return_index=True)
        again = np.ones(len(exact), dtype=bool)
        again[first] = False
        if band:
            near |= again
        else:
            exact = again
    return exact, near & ~exact


def write_clean(
    out: Path, tasks: Sequence[str], results: Mapping[str, dict[str, Any]], scratch: Path
) -> dict[str, dict[str, Any]]:
    """Write the clean documents of the tasks without those that repeat an earlier one, `out/SOURCE/00000.jsonl`; by
    source "kept" and "removed" {reason: [lines or documents, bytes]}.

    Raises:
        StorageError: `out` cannot be written.
    """
    exact, near = repeated([scratch / f"{task}.npy" for task in tasks])
    counts: dict[str, dict[str, Any]] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out, {"version": __version__}) as folder:
        start = 0
        for task in tasks:
            source = task.partition("/")[0]
            count = counts.setdefault(source, {"kept": [0, 0], "removed": {}})
            for reason, (number, size) in results[task]["removed"].items():
                _add(count["removed"].setdefault(reason, [0, 0]), number, size)
            (folder / source).mkdir(exist_ok=True)
            with (scratch / f"{task}.jsonl").open("rb") as documents, (folder / f"{task}.jsonl").open("wb") as file:
                for line in documents:
                    reason = "exact" if exact[start] else "near" if near[start] else ""
                    start += 1
                    _add(count["removed"][reason] if reason else count["kept"], 1, len(line))
                    if not reason:
                        file.write(line)
    return counts


def _add(count: list[int], number: int, size: int) -> None:
    count[0] += number
    count[1] += size
