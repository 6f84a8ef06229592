"""Bits per byte of held-out text: comparable across tokenizers, unlike token perplexity.

    bits per byte = - sum log2 p(text) / bytes(text)

Text is scored in windows of at most `window_bytes` bytes, cut at line ends where possible, each after the recipe's
start token. Windows are measured in bytes, so a tokenizer with longer tokens gets no more context than another.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prealign_cpt.model.loss import IGNORED, LanguageModelLoss
from prealign_cpt.model.tokens import encode_plain, start_token_id
from prealign_cpt.model.vectors import chunks, pad_words
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.text.stage import held_out_documents


@dataclass(frozen=True)
class Score:
    """Sums over a text; addable."""

    nats: float
    bytes: int
    tokens: int

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte."""
        return self.nats / math.log(2) / self.bytes

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nats + other.nats, self.bytes + other.bytes, self.tokens + other.tokens)


@dataclass(frozen=True)
class Batch:
    """Windows of similar length, padded on the right with unlearned positions. int64 [B, T] each."""

    inputs: Tensor
    labels: Tensor
    positions: Tensor
    bytes: int
    tokens: int
    windows: tuple[tuple[int, int], ...] = ()
    """For each row, the place of its window in the text and its bytes."""

    def tensors(self, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
        """What `LanguageModelLoss.forward` takes, on a device."""
        return self.inputs.to(device), self.labels.to(device), self.positions.to(device)

    def first(self, rows: int | None) -> "Batch":
        """The first rows alone; `bytes` and `tokens` stay those of the whole."""
        return replace(
            self, inputs=self.inputs[:rows], labels=self.labels[:rows], positions=self.positions[:rows]
        )  # fmt: skip


def windows(documents: Iterable[str], window_bytes: int, max_bytes: int) -> list[str]:
    """The first `max_bytes` bytes or so of some documents as windows; no text is lost within a document but the line
    ends between two windows."""
    result: list[str] = []
    left = max_bytes
    for document in documents:
        for window in _cut(document, window_bytes):
            if left <= 0:
                return result
            if window.strip("\n"):
                result.append(window)
                left -= len(window.encode())
    return result


def batches(texts: list[str], tokenizer: PreTrainedTokenizerBase, start_id: int, batch_tokens: int) -> list[Batch]:
    """Windows to padded batches, sorted by length so that little is padded."""
    encoded = encode_plain(tokenizer, texts)
    result = []
    for group in chunks(encoded, batch_tokens):
        inputs, mask = pad_words([encoded[i] for i in group], start_id)
        sizes = [len(texts[i].encode()) for i in group]
        result.append(
            Batch(
                inputs=inputs,
                labels=inputs.masked_fill(~mask, IGNORED),
                positions=torch.arange(inputs.shape[1]).expand(inputs.shape).contiguous(),
                bytes=sum(sizes),
                tokens=int(mask.sum()),
                windows=tuple(zip(group, sizes, strict=True)),
            )
        )
    return result


def held_out(recipe: Recipe, name: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Batch]]:
    """Batches of a recipe's held-out set ("valid", "test" or "general") by language ("target", "english"); empty if the
    recipe names no such text."""
    start = start_token_id(tokenizer, recipe)
    found = {}
    for language in ("target", "english"):
        if recipe.held_out(name, language) is None:
            continue
        documents = held_out_documents(recipe, name, language)
        texts = windows(documents, recipe.evaluate.window_bytes, recipe.evaluate.max_bytes)
        found[language] = batches(texts, tokenizer, start, recipe.evaluate.batch_tokens)
    return found


@torch.no_grad()
def score(model: LanguageModelLoss, batches: Iterable[Batch], device: torch.device | str = "cpu") -> Score:
    """Score batches with a model that this process holds whole."""
    batches = list(batches)
    nats = sum(nats for nats, _ in score_windows(model, batches, device))
    return Score(nats, sum(batch.bytes for batch in batches), sum(batch.tokens for batch in batches))


@torch.no_grad()
def score_windows(
    model: LanguageModelLoss, batches: Iterable[Batch], device: torch.device | str = "cpu"
) -> list[tuple[float, int]]:
    """Nats and bytes of every window, in the order of the text."""
    was_training = model.training
    model.eval()
    scores: dict[int, tuple[float, int]] = {}
    for batch in batches:
        nats = model(*batch.tensors(device), each=True)
        by_row = nats.double().cpu().split((batch.labels[:, 1:] != IGNORED).sum(dim=1).tolist())
        for row, (place, size) in zip(by_row, batch.windows, strict=True):
            scores[place] = float(row.sum()), size
    model.train(was_training)
    return [scores[place] for place in sorted(scores)]


def _cut(document: str, window_bytes: int) -> Iterator[str]:
    """Lines joined up to `window_bytes`; a longer line is cut at spaces, a longer word between characters."""
    current: list[str] = []
    size = 0
    for line in document.split("\n"):
        for part in _cut_line(line, window_bytes) if line else [""]:
            length = len(part.encode()) + 1
            if current and size + length > window_bytes:
                yield "\n".join(current)
                current, size = [], 0
            current.append(part)
            size += length
    if current:
        yield "\n".join(current)


def _cut_line(line: str, limit: int) -> Iterator[str]:
    while len(line.encode()) > limit:
        end = len(line.encode()[:limit].decode(errors="ignore"))
        space = line.rfind(" ", 1, end)
        if space > 0:
            end = space
        yield line[:end]
        line = line[end:]
    if line:
        yield line
