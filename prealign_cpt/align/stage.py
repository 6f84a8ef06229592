"""The contrastive stage: the new rows move until words and their translations agree at every layer.

The body and all old rows stay as they are, so English words have constant vectors (computed once), English text has
constant hidden states, and only the new rows get a gradient. The anchor is the language-model loss: on English text,
where with constant hidden states it needs nothing but the new output rows, one small matrix product per step; and on
some text in the new language, without which rows that agree with their translations drift away from being useful.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.contrast import contrastive_loss, relations
from prealign_cpt.align.words import encode_words, pad_words, vectors_of, word_vectors
from prealign_cpt.data.batches import positions
from prealign_cpt.errors import NumericError
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.recipe import Align
from prealign_cpt.train.loss import chunked_nll

WINDOW = 128
"""Tokens that a window of text predicts."""

EPS = 1e-4
"""Adam's epsilon. Every new row gets some gradient in every step, through the softmax; with the usual 1e-8 Adam would
blow the smallest of them up to full steps, and rows that no batch speaks of would drift."""

ENGLISH, TARGET = "e:", "t:"
"""Prefixes that keep `die` (English) and `die` (German) apart."""


@dataclass(frozen=True)
class Anchor:
    """English text as the frozen body sees it.

    Attributes:
        hidden_ND: fp32 [N, D], final hidden states.
        old_logsumexp_N: fp32 [N], over the logits of the old tokens.
        label_logit_N: fp32 [N], the logit of the token that follows.
    """

    hidden_ND: Tensor  # noqa: N815
    old_logsumexp_N: Tensor  # noqa: N815
    label_logit_N: Tensor  # noqa: N815

    def loss(self, rows_MD: Tensor, chosen: Tensor) -> Tensor:  # noqa: N803
        """Mean negative log-likelihood in nats of the chosen positions, given the new output rows."""
        new = (self.hidden_ND[chosen] @ rows_MD.T).logsumexp(dim=-1)
        return (torch.logaddexp(self.old_logsumexp_N[chosen], new) - self.label_logit_N[chosen]).mean()


@torch.no_grad()
def english_anchor(
    model: PreTrainedModel, num_old: int, documents: Iterable[list[int]], start_id: int, tokens: int
) -> Anchor:
    """Run English text through the frozen model once; labels must be old tokens.

    Args:
        num_old: rows of the head that belong to old tokens.
        documents: token ids of English documents.
        tokens: how many positions to keep at most.
    """
    head = model.get_output_embeddings().weight[:num_old]
    old = ([i for i in ids if i < num_old] for ids in documents)
    rows = list(islice(_windows(old, start_id), max(1, tokens // WINDOW)))
    hidden, lse, logit = [], [], []
    for k in range(0, len(rows), 8):
        batch = torch.tensor(rows[k : k + 8], device=head.device)
        states = _hidden(model, model.get_input_embeddings()(batch[:, :-1]), batch[:, :-1], start_id)
        logits = (states @ head.T).float()
        hidden.append(states.float())
        lse.append(logits.logsumexp(dim=-1))
        logit.append(logits.gather(1, batch[:, 1:].reshape(-1, 1))[:, 0])
    return Anchor(torch.cat(hidden), torch.cat(lse), torch.cat(logit))


def target_windows(documents: Iterable[list[int]], start_id: int, windows: int, seed: int) -> Tensor:
    """Windows of target text taken at random, int64 [windows or fewer, 1 + WINDOW]."""
    rows = list(_windows(documents, start_id))
    return torch.tensor(random.Random(seed).sample(rows, min(windows, len(rows))), dtype=torch.long)


def _windows(documents: Iterable[list[int]], start_id: int) -> Iterator[list[int]]:
    """Documents end to end, each after the start token, cut into pieces of 1 + WINDOW that share their border token;
    the rest that fills no piece is given only if it is all there is."""
    rest: list[int] = []
    whole = False
    for ids in documents:
        rest += [start_id, *ids]
        while len(rest) > WINDOW:
            whole = True
            yield rest[: WINDOW + 1]
            rest = rest[WINDOW:]
    if not whole and len(rest) > 1:
        yield rest


def _hidden(model: PreTrainedModel, embedded: Tensor, ids: Tensor, start_id: int) -> Tensor:
    """Final hidden states [B * T, D] of packed text, attention kept inside documents."""
    output = model.base_model(inputs_embeds=embedded, position_ids=positions(ids, start_id), use_cache=False)
    return output.last_hidden_state.flatten(0, 1)


def train_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    new_ids: list[int],
    pairs: list[Pair],
    anchor: Anchor | None,
    target: Tensor | None,
    recipe: Align,
    start_id: int,
    seed: int,
    log: Callable[[dict[str, float]], None] = lambda row: None,
) -> dict[str, Any]:
    """Train the new rows in place; return what was done.

    Args:
        new_ids: the rows that move; every other weight is bit-identical afterwards.
        pairs: training entries. Entries whose translations hold no new token cannot move anything and are left out.
        anchor: English text; None leaves its loss out.
        target: text in the new language, as `target_windows` gives it, read from front to back once and then again;
            None or an empty one leaves its loss out.
        log: called with each step's figures.

    Raises:
        NumericError: the loss or a row is not finite; the model is left as it was before the stage.
    """
    entries = _entries(tokenizer, pairs, set(new_ids))
    if not entries:
        return {"entries": 0, "steps": 0, "reason": "no translation contains a new token"}
    device = model.get_input_embeddings().weight.device
    chooser = random.Random(seed)
    batches = [chooser.sample(range(len(entries)), min(recipe.words, len(entries))) for _ in range(recipe.steps)]
    used = sorted({i for batch in batches for i in batch})
    place = {i: k for k, i in enumerate(used)}
    english = vectors_of(model, [entries[i].source_ids for i in used], start_id)
    centre = english.mean(dim=1, keepdim=True).to(device)
    connected = _connected(pairs)
    rows = _Rows(model, new_ids)
    optimizer = torch.optim.AdamW(rows.parameters(), lr=recipe.lr, weight_decay=0.0, betas=(0.9, 0.95), eps=EPS)
    per_step = recipe.target_tokens // WINDOW
    frozen = [p for p in model.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        bar = tqdm(range(recipe.steps), desc="align", unit="step", disable=None)
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * _schedule(step, recipe.steps)
            vectors = english[:, [place[i] for i in batches[step]]].to(device)
            batch = [entries[i] for i in batches[step]]
            contrast = _batch_loss(model, rows, batch, vectors, centre, connected, recipe, start_id)
            loss = recipe.weight * contrast
            lm = torch.zeros(())
            if anchor is not None and recipe.anchor_tokens:
                picked = torch.randint(
                    len(anchor.hidden_ND), (recipe.anchor_tokens,), generator=torch.Generator().manual_seed(seed + step)
                )
                lm = anchor.loss(rows.output(), picked.to(device))
                loss = loss + lm
            text = torch.zeros(())
            if target is not None and len(target) and per_step:
                at = torch.arange(step * per_step, (step + 1) * per_step) % len(target)
                text = _text_loss(model, rows, target[at].to(device), start_id)
                loss = loss + text
            if not torch.isfinite(loss):
                raise NumericError(f"align.lr: the loss is not finite at step {step + 1}; lower align.lr ({recipe.lr})")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            figures = {"step": step + 1, "contrastive": float(contrast.detach()), "anchor": float(lm.detach())}
            figures["target_text"] = float(text.detach())
            bar.set_postfix({k: f"{v:.3f}" for k, v in figures.items() if k != "step"})
            log(figures)
        if not all(torch.isfinite(parameter).all() for parameter in rows.parameters()):
            raise NumericError(f"align.lr: a new row is not finite after the last step; lower align.lr ({recipe.lr})")
        rows.write(model)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    tokens = recipe.steps * per_step * WINDOW if target is not None and len(target) else 0
    return {"entries": len(entries), "steps": recipe.steps, "target_tokens": tokens}


@dataclass(frozen=True)
class _Entry:
    source: str
    source_ids: list[int]
    targets: list[str]
    target_ids: list[list[int]]


class _Rows(nn.Module):
    """The new rows as parameters of their own, fp32; one set if the head is tied, two if not."""

    def __init__(self, model: PreTrainedModel, new_ids: list[int]) -> None:
        super().__init__()
        self.table = model.get_input_embeddings().weight.detach()
        head = model.get_output_embeddings().weight.detach()
        self.ids = torch.tensor(new_ids, device=self.table.device)
        self.slot = torch.full((len(self.table),), -1, device=self.table.device)
        self.slot[self.ids] = torch.arange(len(new_ids), device=self.table.device)
        self.tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        self.rows = nn.Parameter(self.table[self.ids].float())
        self.head = self.rows if self.tied else nn.Parameter(head[self.ids].float())

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of some token ids, new ones from the parameters; in the model's dtype."""
        slot = self.slot[ids]
        new = self.rows[slot.clamp(min=0)].to(self.table.dtype)
        return torch.where((slot >= 0)[..., None], new, self.table[ids])

    def output(self) -> Tensor:
        """Output rows [M, D], fp32."""
        return self.head

    def whole_head(self, model: PreTrainedModel) -> Tensor:
        """The head with the new rows in place, in the model's dtype."""
        head = model.get_output_embeddings().weight.detach()
        return head.index_copy(0, self.ids, self.head.to(head.dtype))

    @torch.no_grad()
    def write(self, model: PreTrainedModel) -> None:
        """Put the rows into the model."""
        weight = model.get_input_embeddings().weight
        weight[self.ids] = self.rows.to(weight.dtype)
        if not self.tied:
            head = model.get_output_embeddings().weight
            head[self.ids] = self.head.to(head.dtype)


