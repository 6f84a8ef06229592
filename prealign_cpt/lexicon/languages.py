"""Which of the languages in a dictionary is wanted."""

from functools import lru_cache
from pathlib import Path

from prealign_cpt.run.errors import DataError
from prealign_cpt.text.languages import Language, language_of

ENGLISH = "en"

_NAMED_AT_MOST = 8


class LanguageChoice:
    """Says of each language in a file whether it is the target; asked for every entry, front to back.

    Args:
        wanted: name or code; empty: the only language beside English.
        path: for messages.
    """

    def __init__(self, wanted: str, path: Path) -> None:
        self._path, self._is_named, self._found = path, bool(wanted), False
        self._wanted = language_named(wanted) if wanted else None
        self._others: dict[str, None] = {}

    def __call__(self, code: str, name: str = "") -> bool:
        """Whether a code (of ISO 639, perhaps with script or variety) or a name is that of the target.

        Raises:
            DataError: no language is wanted, and this is the second one beside English.
        """
        if not (code or name):
            return False
        short = short_code(code)
        if self._wanted is None and short not in ("", ENGLISH):
            self._wanted = Language(name, short, "")
        wanted = self._wanted
        if wanted and (short == wanted.short or (name and name.casefold() == wanted.name.casefold())):
            self._found = True
            return True
        if wanted and not self._is_named and short != ENGLISH:
            raise DataError(
                f"{self._path}: holds several languages ({wanted.name or wanted.short}, {name or code}, ...); name one "
                "with --language (in a recipe `language`)"
            )
        if len(self._others) < _NAMED_AT_MOST:
            self._others[name or code] = None
        return False

    def check(self) -> None:
        """Called behind the last entry.

        Raises:
            DataError: the target was not among the languages.
        """
        if not self._found:
            wanted = (self._wanted.name or self._wanted.short) if self._wanted else "a language beside English"
            others = ", ".join(self._others) or "none"
            raise DataError(f"{self._path}: nothing in {wanted}; languages in it: {others}; see --language")


def language_named(text: str) -> Language:
    """The language of a name or a code; one that is not known is its own code."""
    known = language_of(text)
    return known if known.short else language_of(text, text)


@lru_cache(maxsize=4096)
def short_code(code: str) -> str:
    """The code that stands for a language here: ISO 639-1 where there is one."""
    return language_of(code=code).short
