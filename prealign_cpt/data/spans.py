"""A set of token id sequences, in which many spans are looked up at once.

A trie whose edges are one sorted array: key `node * num_ids + id`, found by binary search. All spans walk it together,
one token a step, and leave when the trie has no edge for them. It compares ids, not hashes of them, so there are no
collisions.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.data.words import Ids, Places

ABSENT = -1


class SpanTable:
    """Numbers sequences of ids 0, 1, ... in the order given.

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