def _entries(tokenizer: PreTrainedTokenizerBase, pairs: list[Pair], new: set[int]) -> list[_Entry]:
    """Lexicon entries with the translations that contain a new token."""
    targets: dict[str, list[str]] = {}
    for pair in pairs:
        targets.setdefault(pair.source, []).append(pair.target)
    all_targets = sorted({pair.target for pair in pairs})
    encoded = dict(zip(all_targets, encode_words(tokenizer, all_targets), strict=True))
    sources = list(targets)
    entries = []
    for source, ids in zip(sources, encode_words(tokenizer, sources), strict=True):
        movable = [t for t in targets[source] if new & set(encoded[t])]
        if movable and ids:
            entries.append(_Entry(source, ids, movable, [encoded[t] for t in movable]))
    return entries


def _connected(pairs: list[Pair]) -> dict[str, set[str]]:
    """Words that share an entry, and English words (or translations) that share a translation (or an English word)."""
    of_source: dict[str, set[str]] = {}
    of_target: dict[str, set[str]] = {}
    for pair in pairs:
        of_source.setdefault(ENGLISH + pair.source, set()).add(TARGET + pair.target)
        of_target.setdefault(TARGET + pair.target, set()).add(ENGLISH + pair.source)
    direct = {**of_source, **of_target}
    return {
        word: near | {second for first in near for second in direct.get(first, set())} for word, near in direct.items()
    }


