"""The masked supervised-contrastive loss, and the term that applies it to a batch of units at every layer.

    L = mean over layers of the mean over (anchor a, positive p) of
        - log  exp(r(a).r(p) / tau) / sum over c allowed for a of exp(r(a).r(c) / tau)

PreAlign (arXiv 2407.16222, section 3.1) with the public code's faults mended: an anchor is kept out of its own
denominator by minus infinity (not by a factor, which leaves exp(0)), there are no padded slots, and pairs that the
lexicon connects without making them translations of one entry are no negatives. The same loss over words in sentences
is VECO 2.0's token contrast (arXiv 2304.08205), over sentences InfoXLM's (2007.07834, with its queue) and AFP's
(2311.08089, last token, one direction).
Shapes: L layers, A anchors, C candidates, U units, N tokens, D hidden size.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prealign_cpt.align.ranks import gather, parts, rank_and_size, total
from prealign_cpt.align.trainable import Trainable, pack
from prealign_cpt.align.units import Graph, Group, Unit
from prealign_cpt.model.world import World
from prealign_cpt.recipe.schema import Align
from prealign_cpt.run.errors import RecipeError

CENTRE_UNITS = 128
"""English units over which the centre is taken: trained models give all vectors of a layer a large common part."""

CACHE_BYTES = 1 << 30
"""Most memory for English word vectors that are kept because they cannot change."""


def contrastive_loss(
    anchors_LAD: Tensor,
    candidates_LCD: Tensor,
    positive_AC: Tensor,
    excluded_AC: Tensor,
    temperature: float,
    num_pairs: int | None = None,
) -> Tensor:
    """The loss, fp32 scalar; its minimum is log P where every anchor has P positives.

    Args:
        anchors_LAD, candidates_LCD: vectors; they are normalised here.
        positive_AC: bool; translations. Anchors without a positive do not count.
        excluded_AC: bool; neither positive nor negative: the anchor itself, and false negatives.
        temperature: tau.
        num_pairs: what the sum is divided by, if these anchors are only a part of the batch's; else their own pairs.
    """
    a = F.normalize(anchors_LAD.float(), dim=-1)
    c = F.normalize(candidates_LCD.float(), dim=-1)
    logits_LAC = a @ c.transpose(1, 2) / temperature
    logits_LAC = logits_LAC.masked_fill(excluded_AC, float("-inf"))
    log_p = logits_LAC - logits_LAC.logsumexp(dim=-1, keepdim=True)
    pairs = int(positive_AC.sum()) if num_pairs is None else num_pairs
    return -log_p[:, positive_AC].sum() / (len(a) * pairs)


def relations(
    names: list[str], groups: Sequence[Hashable | None], anchors: list[int], connected: Graph
) -> tuple[Tensor, Tensor]:
    """`positive` and `excluded`, bool [A, C], for anchors among candidates.

    Args:
        names: of each candidate, such as `e:house`; equal names are one word.
        groups: lexicon entry (or sentence pair) of each candidate in this batch; None for one without translations.
        anchors: places of the anchors among the candidates.
        connected: word -> words that share an entry with it anywhere in the lexicon, and words that share one with
            those: no negatives of it.
    """
    at = torch.tensor(anchors, dtype=torch.long)
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))} | {None: -1}
    group = torch.tensor([numbers[group] for group in groups], dtype=torch.long)
    same = (group[at][:, None] == group[None, :]) & (group >= 0)
    itself = at[:, None] == torch.arange(len(names))
    index: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        index.setdefault(name, []).append(place)
    linked = torch.zeros(len(anchors), len(names), dtype=torch.bool)
    for row, place in enumerate(anchors):
        near = connected.get(names[place], set()) | {names[place]}
        linked[row, [i for name in near & index.keys() for i in index[name]]] = True
    return same & ~itself, (linked & ~same) | itself


class Contrast:
    """The contrastive term of the stage.

    Args:
        batches: for each step the groups of all ranks, as `units` makes them.
        connected: see `relations`.

    Raises:
        RecipeError: `align.layers` names a layer that the model does not have.
    """

    name = "contrastive"

    def __init__(
        self,
        model: Trainable,
        batches: list[list[Group]],
        connected: Graph,
        recipe: Align,
        world: World | None = None,
    ) -> None:
        self.weight = recipe.weight
        self._model, self._batches, self._connected = model, batches, connected
        self._recipe, self._world = recipe, world
        self._layers = chosen_layers(recipe, model.model.config.num_hidden_layers)
        self._with_head = not (recipe.layers or model.tied)
        self._cached: dict[Unit, Tensor] = {}
        self._queue: Tensor | None = None
        self._queue_names: list[str] = []
        self._centre = self._common_part()

    def loss(self, step: int) -> Tensor:
        """This rank's part of the loss of a step; the parts of all ranks add up to it. All ranks call it together."""
        rank, _ = rank_and_size(self._world)
        split = parts(self._batches[step], self._world)
        members = [_members(part, number) for number, part in enumerate(split)]
        together_LUD = gather(self._vectors(split[rank]) - self._centre, [len(part) for part in members], self._world)
        first = sum(len(part) for part in members[:rank])
        anchors = [
            first + i
            for i, member in enumerate(members[rank])
            if member.group is not None and (member.is_english or self._recipe.symmetric)
        ]
        flat = [member for part in members for member in part]
        positive, excluded = relations(
            [member.name for member in flat] + self._queue_names,
            [member.group for member in flat] + [None] * len(self._queue_names),
            anchors,
            self._connected,
        )
        sizes = [1 + len(group.targets) for part in split for group in part]
        candidates = together_LUD
        if self._queue is not None:
            candidates = torch.cat([together_LUD, self._queue], dim=1)
        loss = contrastive_loss(
            together_LUD[:, anchors],
            candidates,
            positive.to(candidates.device),
            excluded.to(candidates.device),
            self._recipe.temperature,
            num_pairs=sum(n * (n - 1) if self._recipe.symmetric else n - 1 for n in sizes),
        )
        if self._recipe.queue:
            own = [i for i, member in enumerate(flat) if member.group is not None]
            kept = together_LUD.detach()[:, own]
            earlier = kept[:, :0] if self._queue is None else self._queue
            self._queue = torch.cat([earlier, kept], dim=1)[:, -self._recipe.queue :]
            self._queue_names = (self._queue_names + [flat[i].name for i in own])[-self._recipe.queue :]
        return loss

    def _vectors(self, groups: Sequence[Group]) -> Tensor:
        """Vectors of some groups in the order of `_members`, [L, U, D]."""
        if not groups:
            width = self._model.model.get_input_embeddings().weight.shape[1]
            return torch.zeros(len(self._layers) + self._with_head, 0, width, device=self._model.device)
        english = self._english([group.english for group in groups])
        targets = self._run([target for group in groups for target in group.targets])
        own: list[int] = []
        others: list[int] = []
        next_english, next_target = 0, english.shape[1]
        for group in groups:
            behind = next_english + 1 + len(group.english.others)
            own += [next_english, *range(next_target, next_target + len(group.targets))]
            others += range(next_english + 1, behind)
            next_english, next_target = behind, next_target + len(group.targets)
        return torch.cat([english, targets], dim=1)[:, own + others]

    def _english(self, units: list[Unit]) -> Tensor:
        """Vectors of English units and their neighbours, without gradient where the recipe or the model says so."""
        if self._model.english_moves and not self._recipe.freeze_english:
            return self._run(units)
        with torch.no_grad():
            if self._model.english_moves or self._recipe.unit != "word":
                return self._run(units)
            missing = [unit for unit in dict.fromkeys(units) if unit not in self._cached]
            known = dict(self._cached)
            if missing:
                found = self._run(missing).cpu()
                known |= {unit: found[:, i] for i, unit in enumerate(missing)}
            one = next(iter(known.values()))
            if len(known) * one.numel() * one.element_size() < CACHE_BYTES:
                self._cached = {unit: v for unit, v in known.items() if max(unit.ids) < self._model.num_old}
            return torch.stack([known[unit] for unit in units], dim=1).to(self._model.device)

    def _run(self, units: list[Unit]) -> Tensor:
        """Vectors of units, each followed by those of its neighbours, fp32 [L, U, D]."""
        packed = pack([unit.ids for unit in units], self._model.start_id)
        spans = [(i, *span) for i, unit in enumerate(units) for span in (unit.span, *(s for _, s in unit.others))]
        pool_UN = torch.zeros(len(spans), packed.ids_BT.numel())
        for row, (i, start, end) in enumerate(spans):
            first = packed.first[i]
            if self._recipe.pooling == "last":
                pool_UN[row, first + end - 1] = 1.0
            else:
                pool_UN[row, first + start : first + end] = 1.0 / (end - start)
        pool_UN = pool_UN.to(self._model.device)
        states = self._model.states(packed)
        vectors = [pool_UN @ states[layer].float() for layer in self._layers]
        if self._with_head:
            vectors.append(pool_UN @ self._model.head_rows(packed.ids_BT.flatten().to(self._model.device)))
        return torch.stack(vectors)

    @torch.no_grad()
    def _common_part(self) -> Tensor:
        """Mean vector of English units before the stage, [L, 1, D], the same on every rank."""
        chosen: list[Group] = []
        for batch in self._batches:
            chosen += batch if len(chosen) < CENTRE_UNITS else []
        rank, _ = rank_and_size(self._world)
        english = [group.english for group in parts(chosen, self._world)[rank]]
        bare = [Unit(unit.name, unit.ids, unit.span) for unit in english]
        vectors = self._english(bare) if bare else self._vectors([])
        return total(vectors.sum(dim=1, keepdim=True), self._world) / len(chosen)


def chosen_layers(recipe: Align, num_blocks: int) -> list[int]:
    """Layers to contrast, 0 the embeddings.

    Raises:
        RecipeError: one is beyond the model's last.
    """
    beyond = [layer for layer in recipe.layers if layer > num_blocks]
    if beyond:
        raise RecipeError(
            f"align.layers: the model has no layer {beyond[0]}; it has {num_blocks} blocks, so layers 0 (the "
            f"embeddings) to {num_blocks}"
        )
    return sorted(set(recipe.layers)) or list(range(num_blocks + 1))


@dataclass(frozen=True)
class _Member:
    """One vector of a batch. `group` is (rank, place) of its group; None for a neighbour, which has no translation."""

    name: str
    group: tuple[int, int] | None
    is_english: bool


def _members(groups: Sequence[Group], rank: int) -> list[_Member]:
    """The units of a rank's groups, then all their neighbours."""
    own = [
        _Member(unit.name, (rank, i), unit is group.english)
        for i, group in enumerate(groups)
        for unit in (group.english, *group.targets)
    ]
    return own + [_Member(name, None, True) for group in groups for name, _ in group.english.others]
