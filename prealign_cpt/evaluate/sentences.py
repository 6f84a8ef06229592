"""Do the layers represent a sentence and its translation alike? MEXA, cosine gap, CKA, ANC; and bitext mining.

    (English, target) --all hidden states, mean weighted by position--> [L+1, N, D] each --measure--> figures per layer
    (English, target) --mean of the tokens, here or by an embeddings server--> [N, D] --bitext--> nearest neighbours

A high mean cosine says nothing: constant vectors have 1. MEXA and the gap cannot be had that way. CKA cannot see a
rotation, ANC can. All of them say what is necessary for transfer, not what is sufficient (arXiv 2504.09378).
Shapes: N sentence pairs, T tokens, L+1 layers (embeddings, then every block), D hidden size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from prealign_cpt.evaluate.cosine import cosines, csls, nearest
from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.figures import Array, Figure, Result
from prealign_cpt.evaluate.statistics import mean_of, share
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.vectors import chunks, pad_words, vectors_of
from prealign_cpt.run.errors import DataError, NumericError
from prealign_cpt.serving import client
from prealign_cpt.serving.client import identify

MOST_TOKENS = 512
"""Of each sentence, so many tokens are read."""

TIE = 1e-9
"""Cosines that differ by less are equal: they are fp64, of vectors that were fp32."""

LEAST, LEAST_BITEXT = 10, 20
"""Sentence pairs; with fewer, all of these figures are noise."""

WAYS = ("english_to_target", "target_to_english")

CHOOSING = 5
"""One of so many pairs chooses the layer of bitext mining; all figures are of the others."""

CHECKED = 8
"""Served vectors that are compared with local ones."""

SAME_MODEL = 0.98
"""Least cosine of a served vector to the local one. bf16 keeps it above 0.999; another pooling or model does not."""


def measure(subject: Subject, data: EvaluationData) -> Result:
    """`mexa`, `gap`, `cka`, `anc`: means over the layers; `mexa_max` and `mexa_max_layer`: the best one;
    `layer/N/mexa`, ... of each layer; `cka_mismatched`, `anc_mismatched`: what `cka` and `anc` give for sentences
    beside wrong translations, which is not 0 where there are few sentences: read the others against them.

    Raises:
        NoDataError: no parallel text.
        DataError: fewer than ten pairs.
    """
    pairs = data.pairs()
    if len(pairs) < LEAST:
        raise DataError(f"{data.parallel}: {len(pairs)} sentence pairs, {LEAST} are needed; give more, or --max-items")
    english_LND, target_LND = (
        sentence_vectors(subject, [pair[i] for pair in pairs], data.batch_tokens, label)
        for i, label in ((0, "English"), (1, "target"))
    )
    layers: Result = {}
    hits, gaps, alike = [], [], []
    for layer, (x_ND, y_ND) in enumerate(zip(english_LND, target_LND, strict=True)):
        cosine_NN = cosines(x_ND, y_ND)
        hits.append(mexa(cosine_NN))
        gaps.append(cosine_gap(cosine_NN))
        wrong_ND = y_ND.roll(1, dims=0)
        alike.append([cka(x_ND, y_ND), anc(x_ND, y_ND), cka(x_ND, wrong_ND), anc(x_ND, wrong_ND)])
        values = {"mexa": hits[-1].mean(), "gap": gaps[-1].mean(), "cka": alike[-1][0], "anc": alike[-1][1]}
        layers |= {f"layer/{layer}/{name}": Figure(float(value), n=len(pairs)) for name, value in values.items()}
    best = int(np.argmax([of_layer.mean() for of_layer in hits]))
    note = f"mean over {len(hits)} layers"
    result: Result = {
        "mexa": mean_of(np.mean(hits, axis=0), note=note),
        "mexa_max": share(hits[best], f"layer {best}, the best on these sentences"),
        "mexa_max_layer": Figure(best, note=f"of {len(hits) - 1}"),
        "gap": mean_of(np.mean(gaps, axis=0), note=note),
    }
    for name, value in zip(("cka", "anc", "cka_mismatched", "anc_mismatched"), np.mean(alike, axis=0), strict=True):
        told = "control: wrong translations" if name.endswith("mismatched") else note
        result[name] = Figure(float(value), n=len(pairs), note=told)
    return result | layers


def bitext(subject: Subject, data: EvaluationData) -> Result:
    """Is a sentence's nearest neighbour in the other language its translation? Vectors are means of the tokens.

    `accuracy/WAY/LAYER`: 1-nearest neighbour by cosine; `f1/WAY/LAYER`: mteb's score of the same neighbours, the mean
    over sentences of 2 / (1 + how many chose it) where it was found; `margin/WAY/LAYER`: by CSLS. WAY is
    english_to_target or target_to_english; LAYER is best and last, or served.

    Raises:
        DataError: fewer than 20 different pairs; or an embeddings server that answers wrongly.
        UnavailableError: an embeddings server that does not answer.
    """
    pairs = different(data.pairs())
    if len(pairs) < LEAST_BITEXT:
        raise DataError(f"{data.parallel}: {len(pairs)} different pairs; {LEAST_BITEXT} are needed; give more text")
    result: Result = {}
    for layer in bitext_layers(subject, pairs):
        similar_NN = cosines(layer.english, layer.target)
        right_N = torch.arange(len(similar_NN))
        for way, score_NN in ((WAYS[0], similar_NN), (WAYS[1], similar_NN.T)):
            near_N, margin_N = nearest(score_NN), nearest(csls(score_NN))
            chosen_N = near_N[near_N >= 0].bincount(minlength=len(right_N))
            f1 = float(((near_N == right_N) * 2 / (1 + chosen_N)).mean())
            result[f"f1/{way}/{layer.name}"] = Figure(f1, n=len(right_N), note=layer.note)
            result[f"accuracy/{way}/{layer.name}"] = share((near_N == right_N).numpy(), layer.note)
            result[f"margin/{way}/{layer.name}"] = share((margin_N == right_N).numpy(), f"CSLS; {layer.note}")
    return result


@dataclass(frozen=True)
class Layer:
    """Vectors of both sides at one layer, float32 [N, D] on the CPU."""

    name: str
    note: str
    english: Tensor
    target: Tensor


def different(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of which no side occurred before, in either language: a repeated sentence has several right answers."""
    kept, seen = [], set[str]()
    for pair in pairs:
        if len({*pair} - seen) == 2:
            kept.append(pair)
            seen |= {*pair}
    return kept


