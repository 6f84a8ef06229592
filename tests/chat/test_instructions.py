"""Instruction files: what is read, and what a bad line says."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.chat.instructions import Item, parse, read, read_items
from prealign_cpt.run.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
WORDS = TEXT.map(lambda text: f"x{text}y")


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), st.one_of(st.none(), WORDS))
def test_messages_come_back(turns: list[tuple[str, str]], system: str | None) -> None:
    said = [(role, text) for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)]
    told = [*([("system", system)] if system else []), *said]
    line = json.dumps({"id": 1, "messages": [{"role": role, "content": text} for role, text in told]})
    found = parse(line)
    assert [role for role, _ in found] == [role for role, _ in told]
    assert (
        parse(json.dumps({"messages": [{"role": r, "content": c} for r, c in found]})) == found
    )  # NFC is a fixed point


@settings(deadline=None)
@given(WORDS, TEXT, WORDS)
def test_alpaca_is_a_question_and_an_answer(instruction: str, more: str, output: str) -> None:
    line = json.dumps({"instruction": instruction, "input": f"{more}z", "output": output})
    (asks, question), (answers, answer) = parse(line)
    assert (asks, answers) == ("user", "assistant")
    assert question.startswith("x") and question.endswith("z") and "\n\n" in question and answer.endswith("y")


KEYS = st.sampled_from(["messages", "role", "content", "instruction", "input", "output"])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner | st.just("user")),
)


@settings(deadline=None)
@given(JSON)
def test_whatever_json_it_is_a_conversation_or_refused(value: object) -> None:
    try:
        found = parse(json.dumps(value))
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert found[-1][0] == "assistant" and all(text == text.strip() and text for _, text in found)


@settings(deadline=None)
@given(st.text())
def test_whatever_text_it_is_a_conversation_or_refused(line: str) -> None:
    with pytest.raises(ValueError):
        parse(line)  # no drawn text is a whole conversation


BAD = {
    '{"instruction": "a", "output": ""}': "'output' is empty",
    '{"instruction": "a", "output": 5}': "'output' must be a string, not a number",
    '{"instruction": "a"}': "neither 'messages' nor",
    '["a"]': "a JSON object is expected, not a list",
    '{"messages": []}': "must take turns",
    '{"messages": [{"role": "user", "content": "a"}]}': "must take turns",
    '{"messages": [{"role": "human", "content": "a"}]}': "message 1: role 'human'",
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null}]}': "message 2",
    '{"instruction": "\\ud800", "output": "b"}': "half a surrogate pair",
    "[" * 100_000: "nested too deep",
    "{": "not JSON",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "a", "output": "b"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list(read(path))
    assert str(caught.value).startswith(f"{path}:3: ") and BAD[line] in str(caught.value)
    assert "\n" not in str(caught.value)


def _file(path: Path, *pairs: tuple[str, str]) -> Path:
    lines = [json.dumps({"instruction": a, "output": b}) if a else "" for a, b in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_twins_stand_side_by_side(tmp_path: Path) -> None:
    english = _file(tmp_path / "en.jsonl", ("a", "b"), ("", ""), ("c", "d"))
    target = _file(tmp_path / "de.jsonl", ("A", "B"), ("", ""), ("C", "D"))
    alone = _file(tmp_path / "more.jsonl", ("e", "f"))
    items = read_items([english, alone], [target])
    assert [(one.english and one.english[0][1], one.target and one.target[0][1]) for one in items] == [
        ("a", "A"), ("c", "C"), ("e", None),
    ]  # fmt: skip
    assert read_items([], [target])[0] == Item(None, (("user", "A"), ("assistant", "B")))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ([("A", "B")], ["en.jsonl:2", "line 2 of", "de.jsonl"]),
        ([("A", "B"), ("C", "D"), ("E", "F")], ["de.jsonl:3", "en.jsonl"]),
        ([("A", "B"), ("", ""), ("C", "D")], ["en.jsonl:2", "de.jsonl"]),
    ],
)
def test_a_missing_twin_is_named(tmp_path: Path, target: list[tuple[str, str]], words: list[str]) -> None:
    english = _file(tmp_path / "en.jsonl", ("a", "b"), ("c", "d"))
    with pytest.raises(DataError) as caught:
        read_items([english], [_file(tmp_path / "de.jsonl", *target)])
    assert all(word in str(caught.value) for word in words), caught.value


def test_twins_have_the_same_turns(tmp_path: Path) -> None:
    english, target = _file(tmp_path / "en.jsonl", ("a", "b")), tmp_path / "de.jsonl"
    turns = [{"role": role, "content": "x"} for role in ("system", "user", "assistant")]
    target.write_text(json.dumps({"messages": turns}))
    with pytest.raises(DataError, match=r"de\.jsonl:1: has other turns"):
        read_items([english], [target])
    with pytest.raises(DataError, match="2 files for 1 English"):
        read_items([english], [target, target])
