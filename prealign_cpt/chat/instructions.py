"""Instruction files to conversations: JSON lines, Alpaca's keys or messages, alone or beside their translations.

{"instruction": "Name a river.", "input": "", "output": "The Nile."}   --read--> [(user, Name a river.), (assistant, …)]
{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}

a.en.jsonl beside a.de.jsonl, line n beside line n  --twins--> Item(english, target)
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unicodedata import normalize

from prealign_cpt.run.errors import DataError
from prealign_cpt.text.lines import read_lines

Messages = tuple[tuple[str, str], ...]
"""(role, content) of each turn; the last one is the assistant's."""

ROLES = ("system", "user", "assistant")

FORMS = '{"instruction": …, "input": …, "output": …} or {"messages": [{"role": …, "content": …}, …]}'


@dataclass(frozen=True)
class Item:
    """A conversation in one language or in both."""

    english: Messages | None
    target: Messages | None


def read_items(english: Sequence[Path], target: Sequence[Path]) -> list[Item]:
    """The conversations of all files, in their order.

    Args:
        target: where there are English files too, translations of the first of these, file by file, line by line.

    Raises:
        MissingInputError: a file is not there.
        DataError: a line is no conversation, or none that its translation is one of; file and line are named.
    """
    if not english:
        return [Item(None, messages) for path in target for _, messages in read(path)]
    if len(english) < len(target):
        raise DataError(
            f"chat.instructions_target: {len(target)} files for {len(english)} English ones; each is the translation "
            "of one, or leave chat.instructions empty"
        )
    twins = [item for paths in zip(english, target, strict=False) for item in _twins(*paths)]
    return twins + [Item(messages, None) for path in english[len(target) :] for _, messages in read(path)]


def read(path: Path) -> Iterator[tuple[int, Messages]]:
    """Line number and conversation of every line that is not blank; contents are NFC, without space around them.

    Raises:
        DataError, MissingInputError: see `read_items`.
    """
    for number, line in read_lines(path, None):
        if line.strip():
            try:
                yield number, parse(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}; each line is {FORMS}") from error


def parse(line: str) -> Messages:
    """The conversation of a line.

    Raises:
        ValueError: it is none; what is wrong.
    """
    try:
        content = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error
    if not isinstance(content, dict):
        raise ValueError(f"a JSON object is expected, not {_kind(content)}")
    if "messages" in content:
        return _conversation(content["messages"])
    if not {"instruction", "output"} <= content.keys():
        raise ValueError("neither 'messages' nor 'instruction' and 'output'")
    asked = [_text(content[key], repr(key)) for key in ("instruction", "input") if content.get(key) or key != "input"]
    return ("user", "\n\n".join(asked)), ("assistant", _text(content["output"], "'output'"))


def _conversation(turns: Any) -> Messages:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("'messages' must be a list of objects")
    found = []
    for i, turn in enumerate(turns, 1):
        if turn.get("role") not in ROLES:
            raise ValueError(f"message {i}: role {turn.get('role')!r} is not one of {', '.join(ROLES)}")
        found.append((str(turn["role"]), _text(turn.get("content"), f"message {i}: 'content'")))
    said = [role for role, _ in found if role != "system"]
    begins = "system" not in [role for role, _ in found[1:]]
    if not said or len(said) % 2 or not begins or said != ["user", "assistant"] * (len(said) // 2):
        raise ValueError(
            "user and assistant must take turns, the assistant last; a system message may stand before them"
        )
    return tuple(found)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {_kind(value)}")
    text = normalize("NFC", value).strip()
    if not text:
        raise ValueError(f"{name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has half a surrogate pair, which is no character") from error
    return text


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _twins(english: Path, target: Path) -> Iterator[Item]:
    for one, other in zip_longest(read(english), read(target)):
        here, there = (one or (0, ()))[0], (other or (0, ()))[0]
        if here != there:
            path, number = (english, here) if not there or (here and here < there) else (target, there)
            missing = target if path == english else english
            raise DataError(f"{path}:{number}: has no translation in line {number} of {missing}; lines belong together")
        assert one is not None and other is not None
        if [role for role, _ in one[1]] != [role for role, _ in other[1]]:
            raise DataError(f"{target}:{there}: has other turns than line {here} of {english}; lines belong together")
        yield Item(one[1], other[1])
