"""Words in token ids: found, drawn, looked up in a table and replaced, in many documents at once.

A token is, by the text that it adds, the start of a word (a space, then letters), the inside of one (letters only), or
no part of any; marks go with their letters. A word is a run of such tokens; one that an apostrophe follows ("king's")
is left out. In scripts without spaces each token that begins with a letter is taken for a word.

Random numbers are a pure function of (seed, epoch, document, word), by a counter-based generator: SplitMix64 (Steele,
Lea and Flood, OOPSLA 2014) in uint64 arrays. Every document has a key, and the draw of its word `w` is the mixed value
of `key + (w + 1) * GOLDEN`. So a draw depends neither on the documents beside it nor on the order in which they are
read.

Shapes: N tokens of all documents, D documents, W words, K words out of them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.text.scripts import is_letters, is_unspaced

Ids = NDArray[np.int32]
Places = NDArray[np.int64]
Item = TypeVar("Item", bound=np.generic)

GOLDEN = 0x9E3779B97F4A7C15
"""2^64 / golden ratio, odd: SplitMix64's step."""

Draws = NDArray[np.uint64]

OTHER, APOSTROPHE, START, INSIDE = 0, 1, 2, 3
"""What a token is to a word: nothing; nothing, and it begins with an apostrophe; its start; what goes on with it."""

ABSENT = -1
"""Node of a `SpanTable` that does not exist."""


@dataclass(frozen=True)
class Documents:
    """Token ids of documents end to end.

    Args:
        ids: int32 [N].
        borders: int64 [D+1]; document `d` is `ids[borders[d] : borders[d + 1]]`.
    """

    ids: Ids
    borders: Places

    @classmethod
    def of(cls, ids: Ids) -> "Documents":
        """One document."""
        return cls(ids, np.array([0, len(ids)]))

    def __len__(self) -> int:
        return len(self.borders) - 1


@dataclass(frozen=True)
class WordSpans:
    """Where the words of documents are.

    Args:
        starts: int64 [W], rising.
        counts: int64 [D], words of each document.
        goes_on: bool [N+1]; the token carries on the word of the token before it.
    """

    starts: Places
    counts: Places
    goes_on: NDArray[np.bool_]

    def ends(self, starts: Places) -> Places:
        """Ends (exclusive) of the words that begin at `starts`, int64 [K]."""
        breaks = np.flatnonzero(~self.goes_on)
        return breaks[np.searchsorted(breaks, starts, side="right")]


class Words:
    """Finds words.

    Args:
        texts: of every token id; see `model.tokens.token_texts`.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._kind = np.array([_kind(text) for text in texts], dtype=np.int8)

    def find(self, documents: Documents) -> WordSpans:
        """The words of some documents; none reaches over a border."""
        kind = self._kind.take(documents.ids)
        inside_now = kind >= START
        inside_before = np.empty_like(inside_now)
        inside_before[1:] = inside_now[:-1]
        first = documents.borders[:-1]
        inside_before[first[first < len(kind)]] = False
        goes_on = np.zeros(len(kind) + 1, dtype=bool)
        np.logical_and(kind == INSIDE, inside_before, out=goes_on[:-1])
        starts = np.flatnonzero(inside_now & ~goes_on[:-1])
        before_apostrophe = np.flatnonzero((kind == APOSTROPHE) & inside_before)
        starts = np.delete(starts, np.searchsorted(starts, before_apostrophe) - 1)
        return WordSpans(starts, np.diff(np.searchsorted(starts, documents.borders)), goes_on)


def _kind(text: str) -> int:
    if text[:1] in ("'", "’"):
        return APOSTROPHE
    if text.startswith(" "):
        return START if is_letters(text[1:]) else OTHER
    if not is_letters(text):
        return OTHER
    return START if is_unspaced(text) else INSIDE


class Splice:
    """Replaces spans of an array by others of any length.

    Args:
        length: of the array.
        starts, ends: int64 [K], the spans; rising, apart from each other.
        lengths: int64 [K], of what replaces them.

    Attributes:
        at: int64 [K], where each replacement begins in the result.
        inserted: int64 [sum of lengths], places of the replacements in the result.
    """

    def __init__(self, length: int, starts: Places, ends: Places, lengths: Places) -> None:
        growth = lengths - (ends - starts)
        self._starts, self._growth = starts, np.concatenate([[0], np.cumsum(growth)])
        self.at = starts + self._growth[:-1]
        self.inserted = ragged(self.at, lengths)
        self._stays = np.ones(length, dtype=bool)
        self._stays[ragged(starts, ends - starts)] = False
        self._open = np.ones(length + int(self._growth[-1]), dtype=bool)
        self._open[self.inserted] = False

    def apply(self, old: NDArray[Item], new: NDArray[Item]) -> NDArray[Item]:
        """`old` with `new`, the replacements end to end, in the place of the spans."""
        result = np.empty(len(self._open), dtype=old.dtype)
        result[self._open] = old[self._stays]
        result[self.inserted] = new
        return result

    def marks(self, starts: Places) -> NDArray[np.uint8]:
        """For each place of the result: 1 where a word begins (`starts` of the array), 2 where a replacement does."""
        marks = np.zeros(len(self._stays), dtype=np.uint8)
        marks[starts] = 1
        marks = self.apply(marks, np.zeros(len(self.inserted), dtype=np.uint8))
        marks[self.at] = 2
        return marks

    def moved(self, borders: Places) -> Places:
        """Where places between spans lie in the result."""
        return borders + self._growth[np.searchsorted(self._starts, borders)]


def ragged(starts: Places, lengths: Places) -> Places:
    """`starts[k], starts[k] + 1, ...`, `lengths[k]` of them for each k, end to end."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


