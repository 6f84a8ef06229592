"""Dictionaries of the DICT server: index, compressed blocks, phrases."""

import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.lexicon.dictd import DATABASE_LIMIT, UNCLEAR, read_dictd
from prealign_cpt.run.errors import DataError, MissingInputError, PrealignError

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def base64(value: int) -> str:
    return (base64(value // 64) if value >= 64 else "") + DIGITS[value % 64]


def build(folder: Path, entries: list[str], packed: bool = True) -> Path:
    """A database of these entries, the index sorted by word as dictd wants it."""
    lines, content = [], b""
    for entry in entries:
        block = entry.encode()
        word = entry.split("\n")[0].split(" /")[0]
        lines.append(f"{word}\t{base64(len(content))}\t{base64(len(block))}\n")
        content += block
    index = folder / "d.index"
    index.write_text("".join(sorted(lines)), encoding="utf-8")
    (folder / ("d.dict.dz" if packed else "d.dict")).write_bytes(gzip.compress(content) if packed else content)
    return index


def pairs(folder: Path, *entries: str) -> list[tuple[str, str]]:
    return [(row.source, row.target) for row in read_dictd(build(folder, list(entries))) if not row.fault]


def test_freedict_senses_are_the_first_and_the_numbered_lines(tmp_path: Path) -> None:
    entry = (
        "go /ɡˈəʊ/ (went /wˈɛnt/ <>, gone) <v>\ngehen, laufen (zu Fuß, schnell) <v, intr> [ugs., selten]\n"
        '      "he goes"  - er geht\n         Note: by sth.\n   Synonym: {walk}\n\n see: {going}, {gone}\n'
    )
    assert pairs(tmp_path, entry) == [("go", "gehen"), ("go", "laufen")]
    assert pairs(tmp_path, "white /wait/\n1. белый\n2. чистый; светлый\n") == [
        ("white", "белый"),
        ("white", "чистый"),
        ("white", "светлый"),
    ]


def test_wikdict_glosses_and_stress_marks_go(tmp_path: Path) -> None:
    entry = "house //haʊs// //hʌʊs// <n>\n1. къ\u0301ща, дом 2.\nhuman abode, dwelling\n 3.\nan establishment\n"
    assert pairs(tmp_path, entry) == [("house", "къща"), ("house", "дом")]
    assert pairs(tmp_path, "belly //x// <n>\nкорем\npart of the body\n") == [("belly", "корем")]


def test_accents_of_letters_are_not_stress_marks(tmp_path: Path) -> None:
    assert pairs(tmp_path, "yoghurt\nй\u043e\u0433урт, ќе\n") == [("yoghurt", "йогурт"), ("yoghurt", "ќе")]


def test_mueller_senses_end_at_the_first_latin_letter(tmp_path: Path) -> None:
    entry = (
        "fight\n   [faɪt]\n   1. _n.\n      1) бой; драка; to show fight быть\n      готовым к борьбе\n"
        "      2) _ав. воздушный\n      бой\n   2. _v. (fought) драться, сражаться (с кем-л.); _см. тж. fight 2\n"
        "      10)бороться с fight\n      а) биться\n"
    )
    targets = [target for _, target in pairs(tmp_path, entry)]
    assert targets == ["бой", "драка", "воздушный бой", "драться", "сражаться"]


def test_a_translation_of_longer_and_of_more_entries_comes_first(tmp_path: Path) -> None:
    short, long = "go /x/\nablaufen\n", 'go /x/\ngehen\n      "many examples"  - viele Beispiele\n'
    assert [target for _, target in pairs(tmp_path, short, long)] == ["gehen", "ablaufen"]
    senses = "house\n1. huone\n2. talo\n3. suku, talo\n"
    assert [target for _, target in pairs(tmp_path, senses)] == ["talo", "talo", "huone", "suku"]


def test_placeholders_go_and_unclear_translations_are_named(tmp_path: Path) -> None:
    entry = "see sth. /x/\netw. sehen, er/sie sieht, jdm. etw. zeigen, kommen …, auf etw. schauen\n"
    rows = list(read_dictd(build(tmp_path, [entry])))
    assert [(row.source, row.target) for row in rows if not row.fault] == [("see", "sehen"), ("see", "zeigen")]
    assert [row.fault for row in rows if row.fault] == [UNCLEAR] * 3


def test_about_entries_and_aliases_are_passed_over(tmp_path: Path) -> None:
    index = build(tmp_path, ["00databaseinfo\nabout, this\n", "go\ngehen\n"])
    lines = index.read_text().splitlines()
    index.write_text("".join(f"{line}\n" for line in [*lines, lines[1].replace("go", "goes")]))
    assert [(row.source, row.target) for row in read_dictd(index)] == [("go", "gehen")]


@pytest.mark.parametrize("packed", [True, False])
def test_either_file_may_be_named(tmp_path: Path, packed: bool) -> None:
    index = build(tmp_path, ["go\ngehen\n"], packed)
    database = tmp_path / ("d.dict.dz" if packed else "d.dict")
    assert list(read_dictd(index)) == list(read_dictd(database)) != []


def test_damage_is_named(tmp_path: Path) -> None:
    index = build(tmp_path, ["go\ngehen\n", "run\nlaufen\n"])
    database = tmp_path / "d.dict.dz"
    whole, lines = database.read_bytes(), index.read_text()
    for content in (whole[:-12], whole[:20] + b"\xff\xff" + whole[22:], b"\x1f\x8b", gzip.compress(b"go")):
        database.write_bytes(content)
        with pytest.raises(DataError, match=r"d\.dict\.dz: (damaged|ends)"):
            list(read_dictd(index))
    database.write_bytes(gzip.compress("go\nl\xe4uft\nrun\nlaufen\n".encode("latin-1")))
    with pytest.raises(DataError, match="entry 1 is not UTF-8 at byte offset 4"):
        list(read_dictd(index))
    database.write_bytes(whole)
    for bad, message in [
        ("go\tA", "2 columns, 3 expected"),
        ("go\tA\t?", "not a base 64 number"),
        (f"go\t{base64(DATABASE_LIMIT)}\tB", "exceeds the limits"),
        ("go\t////////////////////\tB", "exceeds the limits"),
        ("go\tA\t/////", "exceeds the limits"),
        ("go\tB\tJ", "overlap"),
    ]:
        index.write_text(f"{lines}{bad}\n")
        with pytest.raises(DataError, match=message):
            list(read_dictd(index))


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    index = build(tmp_path, ["go\ngehen\n"])
    (tmp_path / "d.dict.dz").unlink()
    with pytest.raises(MissingInputError, match=r"d\.dict"):
        list(read_dictd(index))
    with pytest.raises(DataError, match=r"NAME\.index"):
        list(read_dictd(tmp_path / "d.txt"))


@settings(deadline=None)
@given(
    index=st.binary(max_size=60) | st.from_regex(r"\A([a-z]\t[A-D]\t[A-T]\n){1,4}\Z").map(str.encode), data=st.binary()
)
def test_any_bytes_give_rows_or_an_error_for_the_user(index: bytes, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.index"
        path.write_bytes(index)
        path.with_name("d.dict").write_bytes(data)
        try:
            list(read_dictd(path))
        except PrealignError as error:
            assert "\n" not in str(error)
