"""Tokens: which begin and end a document, alike in training, evaluation, export and serving; ids of plain text."""

import json
import re

from transformers import PreTrainedTokenizerBase

from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import RecipeError

PIECES = "pieces.json"
"""In a run's folder `init`: for each new token, in the order of their ids, the old ids that spell it."""

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def start_token_id(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> int:
    """Id of the recipe's start token.

    Raises:
        RecipeError: the tokenizer does not have it.
    """
    return _token_id(tokenizer, recipe.base.start_token, "base.start_token")


def end_token_id(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> int | None:
    """Id of the token that ends a document; None where the next document's start token is its end.

    Raises:
        RecipeError: the tokenizer does not have the token that the recipe names.
    """
    token = recipe.base.end_token or tokenizer.eos_token
    if not token or token == recipe.base.start_token:
        return None
    return _token_id(tokenizer, token, "base.end_token")


def frame(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> tuple[int, int | None]:
    """Ids of what stands before and behind every document of the training text."""
    return start_token_id(tokenizer, recipe), end_token_id(tokenizer, recipe)


def num_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """The highest id and one, which is more than `len` of a tokenizer whose ids have holes; tokens that are added to
    it stand from there on."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)


def new_tokens(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, list[list[int]]]:
    """Id of a run's first new token, None where there are none; and the old ids that spell each."""
    spellings = json.loads((recipe.run / "init" / PIECES).read_text(encoding="utf-8"))
    return num_ids(tokenizer) - len(spellings) if spellings else None, spellings


def encode_plain(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Ids of plain texts: nothing added, and the spelling of a special token is text like any other."""
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return [list(ids) for ids in encoded]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """`encode_plain` of one text."""
    return encode_plain(tokenizer, [text])[0]


def encode_with_ends(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[tuple[list[int], list[int]]]:
    """Ids of plain texts, as `encode_plain` gives them, and the character at which each token ends."""
    if not texts:
        return []
    encoded = tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    return [
        (list(ids), [end for _, end in offsets])
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def is_byte_token(token: str) -> bool:
    """Whether a token stands for one byte, as `<0x0A>` does where SentencePiece knows no token for a character."""
    return BYTE_TOKEN.fullmatch(token) is not None


def token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each id adds after a letter: a leading space is seen in every tokenizer family."""
    letter = tokenizer.encode("a", add_special_tokens=False)
    lead = len(tokenizer.decode(letter))
    special = set(tokenizer.all_special_ids)
    rows = [[*letter, i] for i in range(num_ids(tokenizer))]
    texts = tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)
    return ["" if i in special else text[lead:] for i, text in enumerate(texts)]


def _token_id(tokenizer: PreTrainedTokenizerBase, token: str, key: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(number, int) or tokenizer.convert_ids_to_tokens(number) != token:
        raise RecipeError(
            f"{key}: {token!r} is not a token of this tokenizer; its special tokens are "
            + ", ".join(map(repr, tokenizer.all_special_tokens))
        )
    return number