class SpanTable:
    """A set of token id sequences, in which many spans are looked up at once; they are numbered in the order given.

    A trie whose edges are one sorted array: key `node * num_ids + id`, found by binary search. All spans walk it
    together, one token a step, and leave when the trie has no edge for them. It compares ids, not hashes of them, so
    there are no collisions.

    Args:
        spans: different from each other, none empty.
        num_ids: ids are below it.
    """

    def __init__(self, spans: Iterable[tuple[int, ...]], num_ids: int) -> None:
        edges: dict[tuple[int, int], int] = {}
        values: list[int] = []
        for number, span in enumerate(spans):
            node = ABSENT
            for i in span:
                if (node, i) not in edges:
                    edges[node, i] = len(values)
                    values.append(ABSENT)
                node = edges[node, i]
            values[node] = number
        self._num_ids = num_ids
        self._value = np.array(values, dtype=np.int64)
        self._first = np.full(num_ids, ABSENT, dtype=np.int64)
        inner = {}
        for (node, i), child in edges.items():
            if node == ABSENT:
                self._first[i] = child
            else:
                inner[node * num_ids + i] = child
        # The last key stands for none, so that a search that runs off the end finds an edge to nowhere.
        self._keys = np.array([*sorted(inner), np.iinfo(np.int64).max], dtype=np.int64)
        self._children = np.array([inner[key] for key in sorted(inner)] + [ABSENT], dtype=np.int64)

    def find(self, ids: Ids, starts: Places, goes_on: NDArray[np.bool_]) -> tuple[Places, Places, Places]:
        """Which spans of `ids` are in the table.

        Args:
            ids: int32 [N].
            starts: int64 [K]; a span reaches as far as `goes_on` (bool [N+1]) is true behind its start.

        Returns:
            Which of the K were found (rising), their ends (exclusive), and their numbers.
        """
        which: list[Places] = []
        ends: list[Places] = []
        numbers: list[Places] = []
        alive = np.arange(len(starts))
        at = starts
        node = self._first[ids[at]]
        while len(alive):
            there = np.flatnonzero(node != ABSENT)
            alive, at, node = alive[there], at[there] + 1, node[there]
            more = goes_on[at]
            done = np.flatnonzero(~more)
            number = self._value[node[done]]
            listed = np.flatnonzero(number != ABSENT)
            which.append(alive[done[listed]])
            ends.append(at[done[listed]])
            numbers.append(number[listed])
            alive, at, node = alive[more], at[more], node[more]
            key = node * self._num_ids + ids[at]
            place = np.searchsorted(self._keys, key)
            node = np.where(self._keys[place] == key, self._children[place], ABSENT)
        order = np.argsort(joined := _join(which))
        return joined[order], _join(ends)[order], _join(numbers)[order]


def _join(parts: list[Places]) -> Places:
    return np.concatenate([*parts, np.empty(0, dtype=np.int64)])


def mix(x: Draws) -> Draws:
    """SplitMix64's finalizer, in place: a bijection of 64-bit words in which every input bit moves every output bit."""
    shifted = x >> 30
    x ^= shifted
    x *= 0xBF58476D1CE4E5B9
    np.right_shift(x, 27, out=shifted)
    x ^= shifted
    x *= 0x94D049BB133111EB
    np.right_shift(x, 31, out=shifted)
    x ^= shifted
    return x


def document_keys(seed: int, epoch: int, first: int, count: int) -> Draws:
    """Keys of the documents `first`, `first + 1`, ..., uint64 [count]."""
    key = np.zeros(1, dtype=np.uint64)
    for number in (seed, epoch):
        key = mix((key + GOLDEN) ^ np.uint64(number % 2**64))
    return mix((key + GOLDEN) ^ np.arange(first, first + count).astype(np.uint64))


def word_draws(keys_D: Draws, counts_D: NDArray[np.int64]) -> Draws:
    """One draw per word, uniform on 64 bits, uint64 [sum of counts]: words 0, 1, ... of each document in turn."""
    before = (np.cumsum(counts_D) - counts_D).astype(np.uint64)
    x = np.arange(1, int(counts_D.sum()) + 1, dtype=np.uint64)
    x *= GOLDEN
    x += np.repeat(keys_D - before * GOLDEN, counts_D)
    return mix(x)


def happens(x: Draws, probability: float) -> NDArray[np.bool_]:
    """True with a probability, which is rounded to a multiple of 2^-53."""
    return (x >> 11) < round(probability * 2**53)


def pick(x: Draws, groups: NDArray[np.int64], begins: Draws) -> NDArray[np.int64]:
    """A choice out of each group, by the choices' weights to 2^-32, independent of what `happens` says of the draw.

    Args:
        groups: int64 [K], the number of each draw's group.
        begins: of all groups' choices, end to end; see `shares`.

    Returns:
        Places in `begins`, int64 [K].
    """
    point = mix(x ^ np.uint64(GOLDEN)) >> 32 | groups.astype(np.uint64) << 32
    return np.searchsorted(begins, point, side="right") - 1


def shares(groups: Iterable[Sequence[float]]) -> Draws:
    """The unit interval of each group (its number is before the point) cut among its choices: where each one's part
    begins, in units of 2^-32, uint64. Equal weights give what `draw * count >> 32` gives.

    Args:
        groups: the weights of each group's choices, above 0.
    """
    begins = []
    for number, weights in enumerate(groups):
        if len(set(weights)) == 1:
            begins += [number << 32 | -(-(k << 32) // len(weights)) for k in range(len(weights))]
            continue
        total, sum_before = math.fsum(weights), 0.0
        for weight in weights:
            begins.append(number << 32 | min(math.ceil(sum_before / total * 2**32), 2**32 - 1))
            sum_before += weight
    return np.array(begins, dtype=np.uint64)
