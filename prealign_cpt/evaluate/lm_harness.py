"""EleutherAI's lm-evaluation-harness on the served model, on data in the local cache.

    canary (served.py) --> lm-eval's `local-completions`, mended --> figures by task, or why there are none

It is lm-eval's own model with four faults mended, each of which changes scores without a word:
- Each request begins with the start token, and with one only. With `add_bos_token` lm-eval puts two before rolling
  windows, without it none before a context.
- The literal text "</s>" in a document is text, not the special token.
- An answer must have a finite log-probability for every token; a sum over fewer would count as a probability of 1.
- As many answers as questions, by their index.
Importing lm-eval takes seconds: suite.py imports this module when it is needed.
"""

import logging
import math
import os
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager
from scipy import stats

from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.served import Served, check_served
from prealign_cpt.evaluate.statistics import LEVEL, mean_of, share
from prealign_cpt.evaluate.subject import Subject, offline
from prealign_cpt.run import signals
from prealign_cpt.run.errors import UnavailableError
from prealign_cpt.serving import client
from prealign_cpt.serving.key import VARIABLE

BATCH = 16
"""Prompts in one request."""


def measure(subject: Subject, data: EvaluationData) -> Result:
    """`canary` (largest difference of a log-probability, nats) and `TASK/METRIC` for each task and metric.

    Raises:
        NoDataError: no task is named, or nothing is served.
        DataError: the canary fails.
        UnavailableError: the server does not answer, or the harness fails.
    """
    if not data.lm_eval_tasks:
        raise NoDataError("no task of lm-eval is named; name some with --lm-eval")
    if not subject.url:
        raise NoDataError("lm-eval asks a served model; start `prealign serve` and give its address with --url")
    served = check_served(subject)
    note = "nats, served against local; below 0.01, or what bf16 explains"
    with offline():
        return {"canary": Figure(served.difference, note=note), **run_tasks(subject, data, served)}


