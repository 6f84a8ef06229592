"""The model card: what the Hub and a reader want to know, and only what this run did."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load

from prealign_cpt import __version__
from prealign_cpt.model.base import EMBEDDED, HUB_NAME, from_wrapper
from prealign_cpt.recipe.file import as_toml
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.text.languages import language_of
from prealign_cpt.train.metrics import Log

EMBEDDED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"

LICENCE_TEXTS = {"Apache License": "apache-2.0", "MIT License": "mit", "BSD 3-Clause": "bsd-3-clause"}
"""How a licence file begins, and the Hub's name for it."""


def model_card(recipe: Recipe, parity: dict[str, Any] | None, run: Path, base: Path, step: int, chat: str = "") -> str:
    """The text of README.md, with the metadata that the Hub reads in front.

    Args:
        parity: figures of the comparison with the trained model, if there was one.
        chat: what was done to the model afterwards so that it answers, and how well; Markdown.
        run: the run's folder; the figures of its stages that are done are told.
        base: folder of the base model, whose licence holds here too.
        step: of training, after which the weights were taken.
    """
    codes = [language_of(name).short or language_of(code=name).short for name in recipe.languages]
    data = ModelCardData(
        language=["en", *(code for code in codes if language_of(code=code).name)],
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=_on_hub(recipe.base.model),
        tags=[
            "continual-pretraining",
            *(["vocabulary-extension"] if recipe.vocab.size else []),
            "prealign",
            *(["conversational"] if chat else []),
        ],
    )
    for key, value in licence(base).items():
        data[key] = value
    taken = [f"Of the base: {told}."] if (told := from_wrapper(base)) else []
    facts = "\n".join(f"- {fact}" for fact in [*taken, *_done(recipe, run, step), *_to_know(recipe, parity, run)])
    return f"""---
{data.to_yaml()}
---
# {recipe.name}

`{_on_hub(recipe.base.model) or recipe.base.model}`, trained further on {recipe.language} text with \
prealign_cpt {__version__}.

{facts}
{_figures(recipe, run, step)}{chat}
## Recipe

```toml
{as_toml(recipe)}```
"""


def licence(base: Path) -> dict[str, str]:
    """`license` of a model's folder, and `license_name` and `license_link` where it has its own: from the metadata of
    its README.md, else from the beginning of its licence file; empty if there is neither."""
    readme = base / "README.md"
    told = (metadata_load(readme) or {}) if readme.is_file() else {}
    if told.get("license"):
        return {key: str(told[key]) for key in ("license", "license_name", "license_link") if told.get(key)}
    for path in sorted(base.glob("LICEN[CS]E*")):
        begin = path.read_text(encoding="utf-8", errors="replace")[:500]
        known = [name for text, name in LICENCE_TEXTS.items() if text in begin]
        return {"license": known[0]} if known else {"license": "other", "license_link": path.name}
    return {}


def _on_hub(model: str) -> str | None:
    """The Hub's name of a base model; None for a local folder."""
    if model == EMBEDDED:
        return EMBEDDED_ON_HUB
    named = None if Path(model).expanduser().is_dir() else HUB_NAME.fullmatch(model)
    return named["repository"] if named else None


METHODS = {
    "rows": "New tokens' rows",
    "lora": "New tokens' rows and low-rank adapters (rank {rank}) on the linears of the blocks",
    "qlora": "New tokens' rows and low-rank adapters (rank {rank}) on the linears of the blocks, quantised to 4 bits,",
}
"""What moved, by `train.method`."""


def _done(recipe: Recipe, run: Path, step: int) -> list[str]:
    """What this run did, stage by stage."""
    align, data, train = recipe.align, recipe.data, recipe.train
    facts = []
    if recipe.vocab.size:
        count = _read(run / "vocab" / "report.json").get("new_tokens", recipe.vocab.size)
        facts.append(
            f"{count} new tokens behind those of the base, which keep their ids; their rows begin as `{align.init}`."
        )
    if align.steps and (recipe.vocab.size or align.trains != "new_rows"):
        terms = {
            "distillation of the original tokenization": align.distill,
            "contrast of a bilingual lexicon": align.weight,
        }
        told = ", ".join(name for name, weight in terms.items() if weight)
        facts.append(f"{align.steps} steps of alignment{': ' * bool(told)}{told}.")
    share = f", {data.english_share:.0%} of them English" if data.english_share else ""
    steps = f"{step} of {train.steps}" if step < train.steps else f"{step}"
    facts.append(f"{steps} steps of {train.sequences} sequences of {data.sequence_length} tokens{share}.")
    if moved := METHODS.get(train.method):
        facts.append(f"{moved.format(rank=train.lora_rank)} were trained, and nothing else; they are merged here.")
    if recipe.codeswitch.ratio and data.english_share:
        facts.append(
            f"In the English text up to {recipe.codeswitch.ratio:.0%} of the words are replaced by a translation "
            f"(`{recipe.codeswitch.labels}`)."
        )
    return facts


def _to_know(recipe: Recipe, parity: dict[str, Any] | None, run: Path) -> list[str]:
    """What a user of the model must know."""
    vocab = _read(run / "vocab" / "report.json") if recipe.vocab.size else {}
    facts = []
    if scripts := vocab.get("pretokenizer_changed"):
        facts.append(
            f"The tokenizer keeps words in {', '.join(scripts)} whole, which that of the base cuts at their marks. "
            "tokenizer.json says how; llama.cpp, which has pre-tokenizers built in, cannot read it."
        )
    if vocab.get("decomposed_texts_changed"):
        facts.append(
            "Text must come in composed form (NFC), as training text did: the tokenizer has no normalizer, and text "
            "in decomposed form (NFD) does not meet the new tokens."
        )
    facts.append(
        f"A text begins with `{recipe.base.start_token}`, as in training and evaluation. The tokenizer puts it there "
        "where special tokens are asked for."
    )
    if parity:
        facts.append(
            f"Reloaded, this folder gives the trainer's log-probabilities on {parity['tokens']} tokens (mean "
            f"difference {parity['mean']:.2g} nats, where rounding makes {parity['rounding']:.2g})."
        )
    return [
        *facts,
        "The licence is that of the base model and of the texts it was trained on.",
    ]


def _figures(recipe: Recipe, run: Path, last: int) -> str:
    """Bits per byte of validation text before training and at the last look up to a step; empty if the run has no log
    of it."""
    rows = Log(run / "metrics.jsonl", active=False).rows() if (run / "metrics.jsonl").is_file() else []
    scored = [(row["step"], row["valid"]) for row in rows if row.get("valid") and row["step"] <= last]
    if not scored:
        return ""
    lines = [f"| after step {step} | {valid['target_bpb']:.3f} | {valid['english_bpb']:.3f} |"
             for step, valid in (scored[0], *scored[1:][-1:])]  # fmt: skip
    head = f"| bits per byte of held-out text | {recipe.language} | English |\n|---|---|---|"
    return "\n".join(["", head, *lines, ""])


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
