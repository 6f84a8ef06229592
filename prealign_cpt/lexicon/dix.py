"""Translations out of Apertium's bilingual dictionaries (`.dix`, XML).

    <e><p><l>house<s n="n"/></l><r>Haus<s n="n"/></r></p></e>       house -> Haus
    <e r="RL"><p><l>shop</l><r>Geschäft</r></p></e>                 translated from right to left only: comes last
    <e><i>taxi</i></e>                                              the same on both sides

`<b/>` is a space; grammar (`<s/>`), patterns (`<re>`) and entries that are switched off (`i="yes"`) give nothing. The
left side is the language that the file names first (`apertium-eng-deu.eng-deu.dix`).
"""

from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from prealign_cpt.lexicon.pairs import Row
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.lines import open_unpacked

_CHUNK = 1 << 16


def read_dix(path: Path) -> Iterator[Row]:
    """Rows in the order of the file, those that are translated in one direction behind the others.

    Raises:
        DataError: not XML; entities are declared, which a dictionary has no need of; no entry has two sides.
        MissingInputError: the file is not there.
    """
    entries = _Entries(path)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = lambda name, attributes: entries.start(name, attributes, parser.CurrentLineNumber)
    parser.EndElementHandler = entries.end
    parser.CharacterDataHandler = entries.characters
    parser.EntityDeclHandler = entries.entity
    with open_unpacked(path) as file:
        try:
            while chunk := file.read(_CHUNK):
                parser.Parse(chunk)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise DataError(f"{path}:{error.lineno}: not XML ({expat.errors.messages[error.code]})") from error
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: damaged: {error}; get the file again") from error
    if not entries.rows and not entries.one_way:
        raise DataError(f"{path}: no entry has two sides; a bilingual .dix is needed, not one of a single language")
    yield from entries.rows
    yield from entries.one_way


class _Entries:
    """What the parser has seen."""

    def __init__(self, path: Path) -> None:
        self.rows: list[Row] = []
        self.one_way: list[Row] = []
        self._path = path
        self._sides: dict[str, list[str]] = {}
        self._side = ""
        self._usable, self._restricted, self._line = False, False, 0

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        if name == "e":
            self._sides, self._line = {"l": [], "r": []}, line
            self._usable, self._restricted = attributes.get("i") != "yes", "r" in attributes
        elif name in ("l", "r", "i"):
            self._side = name
        elif name == "b":
            self.characters(" ")
        elif name == "re":
            self._usable = False

    def end(self, name: str) -> None:
        if name == self._side:
            self._side = ""
        elif name == "e" and self._usable:
            source, target = ("".join(self._sides[side]) for side in "lr")
            if source.strip() and target.strip():
                (self.one_way if self._restricted else self.rows).append(Row(self._line, source, target))

    def characters(self, text: str) -> None:
        for side in "lr" if self._side == "i" else self._side:
            self._sides.setdefault(side, []).append(text)

    def entity(self, name: str, *_: object) -> None:
        raise DataError(
            f"{self._path}: declares the entity {name!r}; entities are not read, write out what it stands for"
        )
