"""What one version of transformers makes of a folder: `PYTHON benchmarks/consumers_reader.py < question > answer`.

Runs in any environment with transformers 4 or 5 and torch, with nothing of this package, so that two can be compared.

    question  {"folder", "texts": [...], "chat": [...] or null, "score": how many texts to score}
    answer    {"transformers", "class", "ids", "with_special", "chat", "ends", "nats": of each scored text}
"""

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    question = json.load(sys.stdin)
    folder, texts = question["folder"], question["texts"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer = {
        "transformers": transformers.__version__,
        "class": type(tokenizer).__name__,
        "ids": [tokenizer.encode(text, add_special_tokens=False) for text in texts],
        "with_special": [tokenizer.encode(text) for text in texts],
    }
    if question["chat"]:
        found = tokenizer.apply_chat_template(question["chat"], add_generation_prompt=True)
        answer["chat"] = found if isinstance(found, list) else found["input_ids"]
    if question["score"]:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        answer["ends"] = model.generation_config.eos_token_id
        answer["nats"] = []
        for ids in answer["with_special"][: question["score"]]:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, :-1]
            answer["nats"].append(
                float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
            )
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
