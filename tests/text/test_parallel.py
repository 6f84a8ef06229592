"""Parallel text: line n beside line n."""

from pathlib import Path

import pytest

from prealign_cpt.run.errors import DataError
from prealign_cpt.text.parallel import line_pairs, parallel_lines


def test_lines_stand_beside_each_other_and_blank_ones_go_with_theirs(tmp_path: Path):
    one, other = tmp_path / "en.txt", tmp_path / "de.txt"
    one.write_bytes("\ufeffThe house\r\n\n water and bread\nempty".encode())
    other.write_bytes("Das Haus\nleer\nWasser fu\u0308r Brot\n \n".encode())
    assert list(line_pairs(one, other)) == [("The house", "Das Haus"), ("water and bread", "Wasser für Brot")]
    assert [(number, bool(a), bool(b)) for number, a, b in parallel_lines(one, other)] == [
        (1, True, True), (2, False, True), (3, True, True), (4, True, False),
    ]  # fmt: skip


@pytest.mark.parametrize(("english", "target"), [("a\nb\n", "a\n"), ("a\n", "a\nb\n")])
def test_files_of_unequal_length_are_refused(tmp_path: Path, english: str, target: str):
    files = tmp_path / "en.txt", tmp_path / "de.txt"
    for path, text in zip(files, (english, target), strict=True):
        path.write_text(text)
    short, long = files if len(english) < len(target) else files[::-1]
    with pytest.raises(DataError) as caught:
        list(line_pairs(*files))
    assert str(caught.value).startswith(f"{short}: ends before line 2 of {long}; line n of one must translate line n")
