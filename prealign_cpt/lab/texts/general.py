"""General-domain text for evaluation: the conversations of `chatterbot-corpus` as plain documents.

    pinned wheel --> data/<language>/<topic>.yml --> one document a conversation, one line a turn

The Bible is one kind of text; these short questions and answers are another, which no run trains on. They are small:
about 1,500 German words and 500 Russian ones, so a figure on them shows a direction, not a decimal.
"""

import unicodedata
from pathlib import Path

import yaml

from prealign_cpt.run.cache import download_wheel, open_member
from prealign_cpt.run.errors import DataError

WHEEL = {
    "name": "chatterbot-corpus",
    "version": "1.3.3",
    "filename": "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
    "sha256": "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
}

TOPICS = {
    "de": ("german", ["conversations", "food", "greetings", "health", "history", "movies"]),
    "ru": ("russian", ["conversations", "food", "money"]),
    # As everyday as the other two: without programming and support questions, robot talk and bare trivia answers.
    "en": (
        "english",
        [
            "conversations",
            "food",
            "greetings",
            "health",
            "history",
            "literature",
            "money",
            "movies",
            "politics",
            "psychology",
            "science",
            "sports",
        ],
    ),
}


def general_documents(code: str) -> list[list[str]]:
    """The conversations in language `code`, each a list of turns, without repeated ones; fetched if need be.

    Raises:
        UnavailableError: the package cannot be downloaded.
        DataError: the package is not what it should be.
    """
    language, topics = TOPICS[code]
    return read_conversations(download_wheel(**WHEEL), language, topics)


def read_conversations(wheel: Path, language: str, topics: list[str]) -> list[list[str]]:
    """Cleaned conversations of the given topics in their order; a conversation that came before is dropped.

    Raises:
        DataError: a topic is missing, not YAML, or not a list of lists of turns.
    """
    documents: dict[tuple[str, ...], None] = {}  # a set that keeps the order
    for topic in topics:
        member = f"chatterbot_corpus/data/{language}/{topic}.yml"
        with open_member(wheel, member) as file:
            content = file.read()
        try:
            # BaseLoader makes strings of everything: the safe loader would turn the answer "No" into False.
            conversations = yaml.load(content.decode("utf-8"), Loader=yaml.BaseLoader)["conversations"]
            if not all(isinstance(turns, list) for turns in conversations):
                raise TypeError("a conversation is not a list")
        except (KeyError, TypeError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(f"{wheel}: {member} does not hold conversations; remove the file, fetch again") from error
        for turns in conversations:
            lines = (" ".join(unicodedata.normalize("NFC", turn).split()) for turn in turns if isinstance(turn, str))
            document = tuple(line for line in lines if line)
            if document:
                documents[document] = None
    return [list(document) for document in documents]
