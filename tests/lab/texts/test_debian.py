"""The packages through stand-ins for apt-get and dpkg-deb, and which paragraphs and pages stay."""

import shutil
from pathlib import Path

import pytest

from prealign_cpt.lab.texts import debian, fetch
from prealign_cpt.lab.texts.debian import fetch_debian, keep_paragraphs
from prealign_cpt.lab.texts.readers import read_help, read_markup
from prealign_cpt.run import manifest
from prealign_cpt.run.errors import DataError, RecipeError, UnavailableError
from tests.lab.texts.test_dictionary import package

ENGLISH = "This is the first paragraph of a page that is written for the test."
GERMAN = "Dies ist der erste Absatz einer Seite, die für den Test geschrieben wird."
GREEK = "Αυτή είναι η πρώτη παράγραφος μιας σελίδας που γράφτηκε για τη δοκιμή."
HINDI = "यह उस पृष्ठ का पहला अनुच्छेद है जो जाँच के लिए लिखा गया है।"
RUSSIAN = "Это первый абзац страницы, которая написана для проверки программы."

APT = """#!/bin/sh
[ -z "$FAIL" ] || { echo "W: a warning" >&2; echo "$FAIL" >&2; exit 100; }
shift 2
for name in "$@"; do echo "$name" > "${name}_1.0_all.deb"; done
"""

DPKG = """#!/bin/sh
case $1 in
--show) read name < "$2"; printf '%s\\t1.0\\n' "$name" ;;
-x) mkdir -p "$3"; cp -r "$TREES/$3/." "$3" 2> /dev/null || : ;;
esac
"""


@pytest.mark.parametrize(
    ("code", "text", "kept"),
    [
        ("de", GERMAN, True),
        ("de", ENGLISH, False),
        ("en", ENGLISH, True),
        ("en", GERMAN, False),
        ("ru", RUSSIAN, True),
        ("ru", ENGLISH, False),
        ("ru", RUSSIAN + " " + ENGLISH * 2, False),
        ("el", GREEK, True),
        ("el", ENGLISH, False),
        ("el", RUSSIAN, False),
        ("hi", HINDI, True),
        ("hi", ENGLISH, False),
        ("hi", HINDI + " " + ENGLISH * 2, False),
        ("de", "Das ist zu kurz.", False),
        ("de", GERMAN + " \ufffd", False),
        ("en", "the of and 0x1f 0x2f {} == (1, 2, 3, 4) [5] 6 7 8 9 10", False),
    ],
)
def test_keep_paragraphs(code: str, text: str, kept: bool) -> None:
    assert keep_paragraphs([text], code, set()) == ([text] if kept else [])