class ServedModel(LocalCompletionsAPI):
    """A server of token ids."""

    def __init__(self, subject: Subject, served: Served, seed: int) -> None:
        key = subject.key or os.environ.get(VARIABLE, "")
        own_length = int(getattr(subject.model.config, "max_position_embeddings", served.length))
        super().__init__(
            base_url=subject.url.rstrip("/") + "/completions",
            model=served.name,
            tokenizer=str(subject.folder.resolve()),
            tokenizer_backend="huggingface",
            tokenized_requests=True,
            add_bos_token=False,
            custom_prefix_token_id=subject.start_token_id,
            max_length=min(served.length, own_length),
            batch_size=BATCH,
            max_retries=client.RETRIES + 1,
            timeout=int(client.TIMEOUT),
            seed=seed,
            header={"Authorization": f"Bearer {key or 'none'}"},
        )
        self._start = subject.start_token_id

    def tok_encode(
        self, string: Any, left_truncate_len: int | None = None, add_special_tokens: bool = False, **_: Any
    ) -> Any:
        """Token ids of a text, or of several, without any special token."""
        ids = self.tokenizer(string, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        if left_truncate_len:
            return ids[-left_truncate_len:] if isinstance(string, str) else [row[-left_truncate_len:] for row in ids]
        return ids

    def batch_loglikelihood_requests(self, chunks: Any) -> tuple[list[list[int]], list[int], list[Any]]:
        """Ids to send, how many of them are context, cache keys; a context that is too long loses its beginning."""
        inputs, context_lengths, keys = [], [], []
        for key, context, continuation in (request for chunk in chunks for request in chunk):
            kept = context[1:] if context[:1] == [self._start] else context
            room = self.max_length - 1 - len(continuation)
            if room < 0:
                raise ValueError(
                    f"an answer of {len(continuation)} tokens is longer than the server takes ({self.max_length}); "
                    "serve with a larger --max-model-len"
                )
            kept = kept[max(0, len(kept) - room) :]
            inputs.append([self._start, *kept, *continuation])
            context_lengths.append(1 + len(kept))
            keys.append(key)
        return inputs, context_lengths, keys

    def create_message(self, messages: Any, generate: bool = False) -> Any:
        """The same for prompts to be continued."""
        return [list(ids) if list(ids[:1]) == [self._start] else [self._start, *ids] for ids in messages]

    @staticmethod
    def parse_logprobs(outputs: Any, tokens: Any = None, ctxlens: Any = None, **_: Any) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is what greedy decoding gives.

        Raises:
            ValueError: fewer answers than questions, or fewer finite values than tokens.
        """
        signals.check()  # lm-eval may have taken the signal's own exception for a failed request
        answers = outputs if isinstance(outputs, list) else [outputs]
        choices = sorted((choice for answer in answers for choice in answer["choices"]), key=lambda one: one["index"])
        if [choice["index"] for choice in choices] != list(range(len(tokens))):
            raise ValueError(f"{len(tokens)} prompts were sent, {len(choices)} answers came")
        found = []
        for choice, ids, start in zip(choices, tokens, ctxlens, strict=True):
            values = choice["logprobs"]["token_logprobs"]
            if len(values) != len(ids) + 1 or not all(
                value is not None and math.isfinite(value) for value in values[1:]
            ):
                raise ValueError(f"{len(ids)} ids were sent, {len(values)} log-probabilities came, or some not finite")
            scored = values[start:-1]
            best = [max(top.values()) for top in choice["logprobs"]["top_logprobs"][start:-1]]
            found.append((sum(scored), all(value >= top for value, top in zip(scored, best, strict=True))))
        return found


def run_tasks(subject: Subject, data: EvaluationData, served: Served) -> Result:
    """The harness's figures by task, or why a task has none.

    Raises:
        UnavailableError: the harness fails on a task.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    host = urlsplit(subject.url).hostname or ""
    if client.is_loopback(host):  # a proxy from the environment must not stand between
        os.environ |= {name: f"{os.environ.get(name, '')},{host}".strip(",") for name in ("NO_PROXY", "no_proxy")}
    manager = _manager(data)
    model = ServedModel(subject, served, data.seed)
    seeds = [f"{kind}_random_seed" for kind in ("numpy", "torch", "fewshot")]
    result: Result = {}
    for name in data.lm_eval_tasks:
        if name not in manager.all_tasks:
            result[name] = Absent(f"lm-eval has no task {name!r}; give the folder of your own with --lm-eval-path")
            continue
        try:
            manager.load([name])
        except (OSError, ValueError) as error:  # datasets raises either for what is not in its cache
            reason = " ".join(str(error).split())[:200]
            result[name] = Absent(f"{name}: its data are not in the local cache: {reason}")
            continue
        try:
            found = simple_evaluate(
                model=model,
                tasks=[name],
                task_manager=manager,
                limit=data.max_items,
                random_seed=data.seed,
                **dict.fromkeys(seeds, data.seed),  # type: ignore[arg-type]
            )
        except Exception as error:
            signals.check()
            raise UnavailableError(
                f"lm-eval failed: {name}: {type(error).__name__}: {' '.join(str(error).split())}; "
                "see the server's log, and start again"
            ) from error
        result |= _figures(found)
    return result


def _manager(data: EvaluationData) -> TaskManager:
    """The tasks that are known. Reading lm-eval's own list takes half a minute, so only where it is needed."""
    path = str(data.lm_eval_path) if data.lm_eval_path else None
    if path:
        own = TaskManager(include_path=path, include_defaults=False)
        if set(data.lm_eval_tasks) <= set(own.all_tasks):
            return own
    return TaskManager(include_path=path)


def _figures(found: Any) -> Result:
    """The metrics of each task, and of each group that has a score."""
    result: Result = {}
    for task, metrics in (found["results"] | found.get("groups", {})).items():
        samples = found["samples"].get(task, [])
        counts = found["n-samples"].get(task, {})
        asked, there = counts.get("effective"), counts.get("original")
        note = f"lm-eval; the first {asked} of {there}" if asked != there else "lm-eval"
        for full, value in metrics.items():
            metric, _, kind = full.partition(",")
            if not isinstance(value, int | float) or metric.endswith("_stderr") or not kind:
                continue
            items = [sample.get(metric) for sample in samples if sample.get("filter", kind) == kind]
            name = metric if kind == "none" else f"{metric}({kind})"
            error = metrics.get(f"{metric}_stderr,{kind}")
            result[f"{task}/{name}"] = _of_items(items, float(value), note) or _of_error(value, error, asked, note)
    return result


def _of_items(items: list[Any], value: float, note: str) -> Figure | None:
    """The figure with its items, where the metric is their mean, or a ratio of their sums (bits per byte)."""
    try:
        values = np.array(items, dtype=np.float64)
    except (ValueError, TypeError):
        return None
    if values.ndim == 1 and len(values):
        figure = share(values, note) if np.isin(values, (0, 1)).all() else mean_of(values, note=note)
    elif values.ndim == 2 and values.shape[1] == 2 and (values[:, 1] > 0).all():
        figure = mean_of(-values[:, 0] / values[:, 1] / math.log(2), values[:, 1], note)
    else:
        return None
    return figure if math.isclose(figure.value, value, rel_tol=1e-6, abs_tol=1e-9) else None


def _of_error(value: float, error: Any, asked: int | None, note: str) -> Figure:
    """The figure with the harness's own standard error."""
    if not isinstance(error, int | float):
        return Figure(value, n=asked, note=note)
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * error
    return Figure(value, value - half, value + half, asked, note)
