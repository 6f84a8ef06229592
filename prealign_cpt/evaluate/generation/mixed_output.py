"""Mixed-language output: does a model that continues text of one language write letters of the other?

It can only be seen where the languages are written in different scripts, English-Clone or Russian, say. PreAlign
(arXiv 2407.16222, section 3.2) switches words in the input alone in order to keep this rate low.
Shapes: B prompts, T tokens, V vocabulary.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPT_TOKENS = 16


@lru_cache(maxsize=4096)
def script_of(character: str) -> str:
    """The first word of a letter's Unicode name ("LATIN", "CYRILLIC"); empty for what is no letter."""
    return unicodedata.name(character, "").split(" ")[0] if character.isalpha() else ""


def main_script(texts: Iterable[str]) -> str:
    """The script of most letters; empty if there are none."""
    counts = Counter(script_of(character) for text in texts for character in text)
    del counts[""]
    return counts.most_common(1)[0][0] if counts else ""


def mixed_output(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: dict[str, list[str]],
    start_id: int,
    prompts: int = 32,
    tokens: int = 24,
    temperature: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Continue the beginnings of held-out texts and count letters of the wrong script.

    Args:
        texts: held-out texts of the two languages, "target" and "english"; the first 16 tokens of each of the first
            `prompts` texts are the prompts.
        temperature: 0 takes the likeliest token.

    Returns:
        For each language the share of letters in the other one's script among the letters of both scripts that were
        written after its prompts, and `LANGUAGE_letters`, their number. The shares are None, and `reason` says why, if
        both languages use one script or the texts are too short. A share of no letters is None as well.
    """
    scripts = {language: main_script(some) for language, some in texts.items()}
    result: dict[str, Any] = dict.fromkeys(texts)
    if scripts["target"] == scripts["english"] or not all(scripts.values()):
        return result | {"reason": f"both languages are written in one script ({scripts['english'] or 'none'})"}
    for language, some in texts.items():
        encoded = tokenizer(some, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        rows = [[start_id, *ids[:PROMPT_TOKENS]] for ids in encoded if len(ids) >= PROMPT_TOKENS][:prompts]
        if not rows:
            return result | {"reason": f"no held-out {language} text has {PROMPT_TOKENS} tokens"}
        written = _continue(model, torch.tensor(rows), tokens, temperature, seed)
        decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in written.tolist()]
        counts = Counter(script_of(character) for text in decoded for character in text)
        other = scripts["english" if language == "target" else "target"]
        letters = counts[scripts[language]] + counts[other]
        result[language] = round(counts[other] / letters, 4) if letters else None
        result[f"{language}_letters"] = letters
    return result


@torch.no_grad()
def _continue(model: PreTrainedModel, inputs_BT: Tensor, tokens: int, temperature: float, seed: int) -> Tensor:
    """The next `tokens` tokens of each row, int64 [B, tokens]. Rows are of one length, so no mask is needed."""
    device = model.get_input_embeddings().weight.device
    generator = torch.Generator().manual_seed(seed)
    fed, cache, written = inputs_BT, None, []
    for _ in range(tokens):
        output = model(input_ids=fed.to(device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        logits_BV = output.logits[:, -1].float().cpu()
        if temperature > 0:
            fed = torch.multinomial((logits_BV / temperature).softmax(dim=-1), 1, generator=generator)
        else:
            fed = logits_BV.argmax(dim=-1, keepdim=True)
        written.append(fed)
    return torch.cat(written, dim=1)
