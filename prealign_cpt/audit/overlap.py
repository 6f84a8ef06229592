"""Test text in training text: lines that stand there whole, and their 8-grams.

test documents --Sets.add--> hashes of grams and lines --find, by task--> place of each --Sets.figures--> shares

A gram is 8 words in a row of a document, whatever its line ends and punctuation, or 16 letters of a script without
spaces; it belongs to the line in which it begins. Shapes: K known hashes, L lines.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.text.grams import Hashes, Known, Words, normal
from prealign_cpt.text.scripts import unspaced_share

GRAM, UNSPACED_GRAM = 8, 16
"""Words, and letters of scripts without spaces."""

LEAST_WORDS = 4
"""Of a line that is looked for whole; shorter ones ("Amen.") are everybody's."""

MUCH = 0.5
"""A line of whose grams so many are found is found."""

MANY = 8
"""A line of training text repeats test text if half of its grams are found, or so many: 15 words in a long line."""

SHOWN = 10
"""Places that a report names."""


@dataclass(frozen=True)
class Sought:
    """What training text is searched for; sent to workers."""

    hashes: Hashes
    """[K], each once, rising."""
    widths: tuple[int, ...]

    @cached_property
    def _known(self) -> Known:
        return Known(self.hashes)

    def find(self, words: Words, lines: NDArray[np.int64]) -> tuple[list[tuple[Any, Any, bool]], NDArray[np.bool_]]:
        """What is found in some lines: (known hashes, the document of each, whether they are whole lines); and which
        lines repeat test text, [L]."""
        found, repeats = [], np.zeros(len(words.counts), dtype=bool)
        hashes, numbers = words.whole(words.line)
        where, which = self._known.find(hashes)
        long = words.counts[numbers[where]] >= LEAST_WORDS
        repeats[numbers[where[long]]] = True
        found.append((which[long], lines[numbers[where[long]]], True))
        for width in self.widths:
            hashes, first = words.grams(width)
            where, which = self._known.find(hashes)
            found.append((which, words.document[first[where]], False))
            of, hits = (np.bincount(words.line[at], minlength=len(repeats)) for at in (first, first[where]))
            repeats |= (hits > 0) & (hits >= np.minimum(MUCH * of, MANY))
        return found, repeats


@dataclass
class Sets:
    """The test text, in the process that asks."""

    names: list[str] = field(default_factory=list)
    """Of the set of each line."""
    lines: list[str] = field(default_factory=list)
    _hashes: list[Hashes] = field(default_factory=list)
    _owners: list[tuple[NDArray[np.int64], bool]] = field(default_factory=list)
    _widths: set[int] = field(default_factory=set)

    def add(self, name: str, documents: Iterable[str]) -> None:
        """Add the documents of a set."""
        texts = list(documents)
        width = UNSPACED_GRAM if unspaced_share("".join(texts)[:100_000]) > 0.5 else GRAM
        lines = [(i, line) for i, text in enumerate(texts) for line in text.split("\n") if line.strip()]
        words = Words([normal(line) for _, line in lines], [i for i, _ in lines])
        grams, first = words.grams(width)
        whole, numbers = words.whole(words.line)
        long = words.counts[numbers] >= LEAST_WORDS
        self._hashes += [grams, whole[long]]
        self._owners += [
            (words.line[first] + len(self.lines), False), (numbers[long] + len(self.lines), True)
        ]  # fmt: skip
        self._widths.add(width)
        self.names += [name] * len(lines)
        self.lines += [line for _, line in lines]

    @cached_property
    def sought(self) -> Sought:
        """To be called when all sets are there."""
        every = np.concatenate([*self._hashes, np.empty(0, dtype=np.uint64)])
        return Sought(np.unique(every), tuple(sorted(self._widths)))

    def figures(self, grams: NDArray[np.int64], whole: NDArray[np.int64]) -> dict[str, dict[str, Any]]:
        """By set: "lines" (those that have a gram or are long enough), "whole", "half", "any": of them, how many stand
        whole in the training text, with half of their grams, with any; "places": line and place number of some.

        Args:
            grams, whole: a place in the training text of each hash, as a gram and as a whole line, or -1; [K].
        """
        of, hits, place = (np.zeros(len(self.lines), dtype=np.int64) for _ in range(3))
        asked, exact = (np.zeros(len(self.lines), dtype=bool) for _ in range(2))
        place -= 1
        for hashes, (owners, is_line) in zip(self._hashes, self._owners, strict=True):
            at = (whole if is_line else grams)[np.searchsorted(self.sought.hashes, hashes)]
            asked[owners] = True
            place[owners[at >= 0]] = at[at >= 0]
            if is_line:
                exact[owners] = at >= 0
            else:
                of += np.bincount(owners, minlength=len(of))
                hits += np.bincount(owners[at >= 0], minlength=len(of))
        half = exact | ((hits > 0) & (hits >= MUCH * of))
        result = {}
        names = np.array(self.names)
        for name in dict.fromkeys(self.names):
            own = asked & (names == name)
            some = np.flatnonzero(own & half)[:SHOWN]
            result[name] = {
                **{"lines": int(own.sum()), "whole": int((own & exact).sum()), "half": int((own & half).sum())},
                "any": int((own & (exact | (hits > 0))).sum()),
                "places": [{"line": self.lines[i], "place": int(place[i])} for i in some],
            }
        return result
