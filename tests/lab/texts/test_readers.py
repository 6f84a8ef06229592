"""The readers of documentation formats."""

import gzip
from pathlib import Path

from prealign_cpt.lab.texts.readers import read_fortunes, read_glosses, read_help, read_man, read_markup

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


def test_help_has_the_keys_of_one_system_and_no_footer(tmp_path: Path) -> None:
    path = tmp_path / "el" / "text" / "guide" / "find.html"
    path.parent.mkdir(parents=True)
    path.write_text(
        '<header><p>Menu</p></header><p>Press <span class="switchinline"><span hidden="true" id="MACx" class="MAC">'
        '<span class="keycode">Command</span></span><span hidden="true" id="defaultx"><span class="keycode">Ctrl</span>'
        '</span></span><span class="keycode">+F</span>.</p><p>End</p><footer><p>Title is: Find</p></footer>'
    )
    documents = [document for split in ("train", "valid", "test") for document in read_help(split)(path)]
    assert [[text for text in paragraphs if text.strip()] for paragraphs in documents] == [["Press Ctrl+F.", "End"]]