def bitext_layers(subject: Subject, pairs: list[tuple[str, str]]) -> list[Layer]:
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

    def validated(layer: int) -> float:
        similar = cosines(english_LND[layer, choosing], target_LND[layer, choosing])
        return sum(float((nearest(score) == torch.arange(len(score))).float().mean()) for score in (similar, similar.T))

    best = max(range(last + 1), key=validated)
    note = f"mean of the tokens at layer {{}} of {last}"
    return [
        Layer(name, note.format(layer) + more, english_LND[layer, ~choosing], target_LND[layer, ~choosing])
        for name, layer, more in (("best", best, f", chosen on {int(choosing.sum())} other pairs"), ("last", last, ""))
    ]


def embed_local(subject: Subject, texts: list[str]) -> Tensor:
    """Means over the tokens of each text, the start token left out, at every layer, fp32 [L+1, N, D] on the CPU."""
    rows = [ids[:MOST_TOKENS] for ids in subject.encode(texts)]
    return vectors_of(subject.model, rows, subject.start_token_id)


def embed_served(subject: Subject, texts: list[str], check: bool = True) -> np.ndarray:
    """What the embeddings server makes of each text after the start token, float32 [N, D]. It must be this model's
    mean: mteb's tasks and others compare it with local vectors.

    Args:
        check: compare some of them with the local model.

    Raises:
        DataError: vectors are missing, of another size, not finite, or not this model's means.
        UnavailableError: no answer.
    """
    url, key = subject.embeddings_url, subject.key or None
    name, _, length = identify(url, subject.folder, key=key)
    rows = [[subject.start_token_id, *ids[: min(MOST_TOKENS, length - 2)]] for ids in subject.encode(texts)]
    vectors_ND = client.embed(url, name, rows, size=int(subject.model.config.hidden_size), key=key)
    if check:
        _check_vectors(subject, rows, torch.from_numpy(vectors_ND))
    return vectors_ND


@torch.no_grad()
def _check_vectors(subject: Subject, rows: list[list[int]], served_ND: Tensor) -> None:
    """Compare some served vectors with the local model's mean over all tokens of the last layer."""
    places = sorted({round(i * (len(rows) - 1) / (CHECKED - 1)) for i in range(CHECKED)})
    local = []
    for i in places:
        row = torch.tensor([rows[i]], device=subject.device)
        hidden = subject.model.base_model(input_ids=row, use_cache=False).last_hidden_state[0]
        local.append(hidden.float().cpu().mean(dim=0))
    similar = cosines(served_ND[places], torch.stack(local))
    for n, i in enumerate(places):
        if similar[n, n] < SAME_MODEL or similar[n].max() > similar[n, n] + 1e-6:
            raise DataError(
                f"{subject.embeddings_url}: its vector of sentence {i + 1} has cosine {float(similar[n, n]):.3f} to "
                f"the mean of {subject.folder}'s last layer, and {float(similar[n].max()):.3f} to that of another "
                "sentence; another model, another pooling or another order: serve this folder with pooling MEAN"
            )


