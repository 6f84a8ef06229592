"""Take a ready grown tokenizer instead of learning one: its folder in, a checked copy out."""

from pathlib import Path

from prealign_cpt.model.tokens import num_ids
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.vocab.grow import Growth, NewToken, copy_tokenizer, load_tokenizer


def take_tokenizer(base: Path, given: Path, size: int, out: Path) -> Growth:
    """Copy the tokenizer of `given` to `out`.

    Args:
        size: how many tokens it must add to the base's.

    Raises:
        MissingInputError: `given` holds no tokenizer.
        RecipeError: an old token has another id in it, the new ids do not follow the old ones, or their number is not
            `size`.
    """
    base_tokenizer, tokenizer = load_tokenizer(base), load_tokenizer(given)
    old, ids = base_tokenizer.get_vocab(), tokenizer.get_vocab()
    for token, number in old.items():
        if ids.get(token) != number:
            raise RecipeError(
                f"vocab.tokenizer: {given}: token {token!r} has id {ids.get(token)} there and {number} in the base; "
                "give a tokenizer that was grown from this base"
            )
    first_id = num_ids(base_tokenizer)
    new = sorted((number, token) for token, number in ids.items() if token not in old)
    if [number for number, _ in new] != list(range(first_id, first_id + len(new))):
        raise RecipeError(f"vocab.tokenizer: {given}: its new ids do not run on from {first_id}; grow it again")
    if len(new) != size:
        raise RecipeError(
            f"vocab.tokenizer: {given} adds {len(new)} tokens, vocab.size is {size}; set vocab.size = {len(new)}, "
            "or 0 to keep the base tokenizer"
        )
    copy_tokenizer(tokenizer, given, out)
    texts = (tokenizer.decode([number]) for number, _ in new)
    return Growth(first_id, [NewToken(n, text, None, None, 0) for (n, _), text in zip(new, texts, strict=True)])
