"""Translations out of the JSON lines that wiktextract makes of Wiktionary (kaikki.org), of any language's edition.

An English entry gives the `translations` into the target language, those of its senses included; an entry of the target
language gives the words of its `glosses`, where they are English. Both kinds may stand in one file:

    {"word": "house", "lang_code": "en", "translations": [{"code": "de", "word": "Haus"}, ...]}    house -> Haus
    {"word": "Haus", "lang_code": "de", "senses": [{"glosses": ["house; (archaic) family"]}]}      house, family -> Haus

A gloss is cut at commas and semicolons; remarks in brackets, "to" and articles go, and a piece of more than GLOSS_WORDS
words is an explanation. Senses that only name the word of which this is a form are passed over.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prealign_cpt.lexicon.languages import ENGLISH, LanguageChoice, short_code
from prealign_cpt.lexicon.pairs import Row
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.lines import read_lines

GLOSS_WORDS = 3
"""In a piece of a gloss, at most."""

_ASIDE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_LEADING = re.compile(r"(?:to|an?|the) (?=\S)", re.IGNORECASE)


def read_wiktionary(path: Path, is_target: LanguageChoice) -> Iterator[Row]:
    """Rows in the order of the file.

    Raises:
        DataError: a line is no JSON object, the target language is not in the file, or as `LanguageChoice`.
    """
    for number, line in read_lines(path, limit=None):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON ({error}); is this an extract of wiktextract?") from error
        if not isinstance(entry, dict):
            raise DataError(
                f"{path}:{number}: a JSON {type(entry).__name__}, an object expected; is this wiktextract's?"
            )
        word = _text(entry, "word")
        senses = _objects(entry, "senses")
        if short_code(_text(entry, "lang_code")) == ENGLISH:
            for translation in [*_objects(entry, "translations"), *_all(senses, "translations")]:
                code = _text(translation, "lang_code") or _text(translation, "code")
                target = _text(translation, "word")
                if target and is_target(code, _text(translation, "lang")):
                    yield Row(number, word, target)
        elif is_target(_text(entry, "lang_code"), _text(entry, "lang")):
            for sense in senses:
                if not sense.get("form_of") and not sense.get("alt_of"):
                    glosses = sense.get("glosses")
                    # The last one is the sense itself, those before it are headings over several.
                    gloss = glosses[-1] if isinstance(glosses, list) and glosses else ""
                    for english in _pieces(gloss if isinstance(gloss, str) else ""):
                        yield Row(number, english, word)
    is_target.check()


def _pieces(gloss: str) -> Iterator[str]:
    for _ in range(2):  # one remark inside another, too
        gloss = _ASIDE.sub(" ", gloss)
    for piece in re.split(r"[,;]", gloss):
        bare = _LEADING.sub("", " ".join(piece.split()).rstrip(" ."), count=1)
        if bare and bare.count(" ") < GLOSS_WORDS and not re.search(r"[.:/()\[\]\"“”]", bare):
            yield bare


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _objects(entry: dict[str, Any], key: str) -> list[dict[str, Any]]:
    values = entry.get(key)
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _all(entries: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [value for entry in entries for value in _objects(entry, key)]
