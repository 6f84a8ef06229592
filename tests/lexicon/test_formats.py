"""Dictionaries that are recognised, turned, unpacked and read; and what is said of those that cannot be."""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.lexicon.formats import FORMATS, open_dictionary, recognise
from prealign_cpt.lexicon.pairs import Pair, read_pairs
from prealign_cpt.lexicon.stage import convert
from prealign_cpt.run.errors import DataError, MissingInputError, PrealignError
from tests.lexicon.test_dictd import build

WIKTIONARY: list[dict[str, Any]] = [
    {
        "word": "house",
        "lang": "English",
        "lang_code": "en",
        "translations": [
            {"lang": "German", "code": "de", "word": "Haus"},
            {"lang": "French", "code": "fr", "word": "maison"},
            {"lang": "German", "lang_code": "de", "note": "no word"},
        ],
        "senses": [{"glosses": ["a building"], "translations": [{"lang": "German", "code": "de", "word": "Hütte"}]}],
    },
    {
        "word": "Heim",
        "lang": "German",
        "lang_code": "de",
        "senses": [
            {
                "glosses": [
                    "dwelling",
                    "a home (also (rare) figuratively), asylum; place in which people live together.",
                ]
            },
            {"glosses": ["plural of Hei"], "form_of": [{"word": "Hei"}]},
            {"tags": ["no-gloss"]},
        ],
    },
    {"word": "gehen", "lang": "German", "lang_code": "de", "senses": [{"glosses": ["to go"]}]},
    {"title": "a redirect", "redirect": "house"},
]