def test_repeated_paragraphs_are_kept_once() -> None:
    seen: set[str] = set()
    assert keep_paragraphs([GERMAN, GERMAN.replace(" ", "\n")], "de", seen) == [GERMAN]
    assert keep_paragraphs([GERMAN], "de", seen) == []


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages a language and stand-ins that serve them; returns the folder of their contents."""
    trees, programs = tmp_path / "trees", tmp_path / "bin"
    sides = {"de": GERMAN, "en": ENGLISH}
    listed: dict[str, debian.Splits] = {}
    for code, text in sides.items():
        listed[code] = {}
        for split in ("test", "valid", "train"):
            name = f"{split}-{code}"
            (trees / name).mkdir(parents=True)
            (trees / name / "page.html").write_text(f"<p>{text} Teil {split}</p><p>{text}</p>")
            listed[code][split] = [(name, "*.html", read_markup)]
    programs.mkdir()
    for name, script in (("apt-get", APT), ("dpkg-deb", DPKG)):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setattr(debian, "SOURCES", {"de": (listed["de"], listed["en"])})
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("TREES", str(trees))
    monkeypatch.setenv("PREALIGN_CACHE", str(tmp_path / "cache"))
    return trees


def test_fetch_debian(packages: Path) -> None:
    folder = fetch_debian("de")
    assert (folder / "target.test.txt").read_text() == f"{GERMAN} Teil test\n{GERMAN}\n"
    assert (folder / "target.train.txt").read_text() == f"{GERMAN} Teil train\n"  # the rest was held out first
    assert (folder / "english.valid.txt").read_text() == f"{ENGLISH} Teil valid\n"
    about = manifest.verify(folder)["about"]
    assert about["packages"] == {
        f"{split}-{code}": "1.0" for split in ("test", "train", "valid") for code in ("de", "en")
    }
    assert not (folder / "packages").exists()
    assert fetch_debian("de") == folder


def test_links_inside_packages_are_not_followed(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.html").write_text(f"<p>{GERMAN} Geheim</p>")
    (packages / "train-de" / "link.html").symlink_to(tmp_path / "secret.html")
    folder = fetch_debian("de")
    assert "Geheim" not in (folder / "target.train.txt").read_text()


def test_failures_leave_nothing(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("FAIL", "E: Unable to locate package train-de")
        with pytest.raises(UnavailableError, match=r"E: Unable to locate .*; run 'apt-get update' as root"):
            fetch_debian("de")
    (packages / "valid-de" / "page.html").write_text("<p>Short</p>")
    with pytest.raises(DataError, match=r"target.valid.txt: the packages hold no text"):
        fetch_debian("de")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="apt-get is not there"):
        fetch_debian("de")
    with pytest.raises(RecipeError, match="'fr'"):
        fetch_debian("fr")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock-debian-de"]


@pytest.fixture
def pages(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Greek and English help of 60 pages in one package each, and a dictionary; returns the folder of the packages."""
    sources: dict[str, debian.Splits] = {}
    for code, text in (("el", GREEK), ("en", ENGLISH)):
        folder = packages / f"help-{code}" / code / "text" / "guide"
        folder.mkdir(parents=True)
        for number in range(60):
            page = f"<p>{text} Page {number}.</p><p>{text}</p><footer><p>{text} Title is: {number}</p></footer>"
            (folder / f"{number}.html").write_text(page)
        listed = {
            split: [(f"help-{code}", "*/text/**/*.html", read_help(split))] for split in ("train", "valid", "test")
        }
        sources[code] = listed | {"general": [(f"general-{code}", "*.html", read_markup)]}
        (packages / f"general-{code}").mkdir()
        (packages / f"general-{code}" / "page.html").write_text(f"<p>{text} General.</p><p>{text} Page 7.</p>")
    package(packages / "dictionary", "page\nσελίδα, φύλλο, κάθε σελίδα\n")
    monkeypatch.setattr(debian, "SOURCES", {"el": (sources["el"], sources["en"])})
    monkeypatch.setattr(debian, "DICTIONARIES", {"el": [("dictionary", False)]})
    monkeypatch.setattr("prealign_cpt.lab.texts.SOURCES", debian.SOURCES)
    return packages


def test_pages_are_held_out_with_their_translations(pages: Path) -> None:
    folder = fetch_debian("el")
    texts = {path.name: path.read_text().split("\n") for path in folder.glob("*.txt")}
    for side, text in (("target", GREEK), ("english", ENGLISH)):
        assert texts[f"general.{side}.txt"] == [f"{text} General.", f"{text} Page 7.", ""]
        splits = [[line for line in texts[f"{side}.{split}.txt"] if line] for split in ("test", "valid", "train")]
        everything = [line for lines in splits for line in lines]
        assert len(everything) == len(set(everything)) == 60  # page 7 is general text; the common paragraph stands once
        assert all(1 <= len(lines) <= 8 for lines in splits[:2])
    for split in ("train", "valid", "test"):
        numbers = [
            [line.split(" Page ")[-1] for line in texts[f"{side}.{split}.txt"]] for side in ("target", "english")
        ]
        assert [n for n in numbers[0] if n != GREEK] == [n for n in numbers[1] if n != ENGLISH]
    assert (folder / "lexicon.tsv").read_text().split("\n")[1:] == ["page\tσελίδα", "page\tφύλλο", ""]


def test_a_language_without_a_bible_needs_the_packages(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bible, text = fetch("el", larger=False)
    assert "no version in the public domain" in bible and "debian-el" in text
    shutil.rmtree(pages.parent / "cache")
    monkeypatch.setenv("PATH", str(pages))
    with pytest.raises(UnavailableError, match="apt-get is not there"):
        fetch("el", larger=False)


def test_every_language_lists_every_split() -> None:
    for sides in debian.SOURCES.values():
        assert len({"general" in splits for splits in sides}) == 1  # on both sides or on none
        for splits in sides:
            assert splits.keys() >= {"train", "valid", "test"} and all(splits.values())
            assert all(len(sources) == len(set(sources)) for sources in splits.values())
