"""A server of a real tiny model, in this process: everything it answers is computed with transformers.

    with ServedModel(folder) as server: ...        server.base_url

`fault` is one of tests/serving/faulty.py, or "ignores_echo" (log-probabilities of the generated token alone),
"adds_start" (it puts a start token before the ids) or "dropped_value" (one log-probability is missing).
No token ends its texts but those of `stop_token_ids`.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.serving.agreement import mean_vector
from tests.serving.faulty import Faulty

OWN = ("ignores_echo", "adds_start", "dropped_value")


class ServedModel(Faulty):
    """See the module; `after` and `times` count requests, as in Faulty."""

    def __init__(self, folder: Path, fault: str | None = None, *, shift: float = 0.0, **options: Any) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        super().__init__(None if fault in OWN else fault, vector=self._mean, **options)
        self.fault = fault
        self.shift = shift
        """Added to every log-probability."""

    def _mean(self, ids: list[int], size: int) -> list[float]:
        found: list[float] = mean_vector(self.model, ids).tolist()
        return found

    def _choices(self, body: dict[str, Any], fault: str | None) -> list[dict[str, Any]]:
        return self._spoil([self._choice(n, ids, body, fault) for n, ids in enumerate(self._prompts(body))], fault)

    def _prompts(self, body: dict[str, Any]) -> list[list[int]]:
        prompt = body["prompt"]
        if isinstance(prompt, str):
            prompt = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return prompt if isinstance(prompt[0], list) else [prompt]

    def _choice(self, index: int, ids: list[int], body: dict[str, Any], fault: str | None) -> dict[str, Any]:
        row = [0, *ids] if fault == "adds_start" else list(ids)
        start = len(row)
        with torch.inference_mode():
            for _ in range(body.get("max_tokens", 16)):
                row.append(int(self.model(torch.tensor([row])).logits[0, -1].argmax()))
                if row[-1] in (body.get("stop_token_ids") or ()):
                    break
            logits = self.model(torch.tensor([row])).logits[0, :-1].double()
        every = logits.log_softmax(-1) + self.shift
        values: list[float | None] = [None, *every.gather(1, torch.tensor(row[1:])[:, None])[:, 0].tolist()]
        tops: list[dict[str, float] | None] = [None, *({"top": float(one.max())} for one in every)]
        written = row[start:-1] if row[-1] in (body.get("stop_token_ids") or ()) else row[start:]
        text = self.tokenizer.decode(written, skip_special_tokens=True).rstrip("\ufffd")  # as vLLM's stream does
        if body.get("stop"):
            for stop in [body["stop"]] if isinstance(body["stop"], str) else body["stop"]:
                text = text.split(stop)[0]
        if not body.get("echo") or fault == "ignores_echo":
            values, tops = values[start:], tops[start:]
        elif fault == "shifted":
            values = [*values[1:], values[-1]]
        elif fault == "dropped_value":
            values[len(values) // 2] = None
        logprobs = {"token_logprobs": values, "tokens": [], "top_logprobs": tops, "text_offset": []}
        return {
            "index": index,
            "text": text,
            "finish_reason": "length",
            "logprobs": logprobs if body.get("logprobs") is not None and fault != "no_logprobs" else None,
            "prompt_token_ids": ids,
            "token_ids": row[start:],
        }
