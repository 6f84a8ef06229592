"""The clone's texts and its lexicon, still in English letters.

    files --> documents --> english train | clone train | valid | test           no document in two places
    words of the text, most frequent first --share--> listed --noise--> wrong targets --ambiguity--> second targets

A word of the lexicon stands in lower case if the text ever has it so, else as the text has it ("Moses").
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.reader import read_documents

MOST_CHARACTERS = 8_000
"""Longer documents are cut at a line end, so that a book can be divided too."""

LEAST_DOCUMENTS = 20

HELDOUT_SHARE = 0.03
"""Of the documents, for validation; as much again for the test."""

_BLANK_LINES = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")

_WORD = re.compile(r"(?<![\w'’])[A-Za-z]+(?![\w'’])")
"""A whole word of ASCII letters. Beside an apostrophe it may be part of a contraction, which code-switching leaves."""

_NEIGHBOURS = re.compile(r"(?<!\S)([A-Za-z]+)( )(?=([A-Za-z]+)(?!\S))")
"""A word, a space and the next word, without punctuation at them."""


class Document(NamedTuple):
    """One document and the name of the file that it comes from."""

    label: str
    text: str


def split_documents(paths: list[Path], seed: int) -> dict[str, list[Document]]:
    """Read the files and divide the documents: a share each for validation and test, of the rest half to a language.

    Returns:
        "english", "clone", "valid" and "test", each in the order of the files.

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
    parts = {"english": rest[::2], "clone": rest[1::2], "valid": valid, "test": test}
    return {name: [documents[i] for i in sorted(part)] for name, part in parts.items()}


def _documents(paths: list[Path]) -> Iterator[Document]:
    for path in paths:
        for text in read_documents([path]):
            lines: list[str] = []
            size = 0
            for line in _BLANK_LINES.sub("\n", text).split("\n"):
                if lines and size + len(line) > MOST_CHARACTERS:
                    yield Document(path.stem, "\n".join(lines))
                    lines, size = [], 0
                lines.append(line)
                size += len(line) + 1
            yield Document(path.stem, "\n".join(lines))


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


def count_words(documents: Iterable[str]) -> Counter[str]:
    """The word forms of some documents with how often they occur, forms that differ in case counted as one."""
    forms = Counter(form for document in documents for form in _WORD.findall(document))
    by_lower: dict[str, Counter[str]] = {}
    for form, count in forms.items():
        by_lower.setdefault(form.lower(), Counter())[form] += count
    return Counter(
        {
            lower if lower in cases else max(cases, key=lambda form: (cases[form], form)): cases.total()
            for lower, cases in by_lower.items()
        }
    )


def make_lexicon(
    words: Mapping[str, int], clone: Callable[[str], str], share: float, noise: float, ambiguity: float, seed: int
) -> tuple[list[Pair], dict[str, int]]:
    """Pairs of each word and its clone, most frequent words first, and how many were listed, spoilt and doubled.

    Args:
        words: word -> how often it occurs.
        share: share of the words that is listed, the most frequent ones.
        noise: share of the listed words whose only translation is the clone of another of them.
        ambiguity: share of the listed words with a second translation behind the first, the clone of another word.
    """
    order = sorted(words, key=lambda word: (-words[word], word))
    listed = order[: max(1, round(share * len(order)))]
    targets = {word: [clone(word)] for word in listed}
    draw = random.Random(f"lexicon {seed}")
    wrong = draw.sample(listed, round(noise * len(listed)))
    wrong = wrong if len(wrong) > 1 else []  # one word has nobody to change with
    for word, other in zip(wrong, wrong[1:] + wrong[:1], strict=True):
        targets[word] = [clone(other)]
    ambiguous = draw.sample(listed, round(ambiguity * len(listed))) if len(order) > 2 else []
    for word in ambiguous:
        other = draw.choice(order)
        while clone(other) in (*targets[word], clone(word)):
            other = draw.choice(order)
        targets[word].append(clone(other))
    pairs = [Pair(word, target) for word in listed for target in targets[word]]
    return pairs, {"words": len(order), "listed": len(listed), "wrong": len(wrong), "ambiguous": len(ambiguous)}


def swap_words(document: str, probability: float, draw: random.Random) -> str:
    """The document with words changed places with their right neighbours; no word moves twice.

    Args:
        probability: of each word, that it changes places with the next one. Words at punctuation or at the end of a
            line stay.
    """
    if not probability:
        return document
    parts, done = [], 0
    for match in _NEIGHBOURS.finditer(document):
        if match.start() < done or draw.random() >= probability:
            continue
        parts += [document[done : match.start()], match[3], match[2], match[1]]
        done = match.end(3)
    return "".join([*parts, document[done:]])
