"""How well the model predicts text: bits per byte of held-out text, and parallel text against its English.

    windows of each text --log-probabilities after the start token--> bits per byte      (comparable between models)
    parallel sentences   --the same--> NLL of the target / NLL of the English            (comparable between languages)

Names are LANGUAGE/SET/FIGURE; "base/..." is the base model, "change/..." the subject less the base on the same items.
"""

import math
from collections import defaultdict

import numpy as np
from tqdm import tqdm

from prealign_cpt.evaluate.canary import check_served
from prealign_cpt.evaluate.figures import Absent, Array, Figure, Result, bootstrap, difference
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.text.tokenizer import round_trips
from prealign_cpt.evaluate.work import LANGUAGES, NoDataError, Work
from prealign_cpt.model.bits import batches, score_windows
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.run.errors import DataError
from prealign_cpt.serving.client import many_logprobs

LOSSLESS = 0.999
"""Below this share of texts that survive encoding and decoding, bits per byte are those of another text."""

REQUEST = 8
"""Texts in one request to a server."""

ENOUGH = 20
"""With so many documents the interval is over documents, else over windows, which are less independent."""


def measure(subject: Subject, work: Work) -> Result:
    """Per LANGUAGE/SET: `bits_per_byte` = -sum log p / (ln 2 * bytes), every token counted, each window after the start
    token. Of the parallel text: `parity_nll` = sum NLL(target) / sum NLL(English), 1 where both say as much.

    Raises:
        DataError, UnavailableError: see `nats_of`.
    """
    result: Result = {}
    for language in LANGUAGES:
        for name, _ in getattr(work, language):
            own = _bits_per_byte(subject, work, language, name)
            base = subject.base_subject and _bits_per_byte(subject.base_subject, work, language, name)
            _add(result, f"{language}/{name}/bits_per_byte", own, base or None, work.seed)
        if not getattr(work, language):
            reason = f"no local data: no {language} text; give it with --{language}"
            result[f"{language}/bits_per_byte"] = Absent(reason)
    try:
        pairs = work.pairs()
    except NoDataError as error:
        return result | {"parity_nll": Absent(str(error))}
    base_parity = subject.base_subject and _parity(subject.base_subject, work, pairs)
    _add(result, "parity_nll", _parity(subject, work, pairs), base_parity or None, work.seed)
    return result


def nats_of(subject: Subject, texts: list[str], batch_tokens: int) -> Array:
    """-log p of each text after the start token, fp64 [N]; through the subject's server, if it has one.

    Raises:
        DataError: a text has more tokens than the model, or its server, takes; or the server serves another model.
        UnavailableError: the server does not answer.
    """
    if subject.url:
        return _served_nats(subject, texts)
    prepared = batches(texts, subject.tokenizer, subject.start_token_id, batch_tokens)
    longest = max(batch.inputs.shape[1] for batch in prepared)
    _check_length(subject, longest, subject.model.config.max_position_embeddings)
    scored = score_windows(LanguageModelLoss(subject.model), prepared, subject.device)
    return np.array([nats for nats, _ in scored])


def _served_nats(subject: Subject, texts: list[str]) -> Array:
    served = check_served(subject)
    rows = [[subject.start_token_id, *ids] for ids in subject.encode(texts)]
    _check_length(subject, max(map(len, rows)), served.length - 1)  # the server wants room for a token of its own
    found: list[float] = []
    for first in tqdm(range(0, len(rows), REQUEST), desc="served", unit="request", leave=False, disable=None):
        some = rows[first : first + REQUEST]
        answer = many_logprobs(subject.url, served.name, some, key=subject.key or None)
        found += [-sum(values) for values in answer]
    return np.array(found)


def _check_length(subject: Subject, longest: int, most: int) -> None:
    if longest > most:
        raise DataError(
            f"{subject.url or subject.folder}: a text has {longest} tokens, {most} are possible; give a smaller "
            "--window-bytes, or serve with a longer --max-model-len"
        )


def _bits_per_byte(subject: Subject, work: Work, language: str, name: str) -> Figure:
    found = work.windows(language, name)
    texts = [text for _, text in found]
    nats = nats_of(subject, texts, work.batch_tokens)
    sizes = np.array([len(text.encode()) for text in texts])
    documents = [document for document, _ in found]
    unit = "windows"
    if len(set(documents)) >= ENOUGH:
        unit, nats, sizes = "documents", _by_group(documents, nats), _by_group(documents, sizes)
    whole = np.mean(round_trips(subject.tokenizer, texts, subject.encode(texts)))
    note = f"interval over {unit}"
    if whole < LOSSLESS:
        note += f"; NOT COMPARABLE: only {whole:.1%} of the windows survive the tokenizer's round trip"
    return bootstrap(nats / math.log(2) / sizes, sizes, work.seed, note=note)


def _parity(subject: Subject, work: Work, pairs: list[tuple[str, str]]) -> Figure:
    english, target = (nats_of(subject, [pair[i] for pair in pairs], work.batch_tokens) for i in (0, 1))
    return bootstrap(target / english, english, work.seed)


def _add(result: Result, name: str, own: Figure, base: Figure | None, seed: int) -> None:
    result[name] = own
    if base is not None:
        result |= {f"base/{name}": base, f"change/{name}": difference(own, base, seed)}


def _by_group(groups: list[int], values: np.ndarray) -> np.ndarray:
    """Sums of the values of each group, in the order of first appearance."""
    sums: dict[int, float] = defaultdict(float)
    for group, value in zip(groups, values, strict=True):
        sums[group] += float(value)
    return np.array(list(sums.values()))
