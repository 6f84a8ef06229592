"""Do the tools that people load an export with read it as we do? One row of a table for each tool that is given.

python benchmarks/consumers.py EXPORT BASE --text German=de.txt English=en.txt Russian=ru.txt --grow Russian=ru.txt \
    --transformers4 PYTHON --llama-cpp convert_hf_to_gguf.py --mergekit mergekit-yaml

EXPORT and BASE are Hugging Face folders; a text is a line of its own. PYTHON has transformers 4.57, torch,
sentencepiece and, for --llama-cpp, gguf and llama-cpp-python. --grow makes a tokenizer of 400 more tokens of BASE from
the first half of a file, to convert it too; all texts are then compared. lm_eval is this environment's.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from prealign_cpt.export.folder import save_tokenizer
from prealign_cpt.model.load import load_whole
from prealign_cpt.vocab.grow import grow_tokenizer

HERE = Path(__file__).resolve().parent
CHAT = [{"role": "user", "content": "Größe: 12 cm?"}, {"role": "assistant", "content": "Ja."}]


def lines(path: str, most: int) -> list[str]:
    """The first lines of a file that hold something."""
    return [line for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()][:most]


def ask(python: str, script: str, question: dict[str, Any]) -> dict[str, Any]:
    """The answer of a script of this folder in another environment."""
    done = subprocess.run(
        [python, HERE / script], input=json.dumps(question), stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def bits(nats: list[float], texts: list[str]) -> float:
    """Bits per byte of texts whose nats are known."""
    return sum(nats) / math.log(2) / sum(len(text.encode()) for text in texts)


@torch.inference_mode()
def own_nats(folder: Path, texts: list[str]) -> list[float]:
    """Nats of each text after the start token, as this package scores it."""
    model, tokenizer = load_whole(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        ids = torch.tensor([tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)])
        logits = model(ids[None]).logits[0, :-1]
        found.append(float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum")))
    return found


def by_transformers4(python: str, export: Path, texts: dict[str, list[str]], score: int) -> Iterator[str]:
    """Ids of all lines, the chat, the ends, and bits per byte of some lines."""
    for name, own in texts.items():
        question = {"folder": str(export), "texts": own, "chat": CHAT, "score": score}
        old, new = (ask(one, "consumers_reader.py", question) for one in (python, sys.executable))
        same = sum(a == b for a, b in zip(old["with_special"], new["with_special"], strict=True))
        alike = all(old[key] == new[key] for key in ("chat", "ends"))
        figures = ", ".join(f"{bits(one['nats'], own[:score]):.5f}" for one in (old, new))
        yield (
            f"transformers {old['transformers']} ({old['class']}) beside {new['transformers']} | {name}: ids of {same} "
            f"of {len(own)} lines equal; chat and ends {'equal' if alike else 'DIFFER'}; bits per byte {figures}"
        )


def by_lm_eval(export: Path, texts: dict[str, list[str]], score: int) -> Iterator[str]:
    """The harness's `hf` model as it is by default, and with add_bos_token=False."""
    import lm_eval
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    def asked(kind: str, own: list[str], context: bool) -> list[Instance]:
        arguments: list[Any] = [("", text) if context else (text,) for text in own]
        return [Instance(kind, {}, one, number, (None, None, None)) for number, one in enumerate(arguments)]

    models = {
        "default": HFLM(pretrained=str(export), device="cpu", dtype="float32", batch_size=1),
        "add_bos_token=False": HFLM(
            pretrained=str(export), device="cpu", dtype="float32", batch_size=1, add_bos_token=False
        ),
    }
    cut = {f"{name}, a line each": own[:score] for name, own in texts.items()}
    cut |= {
        f"{name}, 8 lines each": ["\n".join(own[at : at + 8]) for at in range(0, score, 8)]
        for name, own in texts.items()
    }
    for name, own in cut.items():
        told = [f"ours {bits(own_nats(export, own), own):.4f}"]
        for title, model in models.items():
            single = [-value for value, _ in model.loglikelihood(asked("loglikelihood", own, True), disable_tqdm=True)]
            rolling = [
                -value
                for value in model.loglikelihood_rolling(asked("loglikelihood_rolling", own, False), disable_tqdm=True)
            ]
            told.append(f"{title}: loglikelihood {bits(single, own):.4f}, rolling {bits(rolling, own):.4f}")
        yield f"lm_eval {lm_eval.__version__} `--model hf` | {name}, bits per byte: {'; '.join(told)}"


