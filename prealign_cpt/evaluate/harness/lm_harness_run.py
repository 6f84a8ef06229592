"""EleutherAI's harness in its own process: `python -m prealign_cpt.evaluate.harness.lm_harness_run REQUEST ANSWER`.

    REQUEST (JSON: Request) --lm-eval, offline--> ANSWER (JSON: {task: {"metrics": ...} or {"absent": reason}})

It is lm-eval's own `local-completions` model with four faults mended, each of which changes scores without a word:
- Each request begins with the start token, and with one only. With `add_bos_token` lm-eval puts two before rolling
  windows, without it none before a context.
- The literal text "</s>" in a document is text, not the special token.
- An answer must have a finite log-probability for every token; a sum over fewer would count as a probability of 1.
- As many answers as questions, by their index.
Environment: HF_HUB_OFFLINE=1, HF_DATASETS_OFFLINE=1, and PREALIGN_API_KEY where the server has a key.
"""

import json
import logging
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.evaluator import simple_evaluate
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager

from prealign_cpt.serving.key import VARIABLE

BATCH = 16
"""Prompts in one request."""


@dataclass(frozen=True)
class Request:
    """What to run, and on what."""

    url: str
    model: str
    """Name under which the server has it."""
    tokenizer: str
    """Folder."""
    start_token_id: int
    max_length: int
    """Ids that the server takes at most, with what it generates."""
    tasks: list[str]
    path: str
    """Folder with tasks of the user's; empty: none."""
    limit: int
    attempts: int
    timeout: float
    """Seconds."""
    seed: int


class ServedModel(LocalCompletionsAPI):
    """A server of token ids."""

    def __init__(self, request: Request, key: str) -> None:
        super().__init__(
            base_url=request.url.rstrip("/") + "/completions",
            model=request.model,
            tokenizer=request.tokenizer,
            tokenizer_backend="huggingface",
            tokenized_requests=True,
            add_bos_token=False,
            custom_prefix_token_id=request.start_token_id,
            max_length=request.max_length,
            batch_size=BATCH,
            max_retries=request.attempts,
            timeout=int(request.timeout),
            seed=request.seed,
            header={"Authorization": f"Bearer {key or 'none'}"},
        )
        self._start = request.start_token_id

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
        for chunk in chunks:
            for key, context, continuation in chunk:
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
        found = []
        answers = outputs if isinstance(outputs, list) else [outputs]
        choices = sorted((choice for answer in answers for choice in answer["choices"]), key=lambda one: one["index"])
        if [choice["index"] for choice in choices] != list(range(len(tokens))):
            raise ValueError(f"{len(tokens)} prompts were sent, {len(choices)} answers came")
        for choice, ids, start in zip(choices, tokens, ctxlens, strict=True):
            values = choice["logprobs"]["token_logprobs"]
            if len(values) != len(ids) + 1 or not all(
                value is not None and math.isfinite(value) for value in values[1:]
            ):
                raise ValueError(f"{len(ids)} ids were sent, {len(values)} log-probabilities came, or some not finite")
            own = values[start:-1]
            best = [max(top.values()) for top in choice["logprobs"]["top_logprobs"][start:-1]]
            found.append((sum(own), all(value >= top for value, top in zip(own, best, strict=True))))
        return found


def run(request: Request, key: str) -> dict[str, Any]:
    """The harness's figures by task, or why a task has none."""
    found: dict[str, Any] = {}
    manager = _manager(request)
    model = ServedModel(request, key)
    for name in request.tasks:
        if name not in manager.all_tasks:
            found[name] = {"absent": f"lm-eval has no task {name!r}; give the folder of your own with --lm-eval-path"}
            continue
        try:
            manager.load([name])
        except (OSError, ValueError) as error:  # datasets raises either for what is not in its cache
            found[name] = {
                "absent": f"{name}: its data are not in the local cache: {' '.join(str(error).split())[:200]}"
            }
            continue
        try:
            result = simple_evaluate(
                model=model,
                tasks=[name],
                task_manager=manager,
                limit=request.limit,
                bootstrap_iters=1000,
                random_seed=request.seed,
                numpy_random_seed=request.seed,
                torch_random_seed=request.seed,
                fewshot_random_seed=request.seed,
            )
        except Exception as error:
            raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error
        found |= _figures(result)
    return found


def _manager(request: Request) -> TaskManager:
    """The tasks that are known. Reading lm-eval's own list takes half a minute, so only where it is needed."""
    if request.path:
        own = TaskManager(include_path=request.path, include_defaults=False)
        if set(request.tasks) <= set(own.all_tasks):
            return own
    return TaskManager(include_path=request.path or None)


def _figures(result: Any) -> dict[str, Any]:
    """Of each task (and group that has a score): metrics with standard error, items, and the number of questions."""
    found: dict[str, Any] = {}
    for task, metrics in (result["results"] | result.get("groups", {})).items():
        samples = result["samples"].get(task, [])
        own = {}
        for full, value in metrics.items():
            metric, _, kind = full.partition(",")
            if not isinstance(value, int | float) or metric.endswith("_stderr") or not kind:
                continue
            error = metrics.get(f"{metric}_stderr,{kind}")
            items = [sample.get(metric) for sample in samples if sample.get("filter", kind) == kind]
            own[metric if kind == "none" else f"{metric}({kind})"] = {
                "value": value,
                "error": error if isinstance(error, int | float) else None,
                "items": items if items and all(map(_plain, items)) else None,
            }
        counts = result["n-samples"].get(task, {})
        if own:
            found[task] = {"metrics": own, "asked": counts.get("effective"), "all": counts.get("original")}
    return found


def _plain(item: Any) -> bool:
    pair = isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(one, int | float) for one in item)
    return isinstance(item, int | float) or pair


def main(request_file: Path, answer_file: Path) -> None:
    """Run a request; what goes wrong is written as {"error": message}."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    request = Request(**json.loads(request_file.read_text(encoding="utf-8")))
    try:
        answer = run(request, os.environ.get(VARIABLE, ""))
    except Exception as error:
        answer = {"error": " ".join(str(error).split())}
    answer_file.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
