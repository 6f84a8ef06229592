"""Two lm-eval tasks as a user would write them, YAML and data, and their figures by plain forward passes."""

import json
import math
from pathlib import Path

from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.serving.agreement import logprobs

QUESTIONS = [("The old house stands near the", ["river", "moon", "book"], 0), ("A small", ["garden", "dog"], 1)]
QUESTIONS += [("The water is", ["cold and clear", "long"], 1), ("Every day she walked under the", ["trees", "sea"], 0)]

BPB = """
task: own_bpb
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/texts.jsonl}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""
CHOICE = """
task: own_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: label
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}]
"""


def write_tasks(folder: Path, texts: list[str], **more: str) -> Path:
    """Write the tasks `own_bpb`, over `texts`, and `own_choice`, over QUESTIONS, and those of `more`."""
    folder.mkdir()
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "questions.jsonl").write_text(
        "".join(json.dumps({"question": q, "choices": c, "label": n}) + "\n" for q, c, n in QUESTIONS)
    )
    for name, text in {"bpb": BPB, "choice": CHOICE, **more}.items():
        (folder / f"{name}.yaml").write_text(text.format(folder=folder))
    return folder


def bits_per_byte(subject: Subject, texts: list[str]) -> float:
    """What `own_bpb` must give."""
    return sum(nats(subject, "", text) for text in texts) / math.log(2) / sum(len(text.encode()) for text in texts)


def hits(subject: Subject) -> list[bool]:
    """Whether the model finds the right answer of each question the likeliest: the items of `own_choice`."""
    right = []
    for question, choices, label in QUESTIONS:
        costs = [nats(subject, question, " " + choice) for choice in choices]
        right.append(costs.index(min(costs)) == label)
    return right


def nats(subject: Subject, context: str, text: str) -> float:
    """-log p(text | start token, context), by one plain forward pass."""

    def encode(some: str) -> list[int]:
        ids: list[int] = subject.tokenizer(some, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    ids = [subject.start_token_id, *encode(context + text)]
    return -float(logprobs(subject.model, ids)[len(encode(context)) :].sum())
