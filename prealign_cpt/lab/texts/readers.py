"""Readers of documentation formats: a file to documents, each a list of raw paragraphs.

They are simple on purpose: what they do not understand they leave out, since a lost paragraph costs less than markup in
the training text.
"""

import gzip
import hashlib
import html.parser
import re
from collections.abc import Callable, Iterator
from pathlib import Path

Documents = Iterator[list[str]]
Reader = Callable[[Path], Documents]

_INLINE = (
    "a abbr acronym app b br cite code cmd em emph file font gui guiseq i input key keyseq kbd link literal q small "
    "span strong sub sup sys tt u var"
)
_SKIPPED = "aside button head header info nav pre screen script style"
INLINE_TAGS, SKIPPED_TAGS = frozenset(_INLINE.split()), frozenset(_SKIPPED.split())


class _Prose(html.parser.HTMLParser):
    """Collects the text of block elements from HTML, or from Mallard, whose tags read alike."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs = [""]
        self.skipped_depth = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.skipped_depth += tag in SKIPPED_TAGS
        self._boundary(tag)

    def handle_endtag(self, tag: str) -> None:
        self._boundary(tag)
        self.skipped_depth = max(0, self.skipped_depth - (tag in SKIPPED_TAGS))

    def handle_data(self, data: str) -> None:
        if not self.skipped_depth:
            self.paragraphs[-1] += data

    def _boundary(self, tag: str) -> None:
        if tag == "br":
            self.paragraphs[-1] += " "
        elif tag not in INLINE_TAGS:
            self.paragraphs.append("")


def read_markup(path: Path) -> Documents:
    """One document from an HTML or Mallard file: its block elements."""
    yield _paragraphs(_text(path))


def _paragraphs(markup: str) -> list[str]:
    parser = _Prose()
    parser.feed(markup)
    parser.close()
    return parser.paragraphs[:-1]  # what stands behind the last tag is no block


MAC_KEYS = re.compile(r'<span hidden="true"[^>]*class="MAC">.*?(?=<span hidden="true" id="default)', re.DOTALL)
"""The keys of a Mac, which stand before those of the other systems and would read as one word with them."""


def read_help(split: str) -> Reader:
    """A reader of LibreOffice's help that passes over the pages of other splits.

    A twentieth of the pages is "valid" and another one "test", by a hash of the path below `text/`: a page and its
    translations are in the same split.
    """

    def read(path: Path) -> Documents:
        page = path.as_posix().rpartition("/text/")[2]
        number = int(hashlib.sha256(page.encode()).hexdigest(), 16) % 20
        if split == {0: "test", 1: "valid"}.get(number, "train"):
            yield _paragraphs(MAC_KEYS.sub("", _text(path).partition("<footer")[0]))

    return read


ROFF_ESCAPES = [
    (r"\\f(\(..|\[[^]]*\]|.)|\\s[-+]?\d|\\[&%/,|^:)c]|\\m\[[^]]*\]", ""),
    (r"\\[ ~0]", " "),
    (r"\\(\(em|\[em\])", "—"),
    (r"\\(\(en|\[en\])", "–"),
    (r"\\(\(aq|\[aq\]|\*\(Aq|\(cq|\[cq\])", "'"),
    (r"\\(\([lr]q|\[[lrd]q\]|\(dq|\*[lr]q|\*\([lr]q)", '"'),
    (r"\\-", "-"),
]
VERBATIM_STARTS, VERBATIM_ENDS = {".EX", ".nf", ".TS"}, {".EE", ".fi", ".TE"}
FONTS = {".BR", ".BI", ".IB", ".IR", ".RB", ".RI", ".B", ".I", ".SM", ".SB"}
"""Macros whose words are text; those of two alternating fonts join their words."""
IGNORED = {".ad", ".nh", ".hy", ".ie", ".el", ".if", ".ds", ".ne", ".UR", ".UE", ".MT", ".ME", ".in"}


def read_man(path: Path) -> Documents:
    """One document from a gzipped manual page in the `man` macros; examples, tables, tags and headings are left out.

    A paragraph with markup that is not understood is dropped. Pages in the `mdoc` macros are left out: their text
    cannot be told from their markup by lines.
    """
    lines = gzip.decompress(path.read_bytes()).decode(errors="replace").splitlines()
    if any(line.startswith(".Sh ") for line in lines):
        return
    paragraphs = [""]
    verbatim, is_tag = False, False
    for line in lines:
        macro, _, rest = line.partition(" ")
        if macro in VERBATIM_STARTS | VERBATIM_ENDS:
            verbatim = macro in VERBATIM_STARTS
            paragraphs.append("")
        elif verbatim or line.startswith((".\\", "'\\")):
            continue
        elif macro in FONTS or not line.startswith("."):
            if line.startswith("."):
                words = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', rest)]
                line = ("" if len(macro) == 3 and macro not in (".SM", ".SB") else " ").join(words)
            paragraphs[-1] += " " + line
            if is_tag:
                paragraphs[-1], is_tag = "", False
        elif macro not in IGNORED:
            paragraphs.append("")
            is_tag = macro == ".TP"
    for pattern, replacement in ROFF_ESCAPES:
        paragraphs = [re.sub(pattern, replacement, paragraph) for paragraph in paragraphs]
    yield [paragraph for paragraph in paragraphs if "\\" not in paragraph]


def read_fortunes(path: Path) -> Documents:
    """One document for each fortune, as one paragraph without its author."""
    if path.suffix != ".dat":
        for fortune in re.split(r"^%.*$", _text(path), flags=re.MULTILINE):
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
    for line in _text(path).splitlines():
        yield [line.partition("| ")[2].split('; "')[0]]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
