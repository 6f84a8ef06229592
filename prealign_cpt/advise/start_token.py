"""Which token should start a text? The one after which the base predicts held-out English best."""

from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel

from prealign_cpt.model.bits import batches, score, windows
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.run.errors import RecipeError

WINDOW_BYTES, TEXT_BYTES = 512, 8_000


def start_tokens(model: PreTrainedModel, base: Path, documents: Iterable[str]) -> dict[str, float]:
    """Bits per byte of English text after each token that may start one: BOS, EOS, unknown and padding token, and every
    other special token whose name speaks of a text's start or end.

    Args:
        model: the base, in evaluation mode.
        base: its folder, for the tokenizer.

    Raises:
        RecipeError: the tokenizer has no such token.
    """
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    special = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token]
    special += [token for token in tokenizer.all_special_tokens if "text" in token]
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special if token}
    if not ids:
        raise RecipeError(f"{base}: its tokenizer names no BOS or EOS token, so no text can be started; add one")
    texts = windows(documents, WINDOW_BYTES, TEXT_BYTES)
    module = LanguageModelLoss(model)
    scores = {token: score(module, batches(texts, tokenizer, start_id, 2048)) for token, start_id in ids.items()}
    return {token: round(result.bits_per_byte, 4) for token, result in scores.items()}
