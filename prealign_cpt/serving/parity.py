"""Is the served model the one in the folder? Checks in an order in which each finds what the next would hide.

generate and embed
    shapes             rows and vocab_size are one number, each token has a row, a head is there check_servable
    round trip         decode(encode(text)) gives the text                                       local tokenizer
    identity           the server's pinned name has this folder's digest                         /v1/models
generate
    tokenization       the server makes the local ids of each text                               vLLM may load another
    start token        plain text gets it, once, where the folder's tokenizer adds it            what clients send
    echo               scoring gives what generation gave, none missing, none shifted            canary
    log-probabilities  agree with transformers, token by token
    sampling           no id without a token, even hot
embed
    embeddings         agree with transformers' mean of the last hidden states, in their order
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from prealign_cpt.run.errors import DataError
from prealign_cpt.serving import client
from prealign_cpt.serving.agreement import agreement, distance, gap, logprobs, mean_vector
from prealign_cpt.serving.folder import check_servable

COMMON = ("shapes", "round trip", "identity")
CHECKS = {
    "generate": (*COMMON, "tokenization", "start token", "echo", "log-probabilities", "sampling"),
    "embed": (*COMMON, "embeddings"),
}
"""The checks of each task, in their order."""

TEXTS = (
    "The water of the river is cold and clear, and 3.14 is not 22/7.",
    "Größe, Füße, naïve Übermut: „Wie bitte?“",
    "Не знаю, был ли дождь; вода холодная.",
    "水は冷たい。漢字 — 🐕\n\tx  y",
)
"""What is compared where no texts are given."""

NUM_SYNTHETIC = 64
"""Length of the two sequences made of ids alone."""

NUM_SAMPLES, SAMPLE_LENGTH = 8, 48

TYPES = {"fp32": (torch.float32, torch.float64), "bf16": (torch.bfloat16, torch.float32)}
"""The type that a server computes in, and the one that counts as exact beside it."""

FIGURES = ("rounding", "excess", "bound", "mean", "mean_bound")
"""Of an `Agreement`, what is told."""

Compute = Callable[[torch.nn.Module, list[int]], torch.Tensor]


def check_parity(
    base_url: str, folder: Path, texts: list[str], start_token: str | None = None, tolerance: float = 1e-5
) -> dict[str, Any]:
    """All figures of `run_checks` for an fp32 server of the task generate, in one dictionary; raises what it raises."""
    figures: dict[str, Any] = {}
    for _, more in run_checks(base_url, folder, texts, start_token, tolerance=tolerance):
        figures |= more
    return figures


def run_checks(
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
    """Compare the model served at `base_url` with `folder`; yield each of CHECKS[task] that holds, with its figures.

    Args:
        texts: what to compare on; include the new language. Besides these, two sequences of ids are compared: the last
            rows of the vocabulary, where an extension puts its new tokens, and rows spread over all of it.
        start_token: put before every sequence; None takes the tokenizer's own.
        dtype: what the server computes in. In bf16 two correct programs differ by 1e-2 to 1e-1 in a log-probability.
        tolerance: for one value; where the type itself is less exact on this model, see agreement.py.

    Figures:
        rows, num_tokens, bytes; texts; model, pinned (whether the server names the folder's digest); text_tokens;
        adds_start_token; echo_difference; tokens, max_logprob_difference, and those of `_compare`; sampled. For embed,
        instead of the last five checks': vectors, max_embedding_difference and those of `_compare`.

    Raises:
        DataError: a check does not hold, with the remedy.
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

    model, pinned, length = client.identify(base_url, folder, key=key)
    served: dict[str, Any] = {"base_url": base_url, "model": model, "key": key}
    yield "identity", {"model": model, "pinned": pinned}

    if task == "generate":
        # The server wants room for one more token, and the canary for its own.
        beginnings = [beginning for text in texts if (beginning := _cut(tokenizer, text, length - 2))]
        _check_tokens(served, tokenizer, beginnings, [])
        yield "tokenization", {"text_tokens": sum(len(_encode(tokenizer, text)) for text in beginnings)}

        added = tokenizer.encode("")
        if added not in ([], [start]):
            raise DataError(
                f"{folder}: the tokenizer puts {tokenizer.convert_ids_to_tokens(added)} around a text, the start token "
                f"is {tokenizer.convert_ids_to_tokens(start)!r}; correct post_processor in tokenizer.json, or give the "
                "start token that it was trained with"
            )
        _check_tokens(served, tokenizer, beginnings, added, special=True)
        yield "start token", {"adds_start_token": bool(added)}

        canary = [start, *(encoded[0] if encoded else range(num_tokens - 8, num_tokens))]
        canary = canary[: length - client.CANARY_LENGTH - 1]
        yield "echo", {"echo_difference": client.check_echo(ids=canary, **served)}

    synthetic = [
        list(range(max(0, num_tokens - NUM_SYNTHETIC), num_tokens)),
        list(range(0, num_tokens, max(1, num_tokens // NUM_SYNTHETIC)))[:NUM_SYNTHETIC],
    ]
    names = [f"text {number + 1}" for number in range(len(texts))] + ["the last rows", "rows of the whole vocabulary"]
    sequences = [[start, *ids][: length - 1] for ids in [*encoded, *synthetic]]
    if task == "embed":
        # All in one request: answers that are not in the order of the inputs are far from the folder's vectors.
        vectors_ND = client.embed(sequences=sequences, batch=len(sequences), **served)
        values = [torch.from_numpy(vector).double() for vector in vectors_ND]
        difference, figures = _compare(folder, sequences, values, mean_vector, dtype, tolerance, names, base_url)
        yield "embeddings", {"vectors": len(values), "max_embedding_difference": difference, **figures}
        return
    scores = [client.token_logprobs(ids=ids, **served) for ids in sequences]
    values = [torch.tensor(score, dtype=torch.float64) for score in scores]
    difference, figures = _compare(folder, sequences, values, logprobs, dtype, tolerance, names, base_url)
    yield "log-probabilities", {"tokens": sum(map(len, values)), "max_logprob_difference": difference, **figures}

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


def _check_tokens(
    served: dict[str, Any], tokenizer: Any, texts: list[str], added: list[int], special: bool = False
) -> None:
    """The server's ids of each text are the folder's; with `special` for clients that say nothing about special tokens,
    which get `added` before a text."""
    for text in texts:
        if client.tokenize(text=text, special=special, **served) != [*added, *_encode(tokenizer, text)]:
            what, where = ("special tokens", "post_processor in its tokenizer.json") if special else ("ids", "")
            where = where or "tokenizer_class in its tokenizer_config.json"
            raise DataError(
                f"{served['base_url']}: the server makes other {what} than the folder's tokenizer of {_short(text)}; "
                f"it holds another tokenizer: serve this folder, and check {where}"
            )


def _check_samples(served: dict[str, Any], tokenizer: Any, start: int, longest: int) -> dict[str, Any]:
    known = set(tokenizer.get_vocab().values())
    length = min(SAMPLE_LENGTH, longest)
    samples = client.sample_ids(ids=[start], n=NUM_SAMPLES, max_tokens=length, temperature=client.HOT, seed=0, **served)
    for number in {number for ids in samples for number in ids} - known:
        raise DataError(
            f"{served['base_url']}: id {number} was sampled, which is none of the tokenizer's {len(known)}; the served "
            "model has rows without a token: export exactly one row for each token"
        )
    return {"sampled": sum(map(len, samples))}


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _compare(
    folder: Path,
    sequences: list[list[int]],
    values: list[torch.Tensor],
    compute: Compute,
    dtype: str,
    tolerance: float,
    names: list[str],
    base_url: str,
) -> tuple[float, dict[str, float]]:
    """Compare what a server gave for `sequences` with what `compute` gives for the folder's model.

    Args:
        values: one float64 tensor for each sequence, of the shape that `compute` gives.
        names, base_url: of the sequences and the server, for the message.

    Returns:
        The largest difference to transformers in the server's type, and the figures of `Agreement`.

    Raises:
        DataError: the values are too far from the folder's.
    """
    from transformers import AutoModelForCausalLM

    low, high = TYPES[dtype]
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=low).eval()
    local = [compute(model, ids) for ids in sequences]
    found = agreement(values, local, lambda: (local, [compute(model.to(high), ids) for ids in sequences]), tolerance)
    if found.holds:
        return found.difference, {name: getattr(found, name) for name in FIGURES}
    what = "embeddings" if compute is mean_vector else "log-probabilities"
    number = max(range(len(values)), key=lambda n: distance(values[n : n + 1], found.exact[n : n + 1]))
    place = int(gap(values[number], found.exact[number]).argmax())
    raise DataError(
        f"{base_url}: {what} differ by {found.difference:.3g} (tolerance {tolerance:g}, rounding of {dtype} "
        f"{found.rounding:.3g}) and on average by {found.mean:.3g} ({found.mean_bound:.3g} allowed), most in value "
        f"{place + 1} of {names[number]}: {values[number][place]:.6f} served, {found.exact[number][place]:.6f} from "
        f"the folder; the server holds other weights, pools otherwise, or computes in another type than {dtype}: "
        "serve this folder, give --dtype as it is served, or a tolerance"
    )
