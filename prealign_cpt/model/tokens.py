"""The tokens that begin and end a document, alike in training, evaluation, export and serving."""

from transformers import PreTrainedTokenizerBase

from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import RecipeError


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


def _token_id(tokenizer: PreTrainedTokenizerBase, token: str, key: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or tokenizer.convert_ids_to_tokens(found) != token:
        raise RecipeError(
            f"{key}: {token!r} is not a token of this tokenizer; its special tokens are "
            + ", ".join(map(repr, tokenizer.all_special_tokens))
        )
    return found
