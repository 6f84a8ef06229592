"""Whole words as new tokens: counted words in, those that save most out.

    " Straße" = "ĠStra" + "Ã" + "Ł" + "e" x 12  ─► saves 36 tokens  ─► looked up before the merges, as one token
    " street"  (the guard)                       ─► never

A tokenizer that looks words up first (`ignore_merges`, as Llama 3's does) needs no merge rules for them, so no parts of
words become tokens on the way. With little text that matters: parts that it shows seldom have poor rows, and each new
token stands for one word only.
"""

from collections.abc import Callable, Iterable, Mapping

from prealign_cpt.text.scripts import is_letters
from prealign_cpt.vocab.families import LONGEST
from prealign_cpt.vocab.learn import Piece, Word

LEAST, LEAST_DOCUMENTS = 3, 2
"""A word that the text has more seldom, or in fewer documents, is not taken: what it shows of it is chance."""


def learn_words(
    words: Mapping[Word, int], guard: Iterable[Word], text_of: Callable[[str], str], size: int
) -> dict[str, Piece]:
    """The words to add, those first that save most tokens.

    Args:
        words: of target text as base tokens, with how often they occur.
        guard: words that must keep their tokens.
        text_of: what each word, as one string, reads; letters with at most one space in front may become a token.
        size: how many at most.
    """
    kept = {"".join(word) for word in guard}
    saved = {
        string: count * (len(word) - 1)
        for word, count in words.items()
        if count >= LEAST and len(word) > 1 and (string := "".join(word)) not in kept and is_word(text_of(string))
    }
    best = sorted(saved, key=lambda string: (-saved[string], string))[:size]
    return {string: Piece(string, "", "", saved[string]) for string in best}


def is_word(text: str) -> bool:
    """Two letters or marks to `LONGEST`, behind a space or not."""
    letters = text.removeprefix(" ")
    return 1 < len(letters) <= LONGEST and is_letters(letters)
