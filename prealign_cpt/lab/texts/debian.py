"""Larger text for a target language and English, from Debian packages, where `apt-get` and `dpkg-deb` are at hand.

    apt-get download --> dpkg-deb -x --readers.py--> raw paragraphs --keep_paragraphs--> {target,english}.{train,..}.txt
                                   --dictionary.py--> lexicon.tsv (Greek, Hindi)

About half of it explains software (all of it in Greek and Hindi); fortunes, the anarchism FAQ and WordNet's glosses are
the general-language part.
A document is a file (or one fortune, or one gloss), its paragraphs one a line; a blank line parts documents. Debian's
archive signs what apt brings, so no hash is pinned here; the manifest records the versions that came.

In German and Russian whole packages are held out: the Debian FAQ for validation, the GNOME user guides for test. Greek
and Hindi have one large package each, LibreOffice's help, of which whole pages are held out, so that their test is of
the same kind as their training text; the GNOME user guides, where there are any, are general.{target,english}.txt.
"""

import os
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

from prealign_cpt.lab.texts.bible import published, write_documents
from prealign_cpt.lab.texts.dictionary import DICTIONARIES, write_lexicon
from prealign_cpt.lab.texts.readers import Reader, read_fortunes, read_glosses, read_help, read_man, read_markup
from prealign_cpt.run.errors import DataError, RecipeError, UnavailableError

Source = tuple[str, str, Reader]
"""Package, glob inside it, reader of its files."""

Splits = dict[str, list[Source]]
"""Sources by "train", "valid" and "test", perhaps "general"."""


def fetch_debian(code: str) -> Path:
    """The folder `<cache>/debian-<code>` with `{target,english}.{train,valid,test}.txt`, made if it is not there.

    Greek and Hindi come with `lexicon.tsv` (English, tab, target: single words), Greek with
    `general.{target,english}.txt` (evaluation only).

    Args:
        code: language of the target: "de", "el", "hi" or "ru".

    Raises:
        RecipeError: no packages are listed for this code.
        UnavailableError: not a Debian system, or apt cannot download.
        DataError: the published folder is damaged, or the packages hold no text for a split.
    """
    if code not in SOURCES:
        codes = ", ".join(sorted(SOURCES))
        raise RecipeError(f"language {code!r}: no Debian packages are listed for it; choose one of {codes}")
    about: dict[str, object] = {"code": code}

    def fill(folder: Path) -> None:
        packages = folder / "packages"
        packages.mkdir()
        target, english = SOURCES[code]
        names = {name for splits in (target, english) for sources in splits.values() for name, _, _ in sources}
        dictionaries = DICTIONARIES.get(code, [])
        names.update(name for name, _ in dictionaries)
        about["packages"] = versions = download_packages(sorted(names), packages)
        _write_side(target, code, packages, folder, "target")
        _write_side(english, "en", packages, folder, "english")
        if dictionaries:
            write_lexicon(dictionaries, packages, folder / "target.train.txt", folder / "lexicon.tsv")
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
            f"{command[0]} is not there: the larger text needs Debian or Ubuntu; fetch it there and copy the folder"
        ) from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        reason = next((line for line in lines if line.startswith("E:")), lines[-1])
        raise UnavailableError(f"{command[0]}: {reason}; {remedy}")
    return done.stdout


def _write_side(splits: Splits, code: str, packages: Path, folder: Path, side: str) -> None:
    """Write one language's splits. A paragraph stands in one split only, and the held-out ones take it first."""
    seen: set[str] = set()
    for split in sorted(splits, key=["general", "test", "valid", "train"].index):
        file = f"{split}.{side}.txt" if split == "general" else f"{side}.{split}.txt"
        documents = []
        for name, pattern, reader in splits[split]:
            for path in sorted(path for path in (packages / name).glob(pattern) if not path.is_symlink()):
                for paragraphs in reader(path) if path.is_file() else ():
                    if kept := keep_paragraphs(paragraphs, code, seen):
                        documents.append(kept)
        if not documents:
            raise DataError(f"{file}: the packages hold no text for it; they changed since this was written")
        write_documents(documents, folder / file)