def by_mergekit(
    program: str, export: Path, base: Path, texts: dict[str, list[str]], score: int, work: Path
) -> Iterator[str]:
    """The export as the only task vector on its base: the merge must be the export again."""
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [{"model": str(export), "parameters": {"weight": 1.0}}],
        "tokenizer_source": str(export),
        "dtype": "float32",
    }
    (work / "merge.yaml").write_text(json.dumps(recipe))
    subprocess.run([program, work / "merge.yaml", work / "merged"], check=True, stdout=subprocess.DEVNULL)
    ours, merged = (AutoTokenizer.from_pretrained(folder) for folder in (export, work / "merged"))
    for name, own in texts.items():
        same = sum(ours.encode(text) == merged.encode(text) for text in own)
        figures = ", ".join(
            f"{bits(own_nats(folder, own[:score]), own[:score]):.4f}" for folder in (work / "merged", export)
        )
        yield f"mergekit task_arithmetic | {name}: ids of {same} of {len(own)} lines equal; bits per byte {figures}"


def by_llama_cpp(
    python: str,
    converter: str,
    folder: Path,
    base: Path,
    texts: dict[str, list[str]],
    score: int,
    work: Path,
    what: str,
) -> Iterator[str]:
    """Convert with serve/gguf.py, then compare llama.cpp's ids, and its bits per byte where there are weights."""
    target = work / f"{folder.name}.gguf"
    words = [
        python,
        HERE.parent / "serve" / "gguf.py",
        converter,
        folder,
        base,
        "--outfile",
        target,
        "--outtype",
        "f32",
    ]
    words += [] if score else ["--vocab-only"]
    subprocess.run(words, check=True, capture_output=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    for name, own in texts.items():
        found = ask(python, "consumers_llama.py", {"model": str(target), "texts": own, "score": score, "ends": ends})
        plain = [tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) for text in own]
        same = sum(a == b for a, b in zip(found["ids"], plain, strict=True))
        start = all(ids[:1] == [tokenizer.bos_token_id] for ids in found["with_special"])
        told = f"{what}, {name}: ids of {same} of {len(own)} lines equal, start token {'added' if start else 'MISSING'}"
        told += f", stops at {len(found['ends'])} of {len(ends)} ends"
        if score:
            scored = own[:score]
            told += (
                f"; bits per byte {bits(found['nats'], scored):.4f}, ours {bits(own_nats(folder, scored), scored):.4f}"
            )
        yield f"llama.cpp (llama-cpp-python {found['version']}) | {told}"


def grown(base: Path, export: Path, name: str, path: str, english: str, work: Path) -> Path:
    """A folder with a tokenizer that was grown on the first half of a text, and a configuration of its size."""
    tokens, folder = work / f"tokens-{name}", work / name
    half = lines(path, 10**6)
    grow_tokenizer(base, half[: len(half) // 2], lines(english, 1000), 400, tokens)
    tokenizer = AutoTokenizer.from_pretrained(tokens)
    folder.mkdir()
    save_tokenizer(tokenizer, AutoTokenizer.from_pretrained(export).bos_token, tokens, folder)
    config = json.loads((export / "config.json").read_text()) | {"vocab_size": len(tokenizer)}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(export / "generation_config.json", folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--text", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("--grow", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--score", type=int, default=20, help="lines of each text whose bits per byte are compared")
    parser.add_argument("--transformers4", metavar="PYTHON")
    parser.add_argument("--llama-cpp", metavar="CONVERTER")
    parser.add_argument("--mergekit", metavar="PROGRAM")
    parser.add_argument("--lm-eval", action="store_true")
    options = parser.parse_args()
    paths = dict(text.split("=", 1) for text in options.text)
    texts = {name: lines(path, options.lines) for name, path in paths.items()}
    export, base, score = options.export.resolve(), options.base.resolve(), options.score
    print("| tool | result |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rows: list[Iterator[str]] = []
        if options.transformers4:
            rows.append(by_transformers4(options.transformers4, export, texts, score))
        if options.lm_eval:
            rows.append(by_lm_eval(export, texts, score))
        if options.mergekit:
            rows.append(by_mergekit(options.mergekit, export, base, texts, score, work))
        if options.llama_cpp:
            python, converter = options.transformers4, options.llama_cpp
            rows.append(by_llama_cpp(python, converter, export, base, texts, score, work, "the export"))
            for name, path in (pair.split("=", 1) for pair in options.grow):
                made = grown(base, export, name, path, paths["English"], work)
                held_out = {name: lines(path, 10**6)[-options.lines // 2 :], "English": texts["English"]}
                rows.append(by_llama_cpp(python, converter, made, base, held_out, 0, work, f"400 tokens of {name}"))
        for row in (row for part in rows for row in part):
            print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
