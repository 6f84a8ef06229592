"""Questions about invented facts, as `prealign clone --facts` writes them and clka.py asks them.

    a file of JSON objects, one a line --read_questions--> [Question]

Keys: `group` ("english_only", "clone_only", "both", "none": where the fact is stated), `language` of the question
("english", "clone"), `prompt`, `neutral` (the prompt without the name), `candidates`, `answer`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from prealign_cpt.run.errors import DataError, MissingInputError

LANGUAGES = ("english", "clone")
GROUPS = ("english_only", "clone_only", "both", "none")
"""Where a fact is stated. "none" is the control: its questions can only be guessed."""


@dataclass(frozen=True)
class Question:
    """One line of a questions file."""

    group: str
    language: str
    prompt: str
    neutral: str
    candidates: tuple[str, ...]
    answer: str


def read_questions(path: Path) -> list[Question]:
    """The questions of a file.

    Raises:
        DataError: a line is not such an object; it is named.
        MissingInputError: the file is not there.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}; check evaluate.clka") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            texts = [content[key] for key in ("group", "language", "prompt", "neutral", "answer")]
            candidates = content["candidates"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: not a question ({type(error).__name__}: {error}); `prealign clone` writes such files"
            ) from error
        group, language, prompt, neutral, answer = texts
        if not isinstance(candidates, list) or not all(isinstance(text, str) and text for text in texts + candidates):
            raise DataError(f"{path}:{number}: a field is not text; candidates must be a list of strings")
        if group not in GROUPS or language not in LANGUAGES:
            raise DataError(
                f"{path}:{number}: group {group!r} or language {language!r} is unknown; groups are "
                f"{', '.join(GROUPS)}, languages {', '.join(LANGUAGES)}"
            )
        if candidates.count(answer) != 1 or len(set(candidates)) != len(candidates) or len(candidates) < 2:
            raise DataError(f"{path}:{number}: the answer must be one of at least two different candidates")
        found.append(Question(group, language, prompt, neutral, tuple(candidates), answer))
    if not found:
        raise DataError(f"{path}: no questions in it; `prealign clone --facts` writes them")
    return found
