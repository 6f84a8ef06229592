"""Larger text for a target language and English, from Debian packages, where `apt-get` and `dpkg-deb` are at hand.

    apt-get download --> dpkg-deb -x --read_*--> raw paragraphs --keep_paragraphs--> {target,english}.{train,...}.txt

About half of it explains software; fortunes, the anarchism FAQ and WordNet's glosses are the general-language part.
A document is a file (or one fortune, or one gloss), its paragraphs one a line; a blank line parts documents. Held out
are whole packages: the Debian FAQ for validation, the GNOME user guides for test. Debian's archive signs what apt
brings, so no hash is pinned here; the manifest records the versions that came.

The readers are simple on purpose: what they do not understand they leave out, since a lost paragraph costs less than
markup in the training text.
"""

import gzip
import html.parser
import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from prealign_cpt.lab.texts.bible import published, write_documents
from prealign_cpt.run.errors import DataError, RecipeError, UnavailableError

Documents = Iterator[list[str]]
Source = tuple[str, str, Callable[[Path], Documents]]
"""Package, glob inside it, reader of its files."""


def fetch_debian(code: str) -> Path:
    """The folder `<cache>/debian-<code>` with `{target,english}.{train,valid,test}.txt`, made if it is not there.

    Args:
        code: language of the target: "de" or "ru".

    Raises:
        RecipeError: no packages are listed for this code.
        UnavailableError: not a Debian system, or apt cannot download.
        DataError: the published folder is damaged, or the packages hold no text for a split.
    """
    codes = sorted(set(SOURCES) - {"en"})
    if code not in codes:
        raise RecipeError(f"language {code!r}: no Debian packages are listed for it; choose one of {', '.join(codes)}")
    about: dict[str, object] = {"code": code}

    def fill(folder: Path) -> None:
        packages = folder / "packages"
        packages.mkdir()
        sides = {"target": code, "english": "en"}
        names = {name for side in sides.values() for sources in SOURCES[side].values() for name, _, _ in sources}
        about["packages"] = versions = download_packages(sorted(names), packages)
        for side, language in sides.items():
            _write_side(language, packages, folder, side)
        shutil.rmtree(packages)
        lines = ["Debian packages; each holds its licence in usr/share/doc/<package>/copyright."]
        lines += [f"{name} {version}" for name, version in versions.items()]
        (folder / "SOURCE.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return published(f"debian-{code}", about, fill)


def download_packages(names: list[str], folder: Path) -> dict[str, str]:
    """Download packages into `folder` and unpack each to `folder/<name>`; return their versions by name.

    Raises:
        UnavailableError: apt-get or dpkg-deb is not there, or cannot find, bring or unpack one.
    """
    _run(["apt-get", "download", "-qq", *names], folder, "run 'apt-get update' as root and check the network")
    versions = {}
    for path in sorted(folder.glob("*.deb")):
        remedy = "remove the package from apt's lists and download again"
        name, version = _run(["dpkg-deb", "--show", path.name], folder, remedy).split()
        (folder / name).mkdir()
        _run(["dpkg-deb", "-x", path.name, name], folder, remedy)
        versions[name] = version
        path.unlink()
    return versions


def _run(command: list[str], folder: Path, remedy: str) -> str:
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise UnavailableError(
            f"{command[0]} is not there: the larger text needs Debian or Ubuntu; use the Bible text"
        ) from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        reason = next((line for line in lines if line.startswith("E:")), lines[-1])
        raise UnavailableError(f"{command[0]}: {reason}; {remedy}")
    return done.stdout


def _write_side(code: str, packages: Path, folder: Path, side: str) -> None:
    """Write one language's splits. A paragraph stands in one split only, and the held-out ones take it first."""
    seen: set[str] = set()
    for split in ("test", "valid", "train"):
        documents = []
        for name, pattern, reader in SOURCES[code][split]:
            for path in sorted(path for path in (packages / name).glob(pattern) if not path.is_symlink()):
                for paragraphs in reader(path) if path.is_file() else ():
                    if kept := keep_paragraphs(paragraphs, code, seen):
                        documents.append(kept)
        if not documents:
            raise DataError(
                f"{side}.{split}.txt: the packages hold no text for it; they changed since this was written"
            )
        write_documents(documents, folder / f"{side}.{split}.txt")


MIN_CHARACTERS = 40
MIN_LETTERS = 0.75
"""Least share of letters among the visible characters of a paragraph: below are tables, code and drawings."""

GERMAN = "der die das und ist nicht ein eine einen zu mit von den dem des für auf wird werden sie im auch"
ENGLISH = "the of and to is in a that it for are be with as on not this or by you an can"
FUNCTION_WORDS = {"de": set(GERMAN.split()), "en": set(ENGLISH.split())}


def keep_paragraphs(paragraphs: list[str], code: str, seen: set[str]) -> list[str]:
    """The paragraphs that are prose in language `code` and not in `seen`, cleaned; they are added to `seen`."""
    kept = []
    for paragraph in paragraphs:
        text = " ".join(unicodedata.normalize("NFC", paragraph).split())
        if len(text) < MIN_CHARACTERS or "\ufffd" in text or text in seen:
            continue
        letters = [character for character in text if character.isalpha()]
        if len(letters) >= MIN_LETTERS * len(text.replace(" ", "")) and _is_language(text, letters, code):
            seen.add(text)
            kept.append(text)
    return kept


def _is_language(text: str, letters: list[str], code: str) -> bool:
    """Whether most letters are Cyrillic, or the language's function words outnumber those of the other list."""
    if code == "ru":
        return sum("\u0400" <= letter <= "\u04ff" for letter in letters) > len(letters) / 2
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = {language: sum(word in known for word in words) for language, known in FUNCTION_WORDS.items()}
    return hits[code] > max(count for language, count in hits.items() if language != code)


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
    parser = _Prose()
    parser.feed(_text(path))
    parser.close()
    yield parser.paragraphs[:-1]  # what stands behind the last tag is no block


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


SHARE = "usr/share"


def _sources(man: str, help_name: str, gnome: str, suffix: str, *others: Source) -> dict[str, list[Source]]:
    """What the three languages have in common, under each one's names, and the training text of one alone."""
    return {
        "test": [("gnome-user-docs", f"{SHARE}/help/{gnome}/**/*.page", read_markup)],
        "valid": [(f"debian-faq{suffix}", f"{SHARE}/doc/debian/FAQ/**/*.html", read_markup)],
        "train": [
            (f"fortunes{suffix}", f"{SHARE}/games/fortunes/**/*", read_fortunes),
            (f"manpages{suffix}", f"{SHARE}/man/{man}*/*.gz", read_man),
            (f"manpages{suffix}-dev", f"{SHARE}/man/{man}*/*.gz", read_man),
            (f"libreoffice-help-{help_name}", f"{SHARE}/libreoffice/help/{help_name}/text/**/*.html", read_markup),
            *others,
        ],
    }


SOURCES = {
    "de": _sources(
        "de/man", "de", "de", "-de", ("debian-reference-de", f"{SHARE}/debian-reference/*.html", read_markup)
    ),
    "ru": _sources("ru/man", "ru", "ru", "-ru"),
    "en": _sources(
        "man", "en-us", "C", "",
        ("debian-reference-en", f"{SHARE}/debian-reference/*.html", read_markup),
        ("anarchism", f"{SHARE}/doc/anarchism/html/*.html", read_markup),
        ("wordnet-base", f"{SHARE}/wordnet/data.*", read_glosses),
    ),
}  # fmt: skip
