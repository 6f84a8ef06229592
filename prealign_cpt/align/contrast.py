"""The masked supervised-contrastive loss, and the term that applies it to a batch of units at every layer.

    L = mean over layers of the mean over (anchor a, positive p) of
        - log  exp(r(a).r(p) / tau) / sum over c allowed for a of exp(r(a).r(c) / tau)

PreAlign (arXiv 2407.16222, section 3.1) with the public code's faults mended: an anchor is kept out of its own
denominator by minus infinity (not by a factor, which leaves exp(0)), there are no padded slots, and pairs that the
lexicon connects without making them translations of one entry are no negatives.
Shapes: L layers, A anchors, C candidates, U units, N tokens, D hidden size.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prealign_cpt.align.ranks import gather, parts, total
from prealign_cpt.align.trainable import Trainable, pack
from prealign_cpt.align.units import Graph, Group, Unit
from prealign_cpt.model.world import World

TEMPERATURE = 0.1
"""tau, as in PreAlign."""

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
    places = torch.tensor(anchors, dtype=torch.long)
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))} | {None: -1}
    group = torch.tensor([numbers[group] for group in groups], dtype=torch.long)
    same = (group[places][:, None] == group[None, :]) & (group >= 0)
    itself = places[:, None] == torch.arange(len(names))
    index: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        index.setdefault(name, []).append(place)
    linked = torch.zeros(len(anchors), len(names), dtype=torch.bool)
    for row, place in enumerate(anchors):
        near = connected.get(names[place], set()) | {names[place]}
        linked[row, [i for name in near & index.keys() for i in index[name]]] = True
    return same & ~itself, (linked & ~same) | itself


@dataclass(frozen=True)
class Member:
    """One vector of a batch.

    Attributes:
        group: (rank, place) of its group; None for one that has no translation.
        num_translations: other units of its group.
    """

    name: str
    group: tuple[int, int] | None
    is_english: bool
    num_translations: int


class Contrast:
    """The contrastive term: every unit of the batch is an anchor, at every layer.

    Args:
        batches: for each step the groups of all ranks.
        connected: see `relations`.
        weight: in the sum of the stage's terms.
    """

    name = "contrastive"

    def __init__(
        self, model: Trainable, batches: list[list[Group]], connected: Graph, weight: float, world: World
    ) -> None:
        self.weight = weight
        self._model, self.batches, self._connected, self._world = model, batches, connected, world
        self._cached: dict[Unit, Tensor] = {}
        english = (group.english for batch in batches for group in batch)
        self._english_stands = not model.english_moves and not any(unit.others for unit in english)
        layers = model.model.config.num_hidden_layers + 1 + (not model.tied)
        self._nothing = torch.zeros(layers, 0, model.model.get_input_embeddings().weight.shape[1], device=model.device)
        self._centre = self._common_part()

    def loss(self, step: int) -> Tensor:
        """This rank's part of the loss of a step; the parts of all ranks add up to it. All ranks call it together."""
        rank = self._world.rank
        split = parts(self.batches[step], self._world)
        members = [_members(part, number) for number, part in enumerate(split)]
        vectors_LUD = gather(self._vectors(split[rank]) - self._centre, [len(part) for part in members], self._world)
        first = sum(len(part) for part in members[:rank])
        anchors = [first + i for i, member in enumerate(members[rank]) if self.is_anchor(member)]
        batch = [member for part in members for member in part]
        more, candidates_LCD = self.candidates(batch, vectors_LUD)
        positive, excluded = relations(
            [member.name for member in batch] + more,
            [member.group for member in batch] + [None] * len(more),
            anchors,
            self._connected,
        )
        return contrastive_loss(
            vectors_LUD[:, anchors],
            candidates_LCD,
            positive.to(candidates_LCD.device),
            excluded.to(candidates_LCD.device),
            TEMPERATURE,
            num_pairs=sum(member.num_translations for member in batch if self.is_anchor(member)),
        )

    def is_anchor(self, member: Member) -> bool:
        """Whether its translations are held against the rest of the batch."""
        return member.group is not None

    def candidates(self, batch: list[Member], vectors_LUD: Tensor) -> tuple[list[str], Tensor]:
        """What anchors are compared with: the batch, and names of what stands behind it. Called once a step."""
        return [], vectors_LUD

    def _vectors(self, groups: Sequence[Group]) -> Tensor:
        """Vectors of some groups in the order of `_members`, [L, U, D]; the last layer is the head, if it is untied."""
        english = self._english([group.english for group in groups])
        targets = self._run([target for group in groups for target in group.targets])
        units: list[int] = []
        others: list[int] = []
        next_english, next_target = 0, english.shape[1]
        for group in groups:
            behind = next_english + 1 + len(group.english.others)
            units += [next_english, *range(next_target, next_target + len(group.targets))]
            others += range(next_english + 1, behind)
            next_english, next_target = behind, next_target + len(group.targets)
        return torch.cat([english, targets], dim=1)[:, units + others]

    @torch.no_grad()
    def _english(self, units: list[Unit]) -> Tensor:
        """Vectors of English units and their neighbours. Without gradient: the new language comes to English."""
        if not self._english_stands:
            return self._run(units)
        missing = [unit for unit in dict.fromkeys(units) if unit not in self._cached]
        known = dict(self._cached)
        if total(torch.tensor(len(missing), device=self._model.device), self._world):  # equally often on all ranks
            vectors = self._run(missing).cpu()
            known |= {unit: vectors[:, i] for i, unit in enumerate(missing)}
        if not units:
            return self._nothing
        size = next(iter(known.values())).nbytes
        if len(known) * size < CACHE_BYTES:
            self._cached = {unit: v for unit, v in known.items() if max(unit.ids) < self._model.num_old}
        return torch.stack([known[unit] for unit in units], dim=1).to(self._model.device)

    def _run(self, units: list[Unit]) -> Tensor:
        """Vectors of units, each followed by those of its neighbours, fp32 [L, U, D]."""
        packed = pack([unit.ids for unit in units], self._model.start_id)
        spans = [(i, *span) for i, unit in enumerate(units) for span in (unit.span, *(s for _, s in unit.others))]
        pool_UN = torch.zeros(len(spans), packed.ids_BT.numel())
        for row, (i, start, end) in enumerate(spans):
            first = packed.first[i]
            pool_UN[row, first + start : first + end] = 1.0 / (end - start)
        pool_UN = pool_UN.to(self._model.device)
        vectors = [pool_UN @ layer.float() for layer in self._model.states(packed)]
        if not self._model.tied:
            vectors.append(pool_UN @ self._model.head_rows(packed.ids_BT.flatten().to(self._model.device)))
        return torch.stack(vectors)

    @torch.no_grad()
    def _common_part(self) -> Tensor:
        """Mean vector of English units before the stage, [L, 1, D], the same on every rank."""
        chosen: list[Group] = []
        for batch in self.batches:
            chosen += batch if len(chosen) < CENTRE_UNITS else []
        english = [group.english for group in parts(chosen, self._world)[self._world.rank]]
        bare = [Unit(unit.name, unit.ids, unit.span) for unit in english]
        vectors = self._english(bare)
        return total(vectors.sum(dim=1, keepdim=True), self._world) / len(chosen)


def _members(groups: Sequence[Group], rank: int) -> list[Member]:
    """The units of a rank's groups, then all their neighbours."""
    units = [
        Member(unit.name, (rank, i), unit is group.english, len(group.targets))
        for i, group in enumerate(groups)
        for unit in (group.english, *group.targets)
    ]
    return units + [Member(name, None, True, 0) for group in groups for name, _ in group.english.others]
