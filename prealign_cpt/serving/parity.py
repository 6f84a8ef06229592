"""Is the served model the one in the folder? A ladder on which each rung finds what the next would hide.

generate and embed
    shapes             rows and vocab_size are one number, each token has a row, a head is there check_servable
    round trip         decode(encode(text)) gives the text                                       local tokenizer
    identity           the server's pinned name has this folder's digest                         /v1/models
generate
    tokenization       the server makes the local ids of each text                               vLLM may load another
    start token        plain text gets it, once, where the folder's tokenizer adds it            what clients send
    echo               scoring gives what generation gave, none missing, none shifted            canary
    log-probabilities  agree with transformers, token by token                                   reference.py
    sampling           no id without a token at temperature 1.5
embed
    embeddings         agree with transformers' mean of the last hidden states, in their order   reference.py
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prealign_cpt.run.errors import DataError
from prealign_cpt.serving import client
from prealign_cpt.serving.folder import check_servable
from prealign_cpt.serving.identity import identify
from prealign_cpt.serving.reference import Comparison, Compute, compare, logprobs, mean_vector

COMMON = ("shapes", "round trip", "identity")
RUNGS = {
    "generate": (*COMMON, "tokenization", "start token", "echo", "log-probabilities", "sampling"),
    "embed": (*COMMON, "embeddings"),
}
"""The rungs of each task, in the order in which they are climbed."""

TEXTS = (
    "The water of the river is cold and clear, and 3.14 is not 22/7.",
    "Größe, Füße, naïve Übermut: „Wie bitte?“",
    "Не знаю, был ли дождь; вода холодная.",
    "水は冷たい。漢字 — 🐕\n\tx  y",
)
"""What is compared where no texts are given."""

NUM_SYNTHETIC = 64
"""Length of the two sequences made of ids alone."""

NUM_SAMPLES, SAMPLE_LENGTH, TEMPERATURE = 8, 48, 1.5


@dataclass(frozen=True)
class _Served:
    """A served model, the folder that it should be, and how near its values must be to the folder's."""

    base_url: str
    model: str
    """Name to ask for."""
    key: str | None
    folder: Path
    dtype: str
    tolerance: float

    def compare(self, values: list[torch.Tensor], sequences: list[list[int]], compute: Compute) -> Comparison:
        """Served values of some sequences against those of the folder."""
        return compare(values, self.folder, sequences, compute, self.dtype, self.tolerance)

    def judge(self, found: Comparison, what: str, where: str) -> dict[str, float]:
        """The figures of a comparison that holds.

        Raises:
            DataError: it does not.
        """
        if found.holds:
            return {name: getattr(found, name) for name in ("rounding", "excess", "bound", "mean", "mean_bound")}
        raise DataError(
            f"{self.base_url}: {what} differ by {found.difference:.3g} (tolerance {self.tolerance:g}, rounding of "
            f"{self.dtype} {found.rounding:.3g}) and on average by {found.mean:.3g} ({found.mean_bound:.3g} allowed), "
            f"most at {where}: {found.worst[2]:.6f} served, {found.worst[3]:.6f} from the folder; the server holds "
            f"other weights, pools otherwise, or computes in another type than {self.dtype}: serve this folder, give "
            "--dtype as it is served, or a tolerance"
        )


def check_parity(
    base_url: str, folder: Path, texts: list[str], start_token: str | None = None, tolerance: float = 1e-5
) -> dict[str, Any]:
    """All figures of `climb` for an fp32 server of the task generate, in one dictionary; raises what `climb` raises."""
    figures: dict[str, Any] = {}
    for _, found in climb(base_url, folder, texts, start_token, tolerance=tolerance):
        figures |= found
    return figures