def _batch_loss(
    model: PreTrainedModel,
    rows: _Rows,
    batch: list[_Entry],
    english: Tensor,
    centre: Tensor,
    connected: dict[str, set[str]],
    recipe: Align,
    start_id: int,
) -> Tensor:
    """Contrastive loss of a batch over all layers, and over the head's rows if they are not the embeddings."""
    device = rows.table.device
    ids, mask = pad_words([ids for entry in batch for ids in entry.target_ids], start_id)
    ids, mask = ids.to(device), mask.to(device)
    target = word_vectors(model, rows.embed(ids), mask) - centre
    english = english - centre
    if not rows.tied:
        head_rows = _head_vectors(model, rows, batch, ids, mask)
        english = torch.cat([english, head_rows[0]])
        target = torch.cat([target, head_rows[1]])
    names = [[ENGLISH + e.source, *(TARGET + t for t in e.targets)] for e in batch]
    positive, excluded = relations(names, connected)
    order, next_target = [], len(batch)
    for i, entry in enumerate(batch):
        order.append(i)
        order += range(next_target, next_target + len(entry.targets))
        next_target += len(entry.targets)
    both = torch.cat([english, target], dim=1)[:, torch.tensor(order, device=device)]
    return contrastive_loss(both, both, positive.to(device), excluded.to(device), recipe.temperature)


def _text_loss(model: PreTrainedModel, rows: _Rows, windows: Tensor, start_id: int) -> Tensor:
    """Mean negative log-likelihood in nats of windows of target text, with the rows in place at both ends."""
    inputs, labels = windows[:, :-1], windows[:, 1:].reshape(-1)
    hidden = _hidden(model, rows.embed(inputs), inputs, start_id)
    return chunked_nll(hidden, labels, rows.whole_head(model)).mean()


def _head_vectors(
    model: PreTrainedModel, rows: _Rows, batch: list[_Entry], ids: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean head rows of the English words and the translations, each fp32 [1, W, D], centred."""
    head = model.get_output_embeddings().weight.detach()
    source_ids, source_mask = (x.to(head.device) for x in pad_words([e.source_ids for e in batch], int(ids[0, 0])))
    centre = head.float().mean(dim=0)
    english = (head[source_ids].float() * source_mask[..., None]).sum(dim=1) / source_mask.sum(dim=1, keepdim=True)
    slot = rows.slot[ids]
    new = torch.where((slot >= 0)[..., None], rows.output()[slot.clamp(min=0)], head[ids].float())
    target = (new * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return (english - centre)[None], (target - centre)[None]


def _schedule(step: int, steps: int) -> float:
    """Warm-up over a twentieth of the steps, then a cosine down to a tenth."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
