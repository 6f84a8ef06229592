"""Prose out of the file formats that documentation comes in: HTML, Mallard, man pages, fortunes, WordNet.

    file --read_*--> documents, each a list of raw paragraphs --keep_paragraphs--> clean, in one language, not repeated

The readers are simple on purpose: what they do not understand they leave out, since a lost paragraph costs less than
markup in the training text.
"""

import gzip
import html.parser
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

Documents = Iterator[list[str]]

MIN_CHARACTERS = 40
MIN_LETTERS = 0.75
"""Least share of letters among the visible characters of a paragraph: below are tables, code and drawings."""

GERMAN = "der die das und ist nicht ein eine einen zu mit von den dem des für auf wird werden sie im auch"
ENGLISH = "the of and to is in a that it for are be with as on not this or by you an can"
FUNCTION_WORDS = {"de": set(GERMAN.split()), "en": set(ENGLISH.split())}
CYRILLIC = {"ru"}

INLINE_TAGS = (
    "a abbr acronym app b br cite code cmd em emph file font gui guiseq i input key keyseq kbd link literal q small "
    "span strong sub sup sys tt u var"
)
SKIPPED_TAGS = "aside button head header info nav pre screen script style"


def keep_paragraphs(paragraphs: list[str], code: str, seen: set[str]) -> list[str]:
    """The paragraphs that are prose in language `code` and not in `seen`, cleaned; they are added to `seen`."""
    kept = []
    for paragraph in paragraphs:
        text = " ".join(unicodedata.normalize("NFC", paragraph).split())
        if len(text) < MIN_CHARACTERS or "\ufffd" in text or text in seen:
            continue
        letters = [character for character in text if character.isalpha()]
        if len(letters) < MIN_LETTERS * len(text.replace(" ", "")) or not _is_language(text, letters, code):
            continue
        seen.add(text)
        kept.append(text)
    return kept


def _is_language(text: str, letters: list[str], code: str) -> bool:
    """Whether most letters are Cyrillic, or the language's function words outnumber those of the other list."""
    if code in CYRILLIC:
        return sum("\u0400" <= letter <= "\u04ff" for letter in letters) > len(letters) / 2
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = {language: sum(word in known for word in words) for language, known in FUNCTION_WORDS.items()}
    return hits[code] > max(count for language, count in hits.items() if language != code)


class _Prose(html.parser.HTMLParser):
    """Collects the text of block elements from HTML, or from Mallard, whose tags read alike."""

    INLINE = frozenset(INLINE_TAGS.split())
    SKIPPED = frozenset(SKIPPED_TAGS.split())

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self.parts: list[str] = []
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.depth += tag in self.SKIPPED
        self._boundary(tag)

    def handle_endtag(self, tag: str) -> None:
        self._boundary(tag)
        self.depth = max(0, self.depth - (tag in self.SKIPPED))

    def handle_data(self, data: str) -> None:
        if not self.depth:
            self.parts.append(data)

    def _boundary(self, tag: str) -> None:
        if tag == "br":
            self.parts.append(" ")
        elif tag not in self.INLINE:
            self.paragraphs.append("".join(self.parts))
            self.parts = []


def read_markup(path: Path) -> Documents:
    """One document from an HTML or Mallard file: its block elements."""
    parser = _Prose()
    parser.feed(path.read_text(encoding="utf-8", errors="replace"))
    parser.close()
    yield parser.paragraphs


ROFF_ESCAPES = [
    (r"\\f(\(..|\[[^]]*\]|.)|\\s[-+]?\d|\\[&%/,|^:)c]|\\m\[[^]]*\]", ""),
    (r"\\[ ~0]", " "),
    (r"\\(\(em|\[em\])", "—"),
    (r"\\(\(en|\[en\])", "–"),
    (r"\\(\(aq|\[aq\]|\*\(Aq|\(cq|\[cq\])", "'"),
    (r"\\(\([lr]q|\[[lrd]q\]|\(dq|\*[lr]q|\*\([lr]q)", '"'),
    (r"\\-", "-"),
]


def read_man(path: Path) -> Documents:
    """One document from a gzipped manual page in the `man` macros; examples, tables, tags and headings are left out.

    A paragraph with markup that is not understood is dropped. Pages in the `mdoc` macros are left out: their text
    cannot be told from their markup by lines.
    """
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    if any(line.startswith(".Sh ") for line in lines):
        return
    paragraphs: list[str] = [""]
    verbatim, is_tag = False, False
    for line in lines:
        macro, _, rest = line.partition(" ")
        if macro in {".EX", ".nf", ".TS"} or macro in {".EE", ".fi", ".TE"}:
            verbatim = macro in {".EX", ".nf", ".TS"}
            paragraphs.append("")
        elif verbatim or line.startswith((".\\", "'\\")):
            continue
        elif macro in {".B", ".I", ".BR", ".BI", ".IB", ".IR", ".RB", ".RI", ".SM", ".SB"} or not line.startswith("."):
            if line.startswith("."):
                words = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', rest)]
                line = ("" if len(macro) == 3 and macro != ".SM" and macro != ".SB" else " ").join(words)
            paragraphs[-1] += " " + line
            if is_tag:
                paragraphs[-1], is_tag = "", False
        elif macro not in {".ad", ".nh", ".hy", ".ie", ".el", ".if", ".ds", ".ne", ".UR", ".UE", ".MT", ".ME", ".in"}:
            paragraphs.append("")
            is_tag = macro == ".TP"
    for pattern, replacement in ROFF_ESCAPES:
        paragraphs = [re.sub(pattern, replacement, paragraph) for paragraph in paragraphs]
    yield [paragraph for paragraph in paragraphs if "\\" not in paragraph]


def read_fortunes(path: Path) -> Documents:
    """One document for each fortune, as one paragraph without its author."""
    if path.suffix == ".dat":
        return
    for fortune in re.split(r"^%.*$", path.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE):
        yield [_without_author(fortune)]


def _without_author(fortune: str) -> str:
    """Cut the indented lines at the end that begin with a dashed one; a dialogue's dashes are not indented."""
    lines = fortune.rstrip().splitlines()
    for number in range(len(lines) - 1, 0, -1):
        if not lines[number][:1].isspace():
            break
        if lines[number].lstrip().startswith("--"):
            return "\n".join(lines[:number])
    return fortune


def read_glosses(path: Path) -> Documents:
    """One document for each gloss of a WordNet data file, without its quoted examples."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        yield [line.partition("| ")[2].split('; "')[0]]
