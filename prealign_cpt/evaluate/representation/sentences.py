"""Do the layers represent a sentence and its translation alike? MEXA, cosine gap, CKA and ANC of every layer.

    (English, target) sentences --all hidden states, mean weighted by position--> [L+1, N, D] each --> figures per layer

A high mean cosine says nothing: constant vectors have 1. MEXA and the gap cannot be had that way. CKA cannot see a
rotation, ANC can. All of them say what is necessary for transfer, not what is sufficient (arXiv 2504.09378).
Shapes: N sentence pairs, T tokens, L+1 layers (embeddings, then every block), D hidden size.
"""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from prealign_cpt.evaluate.figures import Array, Figure, Result, bootstrap
from prealign_cpt.evaluate.representation.cosine import cosines
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.work import Work
from prealign_cpt.model.vectors import chunks, pad_words
from prealign_cpt.run.errors import DataError, NumericError

MOST_TOKENS = 512
"""Of each sentence, so many tokens are read."""

TIE = 1e-9
"""Cosines that differ by less are equal: they are fp64, of vectors that were fp32."""

LEAST = 10
"""Sentence pairs; with fewer, all of these figures are noise."""


def measure(subject: Subject, work: Work) -> Result:
    """`mexa`, `gap`, `cka`, `anc`: means over the layers; `mexa_max` and `mexa_max_layer`: the best one;
    `layer/N/mexa`, ... of each layer; `cka_mismatched`, `anc_mismatched`: what `cka` and `anc` give for sentences
    beside wrong translations, which is not 0 where there are few sentences: read the others against them.

    Raises:
        NoDataError: no parallel text.
        DataError: fewer than ten pairs.
    """
    pairs = work.pairs()
    if len(pairs) < LEAST:
        raise DataError(f"{work.parallel}: {len(pairs)} sentence pairs, {LEAST} are needed; give more, or --max-items")
    english_LND, target_LND = (
        sentence_vectors(subject, [pair[i] for pair in pairs], work.batch_tokens, label)
        for i, label in ((0, "English"), (1, "target"))
    )
    result: Result = {}
    hits, gaps, controls = [], [], []
    for layer, (x_ND, y_ND) in enumerate(zip(english_LND, target_LND, strict=True)):
        cosine_NN = cosines(x_ND, y_ND)
        hits.append(mexa(cosine_NN))
        gaps.append(cosine_gap(cosine_NN))
        wrong_ND = y_ND.roll(1, dims=0)
        controls.append((cka(x_ND, wrong_ND), anc(x_ND, wrong_ND)))
        for name, value in (
            ("mexa", float(hits[-1].mean())),
            ("gap", float(gaps[-1].mean())),
            ("cka", cka(x_ND, y_ND)),
            ("anc", anc(x_ND, y_ND)),
        ):
            result[f"layer/{layer}/{name}"] = Figure(value, n=len(pairs))
    best = int(np.argmax([own.mean() for own in hits]))
    head: Result = {
        "mexa": bootstrap(np.mean(hits, axis=0), seed=work.seed, note=f"mean over {len(hits)} layers"),
        "mexa_max": bootstrap(hits[best], seed=work.seed, note=f"layer {best}, the best on these sentences"),
        "mexa_max_layer": Figure(best, note=f"of {len(hits) - 1}"),
        "gap": bootstrap(np.mean(gaps, axis=0), seed=work.seed, note=f"mean over {len(hits)} layers"),
    }
    for place, name in enumerate(("cka", "anc")):
        layers = [result[f"layer/{layer}/{name}"] for layer in range(len(hits))]
        whole = float(np.mean([one.value for one in layers if isinstance(one, Figure)]))
        head[name] = Figure(whole, n=len(pairs), note=f"mean over {len(hits)} layers")
        mismatched = float(np.mean([one[place] for one in controls]))
        head[f"{name}_mismatched"] = Figure(mismatched, n=len(pairs), note="control: wrong translations")
    return head | result


@torch.no_grad()
def sentence_vectors(subject: Subject, texts: list[str], batch_tokens: int = 4096, label: str = "") -> Tensor:
    """Sum over t of t * h_t / sum of t over a sentence's tokens, t = 1, 2, ... (MEXA, arXiv 2410.05873), fp32
    [L+1, N, D] on the CPU. The start token stands in front and is left out, as it carries the attention sink.

    Raises:
        NumericError: a vector is not finite.
    """
    encoded = [ids[:MOST_TOKENS] for ids in subject.encode(texts)]
    found: Tensor | None = None
    bar = tqdm(total=len(texts), desc=label, unit="sentence", leave=False, disable=None)
    for group in chunks(encoded, batch_tokens):
        ids_NT, mask_NT = pad_words([encoded[i] for i in group], subject.start_token_id)
        output = subject.model.base_model(
            input_ids=ids_NT.to(subject.device), use_cache=False, output_hidden_states=True
        )
        weight_NT = (mask_NT * torch.arange(ids_NT.shape[1])).float().to(subject.device)
        weight_NT = weight_NT / weight_NT.sum(dim=1, keepdim=True)
        for layer, hidden_NTD in enumerate(output.hidden_states):
            vectors_ND = torch.einsum("nt,ntd->nd", weight_NT, hidden_NTD.float())
            if found is None:
                found = torch.empty(len(output.hidden_states), len(texts), vectors_ND.shape[1])
            found[layer, group] = vectors_ND.cpu()
        bar.update(len(group))
    bar.close()
    assert found is not None
    if not found.isfinite().all():
        raise NumericError(f"{subject.folder}: hidden states are not finite; the weights or their type are at fault")
    return found


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
    """Linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414): ||X'Y||^2 / (||X'X|| ||Y'Y||) of the
    centred vectors; 0 where one of them is constant."""
    x_ND, y_ND = _centred(x_ND), _centred(y_ND)
    k_NN, l_NN = x_ND @ x_ND.T, y_ND @ y_ND.T
    size = float(k_NN.norm() * l_NN.norm())
    return float((k_NN * l_NN).sum()) / size if size else 0.0


def anc(x_ND: Tensor, y_ND: Tensor) -> float:
    """Average neuron-wise correlation (Del & Fishel 2022, arXiv 2212.01924): mean over the D dimensions of the absolute
    correlation of one dimension over the pairs; a constant dimension counts 0."""
    x_ND, y_ND = _centred(x_ND), _centred(y_ND)
    size_D = x_ND.norm(dim=0) * y_ND.norm(dim=0)
    correlation_D = (x_ND * y_ND).sum(dim=0).abs() / size_D.clamp(min=1e-300)
    return float(correlation_D.mean())


def _centred(x_ND: Tensor) -> Tensor:
    x = x_ND.double()
    return x - x.mean(dim=0, keepdim=True)