@torch.no_grad()
def sentence_vectors(subject: Subject, texts: list[str], batch_tokens: int = 4096, label: str = "") -> Tensor:
    """Sum over t of t * h_t / sum of t over a sentence's tokens, t = 1, 2, ... (MEXA, arXiv 2410.05873), fp32
    [L+1, N, D] on the CPU. The start token stands in front and is left out, as it carries the attention sink.

    Raises:
        NumericError: a vector is not finite.
    """
    encoded = [ids[:MOST_TOKENS] for ids in subject.encode(texts)]
    vectors_LND: Tensor | None = None
    bar = tqdm(total=len(texts), desc=label, unit="sentence", leave=False, disable=None)
    for group in chunks(encoded, batch_tokens):
        ids_NT, mask_NT = pad_words([encoded[i] for i in group], subject.start_token_id)
        output = subject.model.base_model(
            input_ids=ids_NT.to(subject.device), use_cache=False, output_hidden_states=True
        )
        weight_NT = (mask_NT * torch.arange(ids_NT.shape[1])).float().to(subject.device)
        weight_NT = weight_NT / weight_NT.sum(dim=1, keepdim=True)
        for layer, hidden_NTD in enumerate(output.hidden_states):
            part_ND = torch.einsum("nt,ntd->nd", weight_NT, hidden_NTD.float())
            if vectors_LND is None:
                vectors_LND = torch.empty(len(output.hidden_states), len(texts), part_ND.shape[1])
            vectors_LND[layer, group] = part_ND.cpu()
        bar.update(len(group))
    bar.close()
    assert vectors_LND is not None
    if not vectors_LND.isfinite().all():
        raise NumericError(f"{subject.folder}: hidden states are not finite; the weights or their type are at fault")
    return vectors_LND


def mexa(cosine_NN: Tensor) -> Array:
    """1.0 for each pair that is nearer than its English sentence is to any other target sentence, and its target
    sentence to any other English one (MEXA, arXiv 2410.05873); equal is not nearer. [N]"""
    others = cosine_NN.clone().fill_diagonal_(-torch.inf)
    own = cosine_NN.diagonal()
    hits = (own - others.max(dim=1).values > TIE) & (own - others.max(dim=0).values > TIE)
    return np.asarray(hits.double().numpy())


def cosine_gap(cosine_NN: Tensor) -> Array:
    """Of each pair, its cosine less the mean cosine of its two sentences with the others' translations. [N]"""
    n = len(cosine_NN)
    own = cosine_NN.diagonal()
    others = (cosine_NN.sum(dim=0) + cosine_NN.sum(dim=1) - 2 * own) / (2 * (n - 1))
    return np.asarray((own - others).numpy())


def cka(x_ND: Tensor, y_ND: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414) with the unbiased estimate of HSIC
    (Song et al. 2012, JMLR 13, equation 5; so in Nguyen et al. 2021, arXiv 2010.15327): HSIC(K, L) / sqrt(HSIC(K, K)
    HSIC(L, L)), which is near 0 for unrelated vectors however few they are, and may be below. 0 where one of them is
    constant."""
    k_NN, l_NN = _doubly_centred(x_ND), _doubly_centred(y_ND)
    size = float(k_NN.norm() * l_NN.norm())
    return float((k_NN * l_NN).sum()) / size if size else 0.0


def anc(x_ND: Tensor, y_ND: Tensor) -> float:
    """Average neuron-wise correlation (Del & Fishel 2022, arXiv 2212.01924): mean over the D dimensions of the absolute
    correlation of one dimension over the pairs; a constant dimension counts 0."""
    x_ND, y_ND = _centred(x_ND), _centred(y_ND)
    size_D = x_ND.norm(dim=0) * y_ND.norm(dim=0)
    correlation_D = (x_ND * y_ND).sum(dim=0).abs() / size_D.clamp(min=1e-300)
    return float(correlation_D.mean())


def _doubly_centred(x_ND: Tensor) -> Tensor:
    """The linear kernel without its diagonal, [N, N], so that rows and columns sum to 0 (Szekely & Rizzo 2014): the sum
    of the products of two of them is N (N - 3) times the unbiased HSIC. N is 4 or more."""
    x_ND = _centred(x_ND)
    n = len(x_ND)
    k_NN = (x_ND @ x_ND.T).fill_diagonal_(0.0)
    sums_N = k_NN.sum(dim=0)
    k_NN += sums_N.sum() / ((n - 1) * (n - 2)) - (sums_N[:, None] + sums_N[None, :]) / (n - 2)
    return k_NN.fill_diagonal_(0.0)


def _centred(x_ND: Tensor) -> Tensor:
    x = x_ND.double()
    return x - x.mean(dim=0, keepdim=True)