def climb(
    base_url: str,
    folder: Path,
    texts: list[str],
    start_token: str | None = None,
    *,
    task: str = "generate",
    dtype: str = "fp32",
    tolerance: float = 1e-5,
    key: str | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compare the model served at `base_url` with `folder`; yield each rung of RUNGS[task] with its figures.

    Args:
        texts: what to compare on; include the new language. Besides these, two sequences of ids are compared: the last
            rows of the vocabulary, where an extension puts its new tokens, and rows spread over all of it.
        start_token: put before every sequence; None takes the tokenizer's own.
        dtype: what the server computes in. In bf16 two correct programs differ by 1e-2 to 1e-1 in a log-probability.
        tolerance: for one value. Where the type itself is less exact on this model, that is measured, and the served
            values may be ROUNDING_FACTOR times as far from the exact ones, on average MEAN_FACTOR times.

    Figures:
        rows, num_tokens, bytes; texts; model, pinned (whether the server names the folder's digest); text_tokens;
        adds_start_token; echo_difference; tokens, max_logprob_difference, and of `reference.Comparison` rounding,
        excess, bound, mean, mean_bound; sampled. For embed, instead of the last five rungs': vectors,
        max_embedding_difference and the same five.

    Raises:
        DataError: a rung is broken, with the remedy.
        UnavailableError: the server does not answer.
    """
    from transformers import AutoTokenizer

    servable = check_servable(folder)
    num_tokens = servable["num_tokens"]
    yield "shapes", dict(servable)

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    start = _start_id(folder, tokenizer, start_token)
    encoded = [_round_trip(tokenizer, text) for text in texts]
    yield "round trip", {"texts": len(texts)}

    model, pinned, length = identify(base_url, folder, key=key)
    served = _Served(base_url, model, key, folder, dtype, tolerance)
    yield "identity", {"model": model, "pinned": pinned}

    if task == "generate":
        # The server wants room for one more token, and the canary for its own.
        cut = [_cut(tokenizer, text, length - 2) for text in texts]
        for text in cut:
            _check_tokenization(served, tokenizer, text)
        yield "tokenization", {"text_tokens": sum(len(_encode(tokenizer, text)) for text in cut)}

        yield "start token", {"adds_start_token": _check_start(served, tokenizer, start, cut)}

        canary = [start, *(encoded[0] if encoded else range(num_tokens - 8, num_tokens))]
        canary = canary[: length - client.CANARY_LENGTH - 1]
        yield "echo", {"echo_difference": client.check_echo(base_url, model, canary, key=key)}

    synthetic = [
        list(range(max(0, num_tokens - NUM_SYNTHETIC), num_tokens)),
        list(range(0, num_tokens, max(1, num_tokens // NUM_SYNTHETIC)))[:NUM_SYNTHETIC],
    ]
    names = [f"text {number + 1}" for number in range(len(texts))] + ["the last rows", "rows of the whole vocabulary"]
    sequences = [[start, *ids][: length - 1] for ids in [*encoded, *synthetic]]
    if task == "embed":
        yield "embeddings", _check_embeddings(served, names, sequences)
        return
    yield "log-probabilities", _check_logprobs(served, names, sequences)
    yield "sampling", _check_samples(served, tokenizer, start, length - 1)


def _start_id(folder: Path, tokenizer: Any, start_token: str | None) -> int:
    token = start_token or tokenizer.bos_token or tokenizer.eos_token
    start = tokenizer.get_vocab().get(token)
    if start is None:
        raise DataError(f"{folder}: the start token {token!r} is not in the vocabulary; see the recipe's base")
    return int(start)


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _round_trip(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text that they give back."""
    ids = _encode(tokenizer, text)
    back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back != text:
        raise DataError(
            f"tokenizer round trip: {_short(text)} comes back as {_short(back)}; the merged tokenizer loses text: "
            "run the vocabulary stage again, and normalise the text (NFC) as the recipe's corpus was"
        )
    return ids


def _cut(tokenizer: Any, text: str, length: int) -> str:
    """A beginning of the text that has at most `length` tokens."""
    while (count := len(_encode(tokenizer, text))) > length:
        text = text[: len(text) * length // count]
    return text


def _check_tokenization(served: _Served, tokenizer: Any, text: str) -> None:
    if text and client.tokenize(served.base_url, served.model, text, key=served.key) != _encode(tokenizer, text):
        raise DataError(
            f"{served.base_url}: the server makes other ids than the folder's tokenizer of {_short(text)}; it holds "
            "another tokenizer: serve this folder, and check tokenizer_class in its tokenizer_config.json"
        )


def _check_start(served: _Served, tokenizer: Any, start: int, texts: list[str]) -> bool:
    """Check what clients get that send text and say nothing about special tokens; tell if it has the start token."""
    added = tokenizer.encode("")
    if added not in ([], [start]):
        raise DataError(
            f"{served.folder}: the tokenizer puts {tokenizer.convert_ids_to_tokens(added)} around a text, the start "
            f"token is {tokenizer.convert_ids_to_tokens(start)!r}; correct post_processor in tokenizer.json, or give "
            "the start token that it was trained with"
        )
    for text in filter(None, texts):
        wanted = [*added, *_encode(tokenizer, text)]
        if client.tokenize(served.base_url, served.model, text, special=True, key=served.key) != wanted:
            raise DataError(
                f"{served.base_url}: the server puts other special tokens around {_short(text)} than the folder's "
                "tokenizer; serve this folder, and check post_processor in its tokenizer.json"
            )
    return bool(added)


def _check_logprobs(served: _Served, names: list[str], sequences: list[list[int]]) -> dict[str, Any]:
    values = [
        torch.tensor(client.token_logprobs(served.base_url, served.model, ids, key=served.key), dtype=torch.float64)
        for ids in sequences
    ]
    found = served.compare(values, sequences, logprobs)
    number, place, _, _ = found.worst
    where = f"token {place + 1} (id {sequences[number][place + 1]}) of {names[number]}" if place else names[number]
    figures = served.judge(found, "log-probabilities", where)
    return {"tokens": sum(map(len, values)), "max_logprob_difference": found.difference, **figures}


def _check_embeddings(served: _Served, names: list[str], sequences: list[list[int]]) -> dict[str, Any]:
    # All in one request: answers that are not in the order of the inputs are far from the folder's vectors.
    vectors = client.embed(served.base_url, served.model, sequences, batch=len(sequences), key=served.key)
    values = [torch.from_numpy(vector.astype(np.float64)) for vector in vectors]
    found = served.compare(values, sequences, mean_vector)
    figures = served.judge(found, "embeddings", names[found.worst[0]])
    return {"vectors": len(values), "max_embedding_difference": found.difference, **figures}


def _check_samples(served: _Served, tokenizer: Any, start: int, longest: int) -> dict[str, Any]:
    """Sample hot."""
    known = set(tokenizer.get_vocab().values())
    samples = client.sample_ids(
        served.base_url,
        served.model,
        [start],
        max_tokens=min(SAMPLE_LENGTH, longest),
        temperature=TEMPERATURE,
        n=NUM_SAMPLES,
        seed=0,
        key=served.key,
    )
    for ids in samples:
        for number in ids:
            if number not in known:
                raise DataError(
                    f"{served.base_url}: id {number} was sampled, which is none of the tokenizer's {len(known)}; the "
                    "served model has rows without a token: export exactly one row for each token"
                )
    return {"sampled": sum(map(len, samples))}


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