DIX = """<?xml version="1.0" encoding="UTF-8"?>
<dictionary><sdefs><sdef n="n" c="Noun"/></sdefs><section id="main" type="standard">
<e r="RL"><p><l>dwelling<s n="n"/></l><r>Haus<s n="n"/></r></p></e>
<e><p><l>ice<b/>cream<s n="n"/></l><r><g>Eis</g><s n="n"/></r></p></e>
<e i="yes"><p><l>bad</l><r>schlecht</r></p></e>
<e><i>taxi<s n="n"/></i></e>
<e><re>[0-9]+</re><p><l>x</l><r>y</r></p></e>
<e><p><l>fish &amp; chips</l><r>Fisch &#x26; Chips</r></p></e>
<e><p><l>nothing</l><r></r></p></e>
</section></dictionary>
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    content = text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def pairs(path: Path, *arguments: Any) -> list[tuple[str, str]]:
    return [(row.source, row.target) for row in open_dictionary(path, *arguments).rows if not row.fault]


def extract(folder: Path, *entries: Any, name: str = "kaikki.jsonl") -> Path:
    return written(folder, name, "".join(json.dumps(entry) + "\n" for entry in entries or WIKTIONARY))


@pytest.mark.parametrize(
    ("name", "text", "format"),
    [
        ("a.tsv", "go\tgehen\nrun\tlaufen\n", "tsv"),
        ("a.tsv", "go\tgehen\t0.5\nrun\tlaufen\n", "tsv"),
        ("a.tsv.gz", "# words\ngo\tgehen\nout of columns\n", "tsv"),
        ("a.txt", "go gehen\nrun zu Fuß gehen\n", "muse"),
        ("en-de.txt.gz", "go gehen\n", "muse"),
        ("a.tsv", "go\tgehen\t3\nrun\tlaufen\t0.5\n", "columns"),
        ("a.tsv", "eng-000\tgo\tdeu-000\tgehen\n", "columns"),
        ("a.xml", DIX, "dix"),
        ("apertium-eng-deu.eng-deu.dix", "<dictionary/>", "dix"),
        ("a.dix.gz", DIX, "dix"),
        ("German.jsonl.gz", "{}", "wiktionary"),
        ("German.txt", '{"word": "a"}\n', "wiktionary"),
        ("d.index", "", "dictd"),
        ("d.dict.dz", "", "dictd"),
        ("a.tsv", "# nothing\n", "tsv"),
    ],
)
def test_a_format_is_recognised(tmp_path: Path, name: str, text: str, format: str) -> None:
    assert recognise(written(tmp_path, name, text)) == format


def test_what_is_recognised_turned_and_stripped_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "de-en.tsv.gz", "Haus\u200e\thouse\ngehen\tgo\n\ufeffwar\twas\u00ad\n")
    with pytest.raises(DataError, match="swapped"):
        convert(
            written(tmp_path, "long.tsv", "der\tthe\nund\tand\nwar\twas\nvon\tof\nmit\twith\n"), "auto", tmp_path / "x"
        )
    counts = convert(path, "auto", tmp_path / "out.tsv", swapped=True)
    assert counts["format"] == "tsv" and counts["rows"] == counts["pairs"] == 3
    assert counts["invisible_characters"] == {"U+200E": 1, "U+FEFF": 1, "U+00AD": 1}
    assert read_pairs(tmp_path / "out.tsv") == [Pair("go", "gehen"), Pair("house", "Haus"), Pair("was", "war")]


def test_every_format_can_be_turned(tmp_path: Path) -> None:
    assert pairs(build(tmp_path, ["Haus /x/ <n>\nhouse, home\n"]), "auto", "", True) == [
        ("house", "Haus"),
        ("home", "Haus"),
    ]
    assert pairs(written(tmp_path, "a.txt", "gehen go\n"), "auto", "", True) == [("go", "gehen")]
    assert ("Eis", "ice cream") in pairs(written(tmp_path, "a.dix", DIX), "auto", "", True)
    assert pairs(written(tmp_path, "a.tsv", "gehen\tgo\t5\nrennen\trun\t7\n"), "auto", "", True)[0] == ("run", "rennen")
    faulty = open_dictionary(written(tmp_path, "b.tsv", "a\tb\nlonely\n"), swapped=True)
    assert [row.source for row in faulty.rows] == ["b", "lonely"]


@pytest.mark.parametrize("language", ["de", "German", "deu", "de-DE"])
def test_wiktionary_gives_translations_and_glosses(tmp_path: Path, language: str) -> None:
    found = pairs(extract(tmp_path), "auto", language)
    assert found == [("house", "Haus"), ("house", "Hütte"), ("home", "Heim"), ("asylum", "Heim"), ("go", "gehen")]


def test_wiktionary_in_several_languages_wants_one_named(tmp_path: Path) -> None:
    assert pairs(extract(tmp_path), "auto", "French") == [("house", "maison")]
    with pytest.raises(DataError, match=r"several languages \(German, French.*--language"):
        pairs(extract(tmp_path))
    with pytest.raises(DataError, match="nothing in Finnish; languages in it: German, French"):
        pairs(extract(tmp_path), "auto", "fi")
    assert pairs(extract(tmp_path, *WIKTIONARY[1:])) == [("home", "Heim"), ("asylum", "Heim"), ("go", "gehen")]
    scots = {"word": "hoose", "lang": "Scots", "lang_code": "sco", "senses": [{"glosses": ["house"]}]}
    for name in ("sco", "Scots"):
        assert pairs(extract(tmp_path, scots, *WIKTIONARY), "auto", name) == [("house", "hoose")]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}\n{", ":2: not JSON"), ("{}\n[1]\n", ":2: a JSON list"), ("{}\n", "languages in it: none")],
)
def test_what_is_no_extract_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pairs(written(tmp_path, "a.jsonl", text), "auto", "de")


def test_apertium_sides_are_words_without_grammar(tmp_path: Path) -> None:
    found = pairs(written(tmp_path, "a.dix", DIX))
    assert found == [
        ("ice cream", "Eis"),
        ("taxi", "taxi"),
        ("fish & chips", "Fisch & Chips"),
        ("dwelling", "Haus"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<dictionary>\n<e>", ":2: not XML"),
        ("<dictionary><e lm='go'><i>go</i></e", "not XML"),
        ('<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><d><e><i>&b;</i></e></d>', "declares the entity 'a'"),
        ('<!DOCTYPE d [<!ENTITY a SYSTEM "/etc/passwd">]><d><e><i>&a;</i></e></d>', "declares the entity 'a'"),
        ("<dictionary><e><p><l>a</l></p></e></dictionary>", "bilingual"),
    ],
)
def test_xml_that_is_no_dictionary_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pairs(written(tmp_path, "a.dix", text))


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["house\tHaus\t2", "house\tHeim\t9"], [("house", "Heim"), ("house", "Haus")]),
        (["lang1\tword1\tlang2\tword2", "deu-000\tHaus\teng-000\thouse"], [("house", "Haus")]),
        (["eng-000\tgo\tdeu-000\tgehen\t4", "eng-000\tgo\tfra-000\taller\t5"], [("go", "gehen")]),
        (["source\ttarget\tscore", "go\tgehen\t1e3", "is\tist\t-1"], [("go", "gehen"), ("is", "ist")]),
        (["en\tgo\tde\tgehen"], [("go", "gehen")]),
        (["go\tgehen\t2", "broken\t3"], [("go", "gehen")]),
    ],
)
def test_columns_are_told_apart_by_what_stands_in_them(tmp_path: Path, lines: list[str], found: Any) -> None:
    assert pairs(written(tmp_path, "a.tsv", "\n".join(lines) + "\n"), "columns", "German") == found


def test_columns_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3 columns, 0 of them numbers, are not understood"):
        pairs(written(tmp_path, "a.tsv", "house\tHaus\tNoun\ntree\tBaum\tNoun 2\n"), "columns")
    with pytest.raises(DataError, match="nothing in Finnish"):
        pairs(written(tmp_path, "a.tsv", "eng-000\tgo\tdeu-000\tgehen\n"), "auto", "Finnish")


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv.gz", "go\tgehen\n" * 5000)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        pairs(path, "tsv")
    with pytest.raises(MissingInputError, match="none"):
        pairs(tmp_path / "none.tsv")


@settings(deadline=None)
@given(
    name=st.sampled_from(["a", "a.gz", "a.dix", "a.jsonl", "a.index"]),
    content=st.binary(max_size=200)
    | st.text("ab\t\n{}<>/elrip=\"' 12.#&;", max_size=80).map(str.encode)
    | st.binary(max_size=40).map(gzip.compress),
    format=st.sampled_from(FORMATS),
    swapped=st.booleans(),
)
def test_any_bytes_give_rows_or_an_error_for_the_user(name: str, content: bytes, format: str, swapped: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            list(open_dictionary(path, format, "de", swapped).rows)
        except PrealignError as error:
            assert "\n" not in str(error)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.sampled_from(["en", "de", "word", "Haus", "a house (b), c"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["word", "lang_code", "code", "senses", "glosses", "translations", "form_of"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_gives_rows_or_an_error_for_the_user(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = extract(Path(folder), value)
        try:
            assert all(row.source and row.target for row in open_dictionary(path, "auto", "de").rows)
        except DataError as error:
            assert "\n" not in str(error)
