"""English text files to the documents of a clone: cut, freed of repetitions, and dealt out.

files --> documents --> english train | clone train | valid | test
                        no document in two places
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prealign_cpt.run.errors import DataError
from prealign_cpt.text.reader import read_documents

MOST_CHARACTERS = 8_000
"""Longer documents are cut at a line end, so that a book can be dealt out too."""

LEAST_DOCUMENTS = 20

HELDOUT_SHARE = 0.03
"""Of the documents, for validation; as much again for the test."""

SENTENCES = {"english": 400, "clone": 200}
"""Most sentences of one label in the transfer files."""

_BLANK_LINES = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")


@dataclass(frozen=True)
class Document:
    """One document and the name of the file that it comes from."""

    label: str
    text: str


@dataclass(frozen=True)
class Deal:
    """The documents by use, each list in the order of the files."""

    english: list[Document]
    clone: list[Document]
    valid: list[Document]
    test: list[Document]


def deal_documents(paths: list[Path], seed: int) -> Deal:
    """Read the files and deal the documents out: a share each for validation and test, of the rest half to a language.

    Raises:
        DataError: a file cannot be used, or there are too few documents.
        MissingInputError: a file is not there.
    """
    documents = list(dict.fromkeys(_documents(paths)))
    if len(documents) < LEAST_DOCUMENTS:
        raise DataError(
            f"{', '.join(map(str, paths))}: only {len(documents)} different documents of at most {MOST_CHARACTERS} "
            f"characters, at least {LEAST_DOCUMENTS} are needed; give more text, documents separated by blank lines"
        )
    order = list(range(len(documents)))
    random.Random(f"documents {seed}").shuffle(order)
    held = max(1, round(HELDOUT_SHARE * len(order)))
    valid, test, rest = order[:held], order[held : 2 * held], order[2 * held :]
    parts = (rest[::2], rest[1::2], valid, test)
    return Deal(*([documents[at] for at in sorted(part)] for part in parts))


def labelled_sentences(documents: list[Document], most: int, seed: int) -> list[tuple[str, str]]:
    """(label, sentence) in random order, of each label as many as the rarest has, `most` at the highest.

    A sentence that occurs under two labels is left out.
    """
    labels_of: dict[str, set[str]] = {}
    for document in documents:
        for sentence in _SENTENCE_END.split(document.text):
            if 30 <= len(sentence.strip()) <= 200:
                labels_of.setdefault(sentence.strip(), set()).add(document.label)
    by_label: dict[str, list[str]] = {}
    for sentence, labels in labels_of.items():
        if len(labels) == 1:
            by_label.setdefault(min(labels), []).append(sentence)
    draw = random.Random(f"sentences {seed}")
    size = min([most, *map(len, by_label.values())])
    chosen = [(label, sentence) for label, some in sorted(by_label.items()) for sentence in draw.sample(some, size)]
    draw.shuffle(chosen)
    return chosen


def _documents(paths: list[Path]) -> Iterator[Document]:
    for path in paths:
        for text in read_documents([path]):
            for part in _cut(_BLANK_LINES.sub("\n", text)):
                yield Document(path.stem, part)


def _cut(text: str) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for line in text.split("\n"):
        if lines and size + len(line) > MOST_CHARACTERS:
            yield "\n".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    yield "\n".join(lines)
