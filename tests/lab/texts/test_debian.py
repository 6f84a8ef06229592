"""The readers of documentation formats, and the packages through stand-ins for apt-get and dpkg-deb."""

import gzip
from pathlib import Path

import pytest

from prealign_cpt.lab.texts import debian
from prealign_cpt.lab.texts.debian import (
    fetch_debian,
    keep_paragraphs,
    read_fortunes,
    read_glosses,
    read_man,
    read_markup,
)
from prealign_cpt.run import manifest
from prealign_cpt.run.errors import DataError, RecipeError, UnavailableError

ENGLISH = "This is the first paragraph of a page that is written for the test."
GERMAN = "Dies ist der erste Absatz einer Seite, die für den Test geschrieben wird."
RUSSIAN = "Это первый абзац страницы, которая написана для проверки программы."

MAN = r""".\" a comment
.TH thing 1
.SH NAME
thing \- does \fBgood\fP things
.SH "BESCHREIBUNG"
Ein \fIerster\fP Absatz\&.
Er geht \(em so \- weiter.
.PP
.B Fett
und
.BR thing (1),
ein \[oq]Verweis\[cq].
.TP
\fB\-\-option\fP
Was die Option bewirkt.
.EX
code --here
.EE
Nach dem Beispiel.
"""

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


def test_markup(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text(
        "<html><head><title>No</title><script>no()</script></head><body><h1>Head</h1><p>One <b>bold</b>"
        "<br/>line &amp; more</p><pre>code</pre><ul><li><p>Two</p></li></ul></body></html>"
    )
    (paragraphs,) = read_markup(path)
    assert [" ".join(text.split()) for text in paragraphs if text.strip()] == ["Head", "One bold line & more", "Two"]
    path.write_text(
        '<page xmlns="m"><info><link xref="a"/><credit><name>No</name></credit></info>'
        "<p>Press <gui>Save</gui> now.</p><screen>code</screen><p>End</p></page>"
    )
    (paragraphs,) = read_markup(path)
    assert [text for text in paragraphs if text.strip()] == ["Press Save now.", "End"]


def test_man(tmp_path: Path) -> None:
    path = tmp_path / "thing.1.gz"
    path.write_bytes(gzip.compress(MAN.encode()))
    (paragraphs,) = read_man(path)
    assert [text.strip() for text in paragraphs if text.strip()] == [
        "thing - does good things",
        "Ein erster Absatz. Er geht — so - weiter.",
        "Was die Option bewirkt.",
        "Nach dem Beispiel.",
    ]  # the second paragraph holds an escape that is not known, and goes
    path.write_bytes(gzip.compress(b".Sh NAME\ntext\n"))
    assert list(read_man(path)) == []


def test_fortunes_and_glosses(tmp_path: Path) -> None:
    path = tmp_path / "zitate"
    path.write_text("Erster Spruch,\nzwei Zeilen.\n\t\t-- Wer (Wo)\n%\n-- Ja?\n-- Nein.\n%\n")
    assert [" ".join(text.split()) for (text,) in read_fortunes(path)] == [
        "Erster Spruch, zwei Zeilen.",
        "-- Ja? -- Nein.",
        "",
    ]
    path.write_text("Ein Vers\n" + "\t \n" * 2000 + "  eingerückt\n\t-- Wer,\n\t   wo\n")  # and not in quadratic time
    assert [" ".join(text.split()) for (text,) in read_fortunes(path)] == ["Ein Vers eingerückt"]
    path = tmp_path / "data.noun"
    path.write_text('  1 licence\n00001740 03 n 01 thing 0 000 | what is known; "a thing"  \n')
    assert [text for (text,) in read_glosses(path)] == ["", "what is known"]


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
    listed: dict[str, dict[str, list[debian.Source]]] = {}
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
    monkeypatch.setattr(debian, "SOURCES", listed)
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


def test_every_language_lists_every_split() -> None:
    for splits in debian.SOURCES.values():
        names = [name for split in ("train", "valid", "test") for name, _, _ in splits[split]]
        assert len(names) == len(set(names)) and all(splits[split] for split in ("train", "valid", "test"))
