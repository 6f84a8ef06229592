"""Words without context: token ids, and one vector per layer.

    " Haus" -> start token + tokens -> hidden states of all layers -> mean over the tokens -> [layers, D]

The start token stands before every word and is left out of the mean: in a trained model the first position carries an
attention sink that makes the vectors of all words alike.
Shapes: W words, T tokens, L+1 layers (embeddings, then every block), D hidden size.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.model.tokens import encode_plain
from prealign_cpt.text.scripts import in_running_text


def encode_words(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> list[list[int]]:
    """Token ids of each word as it stands inside a sentence: after a space, or without one in scripts that have none
    between words."""
    return encode_pieces(tokenizer, [in_running_text(word) for word in words])


def encode_pieces(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of parts of words: texts that begin with a space begin a word, the others stand inside one."""
    newline = tokenizer.encode("\n", add_special_tokens=False)
    first = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False))[0]
    # Byte-level tokenizers need the space; SentencePiece's put one before any text by themselves.
    start = 1 if first.startswith("▁") else 0
    encoded = encode_plain(tokenizer, [text[start:] if text.startswith(" ") else f"\n{text}" for text in texts])
    return [ids if text.startswith(" ") else ids[len(newline) :] for text, ids in zip(texts, encoded, strict=True)]


def pad_words(encoded: list[list[int]], start_id: int) -> tuple[Tensor, Tensor]:
    """Token ids int64 [W, T] with the start token first, and a mask bool [W, T] of the words' own tokens."""
    length = max(len(ids) for ids in encoded) + 1
    ids_WT = torch.full((len(encoded), length), start_id)
    mask_WT = torch.zeros(len(encoded), length, dtype=torch.bool)
    for i, ids in enumerate(encoded):
        ids_WT[i, 1 : len(ids) + 1] = torch.tensor(ids)
        mask_WT[i, 1 : len(ids) + 1] = True
    return ids_WT, mask_WT


def word_vectors(model: PreTrainedModel, embedded_WTD: Tensor, mask_WT: Tensor) -> Tensor:
    """Mean over each word's tokens of the hidden states, [L+1, W, D] fp32.

    PreAlign (section 3.1) sums; after normalisation that is the same, but only means can be centred.

    Args:
        embedded_WTD: input embeddings; padding is on the right, where causal attention never looks.
    """
    positions = torch.arange(embedded_WTD.shape[1], device=embedded_WTD.device).expand(embedded_WTD.shape[:2])
    output = model.base_model(
        inputs_embeds=embedded_WTD, position_ids=positions, use_cache=False, output_hidden_states=True
    )
    mask = mask_WT[..., None]
    count = mask.sum(dim=1)
    return torch.stack([(hidden * mask).sum(dim=1, dtype=torch.float32) / count for hidden in output.hidden_states])


def chunks(encoded: list[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of words in groups whose padded size stays below `batch_tokens`, shortest first."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    group: list[int] = []
    for i in order:
        if group and (len(encoded[i]) + 1) * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


@torch.no_grad()
def vectors_of(model: PreTrainedModel, encoded: list[list[int]], start_id: int, batch_tokens: int = 2048) -> Tensor:
    """Vectors of many words with a model as it is, fp32 [L+1, W, D] on the CPU."""
    embedding = model.get_input_embeddings()
    parts: list[Tensor] = []
    order: list[int] = []
    for group in chunks(encoded, batch_tokens):
        ids, mask = pad_words([encoded[i] for i in group], start_id)
        device = embedding.weight.device
        parts.append(word_vectors(model, embedding(ids.to(device)), mask.to(device)).cpu())
        order += group
    return torch.cat(parts, dim=1)[:, torch.tensor(order).argsort()]
