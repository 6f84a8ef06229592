"""Bitext mining: is a sentence's nearest neighbour in the other language its translation? Through mteb, both ways.

    pairs --vectors--> mteb: 1-nearest neighbour by cosine --> f1, accuracy
                  `--> the same by margin (CSLS)          --> margin

Vectors are those of embed.py. The layer "best" is chosen on a fifth of the pairs; all figures are of the others.
Shapes: L+1 layers (embeddings, then every block), N and M sentences, D hidden size.
"""

import hashlib
import io
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from prealign_cpt.evaluate.figures import Absent, Figure, Result, share
from prealign_cpt.evaluate.representation.cosine import cosines, csls, nearest
from prealign_cpt.evaluate.representation.embed import embed_local, embed_served
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.work import Work
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.languages import language_of

WAYS = ("english_to_target", "target_to_english")

CHOOSING = 5
"""One of so many pairs chooses the layer."""

SCORES = ("precision", "recall", "f1", "accuracy")

LEAST_PAIRS = 20


@dataclass(frozen=True)
class Layer:
    """Vectors of both sides at one layer, float32 [N, D] on the CPU."""

    name: str
    note: str
    english: Tensor
    target: Tensor


def measure(subject: Subject, work: Work) -> Result:
    """`f1/WAY/LAYER` (mteb's), `accuracy/WAY/LAYER` (the same neighbours, with an interval), `margin/WAY/LAYER` (CSLS).

    WAY is english_to_target or target_to_english; LAYER is best and last, or served.

    Raises:
        DataError: fewer than 20 different pairs; or an embeddings server that answers wrongly.
        UnavailableError: an embeddings server that does not answer.
    """
    if find_spec("mteb") is None:
        return {"f1": Absent('mteb is not installed: pip install "prealign-cpt[eval]"')}
    pairs = different(work.pairs())
    if len(pairs) < LEAST_PAIRS:
        raise DataError(f"{work.parallel}: {len(pairs)} different pairs; {LEAST_PAIRS} are needed; give more text")
    result: Result = {}
    for layer in layers(subject, pairs):
        scored = [pair for i, pair in enumerate(pairs) if i % CHOOSING]
        for way, scores in mine(subject, work, scored, layer).items():
            asking, found = (layer.english, layer.target) if way == WAYS[0] else (layer.target, layer.english)
            similar, right = cosines(asking, found), torch.arange(len(scored))
            result[f"f1/{way}/{layer.name}"] = Figure(scores["f1"], n=len(scored), note=f"mteb; {layer.note}")
            result[f"accuracy/{way}/{layer.name}"] = share((nearest(similar) == right).numpy(), layer.note)
            result[f"margin/{way}/{layer.name}"] = share(
                (nearest(csls(similar)) == right).numpy(), f"CSLS; {layer.note}"
            )
    return result


def different(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of which no side occurred before, in either language: a repeated sentence has several right answers."""
    kept, seen = [], set[str]()
    for pair in pairs:
        if len({*pair} - seen) == 2:
            kept.append(pair)
            seen |= {*pair}
    return kept


def layers(subject: Subject, pairs: list[tuple[str, str]]) -> list[Layer]:
    """The vectors to be scored, of the pairs that do not choose the layer."""
    texts = [english for english, _ in pairs] + [target for _, target in pairs]
    choosing = torch.arange(len(pairs)) % CHOOSING == 0
    if subject.embeddings_url:
        vectors_ND = torch.from_numpy(embed_served(subject, texts))
        both = vectors_ND[: len(pairs)][~choosing], vectors_ND[len(pairs) :][~choosing]
        return [Layer("served", "as the embeddings server pools", *both)]
    vectors_LND = embed_local(subject, texts)
    english_LND, target_LND = vectors_LND[:, : len(pairs)], vectors_LND[:, len(pairs) :]
    last = len(vectors_LND) - 1

    def chosen(layer: int) -> float:
        similar = cosines(english_LND[layer, choosing], target_LND[layer, choosing])
        return sum(float((nearest(some) == torch.arange(len(some))).float().mean()) for some in (similar, similar.T))

    best = max(range(last + 1), key=chosen)
    note = f"mean of the tokens at layer {{}} of {last}"
    return [
        Layer(name, note.format(layer) + more, english_LND[layer, ~choosing], target_LND[layer, ~choosing])
        for name, layer, more in (("best", best, f", chosen on {int(choosing.sum())} other pairs"), ("last", last, ""))
    ]


def mine(subject: Subject, work: Work, pairs: list[tuple[str, str]], layer: Layer) -> dict[str, dict[str, float]]:
    """mteb's scores of both directions: precision, recall, f1 (weighted, as mteb has them) and accuracy."""
    from prealign_cpt.evaluate.representation import mteb_tasks

    english, target = ([pair[side] for pair in pairs] for side in (0, 1))
    vector_of = dict(zip([*english, *target], torch.cat([layer.english, layer.target]).numpy(), strict=True))
    digest = hashlib.sha256("\n".join(f"{a}\t{b}" for a, b in pairs).encode()).hexdigest()
    code = language_of(work.language, work.code or (work.languages[1] if work.languages else "")).long
    codes = ["eng-Latn", f"{code or 'mis'}-Zyyy"]
    task = mteb_tasks.bitext_task(
        f"Local_{digest[:12]}",
        {WAYS[0]: (english, target), WAYS[1]: (target, english)},
        {WAYS[0]: codes, WAYS[1]: codes[::-1]},
        digest,
    )
    revision = f"{subject.model_digest}-{hashlib.sha256(layer.note.encode()).hexdigest()[:8]}"
    encoder = mteb_tasks.Encoder(lambda texts: np.stack([vector_of[text] for text in texts]), subject.name, revision)
    with redirect_stderr(io.StringIO()):  # mteb's bars, of what takes milliseconds
        scores = mteb_tasks.run(encoder, task)
    return {way: {name: float(scores[f"test/{way}"][name]) for name in SCORES} for way in WAYS}