MIN_CHARACTERS = 40
MIN_LETTERS = 0.75
"""Least share of letters and vowel signs among the visible characters of a paragraph: below are tables and code."""

SCRIPTS = {
    "el": re.compile("[\u0370-\u03ff\u1f00-\u1fff]"),
    "hi": re.compile("[\u0900-\u097f]"),
    "ru": re.compile("[\u0400-\u04ff]"),
}

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
        letters = [character for character in text if unicodedata.category(character)[0] in "LM"]
        if len(letters) >= MIN_LETTERS * len(text.replace(" ", "")) and _is_language(text, letters, code):
            seen.add(text)
            kept.append(text)
    return kept


def _is_language(text: str, letters: list[str], code: str) -> bool:
    """Whether most letters are of the script, or the language's function words outnumber those of the other list."""
    if code in SCRIPTS:
        return len(SCRIPTS[code].findall("".join(letters))) > len(letters) / 2
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = {language: sum(word in known for word in words) for language, known in FUNCTION_WORDS.items()}
    return hits[code] > max(count for language, count in hits.items() if language != code)


SHARE = "usr/share"


def _by_package(man: str, help_name: str, gnome: str, suffix: str, *others: Source) -> Splits:
    """What English, German and Russian have in common, under each one's names, and the training text of one alone."""
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


def _by_page(help_name: str, *others: Source) -> Splits:
    """LibreOffice's help, split by page, and more training text."""
    package, pages = f"libreoffice-help-{help_name.lower()}", f"{SHARE}/libreoffice/help/{help_name}/text/**/*.html"
    splits = {split: [(package, pages, read_help(split))] for split in ("test", "valid", "train")}
    splits["train"] += others
    return splits


def _general(gnome: str) -> Splits:
    return {"general": [("gnome-user-docs", f"{SHARE}/help/{gnome}/**/*.page", read_markup)]}


ENGLISH_ALONE = [
    ("debian-reference-en", f"{SHARE}/debian-reference/*.html", read_markup),
    ("anarchism", f"{SHARE}/doc/anarchism/html/*.html", read_markup),
    ("wordnet-base", f"{SHARE}/wordnet/data.*", read_glosses),
]
ENGLISH_BY_PACKAGE = _by_package("man", "en-us", "C", "", *ENGLISH_ALONE)
ENGLISH_BY_PAGE = _by_page(
    "en-US",
    ("debian-faq", f"{SHARE}/doc/debian/FAQ/**/*.html", read_markup),
    ("fortunes", f"{SHARE}/games/fortunes/**/*", read_fortunes),
    ("manpages", f"{SHARE}/man/man*/*.gz", read_man),
    ("manpages-dev", f"{SHARE}/man/man*/*.gz", read_man),
    *ENGLISH_ALONE,
)

SOURCES: dict[str, tuple[Splits, Splits]] = {
    "de": (
        _by_package(
            "de/man", "de", "de", "-de", ("debian-reference-de", f"{SHARE}/debian-reference/*.html", read_markup)
        ),
        ENGLISH_BY_PACKAGE,
    ),
    "el": (
        _general("el")
        | _by_page(
            "el",
            ("gimp-help-el", f"{SHARE}/gimp/2.0/help/el/*[!x].html", read_markup),  # without its index
            ("installation-guide-amd64", f"{SHARE}/doc/installation-guide-amd64/el/*.html", read_markup),
        ),
        _general("C") | ENGLISH_BY_PAGE,
    ),
    "hi": (_by_page("hi"), ENGLISH_BY_PAGE),
    "ru": (_by_package("ru/man", "ru", "ru", "-ru"), ENGLISH_BY_PACKAGE),
}
"""The sources of the target language and of English, by the target's code."""
