"""Learn further merges on top of a finished BPE: base-token sequences with counts in, an ordered list of pieces out.

    ("Ġf", "r", "ueh") x 12  ─┐
    ("Ġf", "r", "oh")  x 9   ─┼─►  "Ġfr" 21, "Ġfrueh" 12, "Ġfroh" 9
    guard: ("Ġf", "oot")     ─┘    never "Ġfoot"

A piece is known by its string, not by the pair that made it first: any two neighbours whose concatenation is a piece
merge, the earlier piece first and leftmost among equals. SentencePiece works so by itself; for byte-level BPE the
writer emits one merge rule for each split of a piece. New pieces rank behind every base merge, so a word's
segmentation here is what the grown tokenizer will produce, and a word in which no two neighbours form a new piece
keeps its base tokens. That is the guard: a string that two neighbours of a guard word form is never made a piece.

Symbols are vocabulary strings (byte-level letters or SentencePiece text). A symbol outside the vocabulary is a
character that the base spells in bytes; it merges with nothing until it has been admitted as a piece itself.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Word = tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """One learned piece: its string, the first pair that formed it (both empty for a character), its count then."""

    string: str
    left: str
    right: str
    count: int


class Learner:
    """The state of learning: the words as they are segmented now, and the pieces learned so far, in rank order.

    Args:
        words: target words as base tokens, with how often they occur.
        guard: words whose segmentation must stay as it is.
        vocab: strings of the base vocabulary; none is learned again.
        base_rank: base pieces that neighbours of a new piece may fall into, with their rank. Empty where merges are
            rules on pairs (byte-level), since a base rule never mentions a new piece.
        allowed: whether a string may become a piece.
        whole_words: a word whose whole string is a piece becomes that piece, whatever the merges say (`ignore_merges`).
        min_count: a string that occurs less often is not learned.
    """

    def __init__(
        self,
        words: Mapping[Word, int],
        guard: Iterable[Word],
        *,
        vocab: Collection[str],
        base_rank: Mapping[str, int],
        allowed: Callable[[str], bool],
        whole_words: bool = False,
        min_count: int = 2,
    ) -> None:
        self.pieces: dict[str, Piece] = {}
        self._base: list[Word] = sorted(words)
        self._weight = [words[word] for word in self._base]
        self._now: list[list[str]] = [list(word) for word in self._base]
        self._foreign = {symbol for word in self._base for symbol in word if symbol not in vocab}
        self._locked = set(self._foreign)  # foreign characters that are no pieces (yet)
        self._vocab = vocab
        self._rank = dict(base_rank)
        self._next_rank = max(self._rank.values(), default=-1) + 1
        self._allowed = allowed
        self._min_count = min_count
        self._whole_words = whole_words
        self._words_of: dict[str, list[int]] = defaultdict(list)  # whole string -> words
        if whole_words:
            for index, word in enumerate(self._base):
                self._words_of["".join(word)].append(index)
        self._banned = _formed(guard, whole_words)
        self._count: dict[str, int] = defaultdict(int)  # candidate -> tokens it would save
        self._where: dict[str, set[int]] = defaultdict(set)  # candidate -> words that hold it or held it
        self._fired: dict[str, set[int]] = defaultdict(set)  # piece -> words that it changed
        self._heap: list[tuple[int, str]] = []
        fresh: set[str] = set()
        for index in range(len(self._now)):
            fresh |= self._add(index, self._now[index], 1)
        self._push(fresh)

    def learn(self, size: int) -> None:
        """Go on until there are `size` pieces or nothing is left that is frequent enough, allowed and unguarded."""
        while len(self.pieces) < size and self._heap:
            pushed, string = heapq.heappop(self._heap)
            count = self._count[string]
            if count < self._min_count or string in self._rank:
                continue
            if count != -pushed:  # counts fall without a new entry; put it back where it belongs now
                heapq.heappush(self._heap, (-count, string))
                continue
            if string not in self._banned and string not in self._vocab and self._allowed(string):
                self._take(string, count)

    def segment(self, word: Sequence[str]) -> list[str]:
        """The tokens of any word, given its base tokens, under the pieces learned so far."""
        string = "".join(word)
        if self._whole_words and string in self.pieces:
            return [string]
        symbols = list(word)
        while True:
            ranked = [(self._rank[key], at) for at, key in self._pairs(symbols) if key in self._rank]
            if not ranked:
                return symbols
            _, at = min(ranked)
            symbols[at : at + 2] = ["".join(symbols[at : at + 2])]

    def in_use(self) -> dict[str, str]:
        """Every token in the present segmentation of a training word, with the first such word as one string."""
        held: dict[str, str] = {}
        for base, symbols in zip(self._base, self._now, strict=True):
            for symbol in symbols:
                held.setdefault(symbol, "".join(base))
        return held

    def remove(self, strings: Collection[str]) -> None:
        """Forget pieces for good and segment again the words they had changed."""
        dirty: set[int] = set()
        for string in strings:
            del self.pieces[string], self._rank[string]
            self._banned.add(string)
            dirty |= self._fired.pop(string)
        order = sorted(dirty)
        for index in order:
            self._add(index, self._now[index], -1)
        self._locked |= self._foreign.intersection(strings)
        fresh: set[str] = set()
        for index in order:
            self._now[index] = self.segment(self._base[index])
            fresh |= self._add(index, self._now[index], 1)
        self._push(fresh)

    def _take(self, string: str, count: int) -> None:
        """Make `string` a piece and merge it everywhere."""
        holders = sorted(self._where.pop(string))
        left = right = ""
        fresh: set[str] = set()
        self._rank[string] = self._next_rank
        self._next_rank += 1
        if string in self._locked:
            self._locked.remove(string)
            self._count[string] = 0
            for index in holders:
                fresh |= self._admit(index, string)
        else:
            for index in holders:
                symbols, pair = self._merged(self._now[index], string)
                if pair:
                    left, right = (left, right) if left else pair
                    fresh |= self._replace(index, symbols)
                    self._fired[string].add(index)
        for index in self._words_of.get(string, ()):
            fresh |= self._replace(index, [string])
            self._fired[string].add(index)
        self.pieces[string] = Piece(string, left, right, count)
        self._push(fresh)

    def _admit(self, index: int, character: str) -> set[str]:
        """Count the pairs that a character makes possible now that it is a piece; returns them."""
        symbols = self._now[index]
        if character not in symbols:
            return set()
        self._fired[character].add(index)
        keys = [key for at, key in self._pairs(symbols) if character in symbols[at : at + 2]]
        for key in keys:
            self._count[key] += self._weight[index]
            self._where[key].add(index)
        return set(keys)

    def _merged(self, symbols: list[str], string: str) -> tuple[list[str], tuple[str, str] | None]:
        """`symbols` with each pair that forms `string` merged, from the left, and the first such pair.

        A merged symbol may at once form an older piece with a neighbour; older pieces go first.
        """
        first = None
        symbols = list(symbols)
        at = 0
        while at + 1 < len(symbols):
            if symbols[at] + symbols[at + 1] != string:
                at += 1
                continue
            first = first or (symbols[at], symbols[at + 1])
            symbols[at : at + 2] = [string]
            while True:
                near = [
                    (self._rank[symbols[i] + symbols[i + 1]], i)
                    for i in (at - 1, at)
                    if 0 <= i < len(symbols) - 1 and symbols[i] + symbols[i + 1] in self._rank
                ]
                if not near:
                    break
                at = min(near)[1]
                symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            at = max(at - 1, 0)
        return symbols, first

    def _pairs(self, symbols: Sequence[str]) -> list[tuple[int, str]]:
        """Position and string of each two neighbours that may merge."""
        locked = self._locked
        if locked.isdisjoint(symbols):
            return [(at, symbols[at] + symbols[at + 1]) for at in range(len(symbols) - 1)]
        return [
            (at, symbols[at] + symbols[at + 1])
            for at in range(len(symbols) - 1)
            if symbols[at] not in locked and symbols[at + 1] not in locked
        ]

    def _replace(self, index: int, symbols: list[str]) -> set[str]:
        """Give a word a new segmentation; returns the candidates whose count may have grown."""
        old = self._now[index]
        self._now[index] = symbols
        # What both begin and end with alike, but for one symbol beside what differs, counts as before.
        start, stop = 0, min(len(old), len(symbols))
        while start < stop and old[start] == symbols[start]:
            start += 1
        stop -= start
        end = 0
        while end < stop and old[-1 - end] == symbols[-1 - end]:
            end += 1
        start, end = max(start - 1, 0), max(end - 1, 0)
        self._add(index, old[start : len(old) - end], -1)
        return self._add(index, symbols[start : len(symbols) - end], 1)

    def _add(self, index: int, symbols: list[str], sign: int) -> set[str]:
        """Count the candidates in a part of a word, or take them off; returns them."""
        weight = sign * self._weight[index]
        keys = [key for _, key in self._pairs(symbols)]
        for key in keys:
            self._count[key] += weight
        if not self._locked.isdisjoint(symbols):
            foreign = [symbol for symbol in symbols if symbol in self._locked]
            for symbol in foreign:
                self._count[symbol] += weight * (len(symbol.encode()) - 1)  # its bytes but one are saved
            keys += foreign
        if sign > 0:
            for key in keys:
                self._where[key].add(index)
        return set(keys)

    def _push(self, candidates: set[str]) -> None:
        for string in candidates:
            if self._count[string] >= self._min_count and string not in self._rank:
                heapq.heappush(self._heap, (-self._count[string], string))


def _formed(words: Iterable[Word], whole_words: bool) -> set[str]:
    """Every string that two neighbours of a word form, every character outside the vocabulary among its symbols, and
    with `whole_words` every word."""
    formed: set[str] = set()
    for word in words:
        formed.update(left + right for left, right in pairwise(word))
        formed.update(word)
        if whole_words:
            formed.add("".join(word))
    return formed
