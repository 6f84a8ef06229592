"""`prealign clone`: English text and a base model in, a folder with a whole language to learn out.

    english.{train,valid,test}.txt   target.{train,valid,test}.txt   valid and test are parallel, train is not
    tokenizer/     the base tokenizer grown by clones of its tokens   lexicon.tsv   the word map, perfect by default
    tokens.tsv     new token -> English token                         oracle.safetensors   rows of perfect alignment
    clka.jsonl     questions about invented facts                     transfer.{english,clone}.tsv   labelled sentences
    recipe.toml    a recipe over these files                          report.json

The clone differs from English in nothing but its letters, so what a method gets wrong is the method's own fault. The
options make it harder, one at a time.
"""

import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from prealign_cpt.advise.start_token import start_tokens
from prealign_cpt.lab.clone.facts import invent, questions, statements
from prealign_cpt.lab.clone.texts import (
    Document,
    count_words,
    labelled_sentences,
    make_lexicon,
    split_documents,
    swap_words,
)
from prealign_cpt.lab.clone.tokenizer import Cloner, make_cloner, mirror_tokenizer
from prealign_cpt.lexicon.pairs import write_pairs
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.load import load_whole
from prealign_cpt.run.errors import DataError, RecipeError
from prealign_cpt.run.manifest import new_folder, sha256

SEQUENCE_LENGTH, SEQUENCES = 256, 16
"""Of the recipe; its steps read the clone's training text once."""

ENGLISH_SENTENCES, CLONE_SENTENCES = 400, 200
"""Most sentences of one label in the transfer files."""


@dataclass(frozen=True, kw_only=True)
class CloneOptions:
    """What makes the clone harder than English in other letters, and what else is written."""

    vocab: int = 0
    """Tokens that are cloned, the most used ones; 0: all that occur."""
    lexicon_share: float = 1.0
    """Share of the words that the lexicon lists, the most frequent ones."""
    ambiguity: float = 0.0
    """Share of the listed words with a second, wrong translation."""
    noise: float = 0.0
    """Share of the listed words whose translation is wrong."""
    swap: float = 0.0
    """Probability that a word of a clone document changes places with the next one."""
    facts: int = 0
    """Invented facts, a quarter in each group of `clone/facts.py`."""
    exposures: int = 5
    """How often each fact is stated in a language."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lexicon_share", "ambiguity", "noise", "swap"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0 or (name == "lexicon_share" and not value):
                raise RecipeError(f"--{name.replace('_', '-')} {value}: must be a share between 0 and 1")
        for name, least in (("vocab", 0), ("facts", 0), ("exposures", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if 0 < self.facts < 4:
            raise RecipeError(f"--facts {self.facts}: at least 4 are needed, one for each group")


def build_clone(base_name: str, texts: list[Path], out: Path, options: CloneOptions) -> dict[str, Any]:
    """Write the folder `out` and return its report.

    Args:
        base_name: as `base.model` of a recipe.
        texts: English text files. With more than one, sentences labelled by their file are written for the measure of
            zero-shot transfer.

    Raises:
        DataError, MissingInputError, RecipeError: a text or the base cannot be used.
        StorageError: `out` exists, or writing failed.
    """
    base, seed = resolve_base(base_name), options.seed
    if len({path.stem for path in texts}) < len(texts):
        raise RecipeError("two texts have the same file name; rename one, the names label their sentences")
    splits = split_documents(texts, seed)
    english = [document.text for documents in splits.values() for document in documents]
    words = count_words(english)
    cloner = make_cloner(base, english)
    facts = invent(options.facts, {word.lower() for word in words}, seed)
    draw = random.Random(f"swap {seed}")
    files = {
        f"{language}.{name}": [
            swap_words(document.text, options.swap if language == "target" else 0.0, draw) for document in documents
        ]
        for language, train in (("english", splits["english"]), ("target", splits["clone"]))
        for name, documents in (("train", train), ("valid", splits["valid"]), ("test", splits["test"]))
    }
    files["english.train"] += statements(facts, "english", options.exposures, seed)
    files["target.train"] += statements(facts, "clone", options.exposures, seed)
    originals = [text for name, documents in files.items() if name.startswith("target") for text in documents]
    for fact in facts:  # those that are stated in English alone are asked in the clone too
        originals += [fact.relation.question.format(s=fact.subject), *(f" {o}" for o in fact.relation.objects)]

    about = {"base": base_name, "texts": {str(path): sha256(path) for path in texts}, "options": asdict(options)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out, about) as folder:
        mirror = mirror_tokenizer(base, cloner, originals, options.vocab, folder / "tokenizer")
        for name, documents in files.items():
            cloned = map(cloner.text, documents) if name.startswith("target") else documents
            (folder / f"{name}.txt").write_text("\n\n".join(cloned) + "\n", encoding="utf-8")
        names = {fact.subject: options.exposures for fact in facts}
        pairs, lexicon = make_lexicon(
            words | names, cloner.text, options.lexicon_share, options.noise, options.ambiguity, seed
        )
        write_pairs(folder / "lexicon.tsv", pairs, f"English and its clone in {cloner.script} letters")
        if facts:
            _write_lines(
                folder / "clka.jsonl", [json.dumps(q, ensure_ascii=False) for q in questions(facts, cloner.text)]
            )
        sentences = _write_transfer(folder, splits["english"], splits["clone"], cloner, seed) if len(texts) > 1 else {}
        model = load_whole(base).eval()
        save_file(oracle_rows(model, [t.original for t in mirror.new_tokens]), folder / "oracle.safetensors")
        rows = [f"{t.id}\t{'' if t.original is None else t.original}\t{t.text!r}\t{t.count}" for t in mirror.new_tokens]
        _write_lines(folder / "tokens.tsv", ["id\toriginal\ttext\tcount", *rows])
        starts = start_tokens(model, base, [document.text for document in splits["valid"]])
        report = {
            "script": cloner.script,
            "documents": {name: len(documents) for name, documents in files.items()},
            "bytes": {name: (folder / f"{name}.txt").stat().st_size for name in files},
            "new_tokens": len(mirror.new_tokens),
            "new_tokens_in_text": sum(token.count > 0 for token in mirror.new_tokens),
            "tokens": mirror.text_tokens,
            "mismatch": mirror.mismatch,
            "lexicon": lexicon,
            "facts": len(facts),
            "transfer_sentences": sentences,
            "start_tokens": starts,
        }
        _write_lines(folder / "report.json", [json.dumps(report, indent=1)])
        model_name = str(base.resolve()) if Path(base_name).expanduser().is_dir() else base_name
        recipe = _recipe(out.name, model_name, report, min(SEQUENCE_LENGTH, model.config.max_position_embeddings))
        (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    return report


@torch.no_grad()
def oracle_rows(model: PreTrainedModel, originals: list[int | None]) -> dict[str, torch.Tensor]:
    """The content of a file for `align.init = "file"`: each new token has the row of the English one that it mirrors.

    With these rows the hidden states of a clone text are those of its English original. Let m be the probability that
    the model gives, at some position, to the English tokens that have a clone. Over the whole vocabulary the next token
    of either language costs log2(1 + m) bits more than in English, one bit where m is 1; over the clone's own
    vocabulary, that is without those English tokens, it costs what English costs (papers: English-Clone of PreAlign,
    arXiv 2407.16222).

    Args:
        model: the base model.
        originals: for each of the M new tokens the English one that it mirrors; None, a part of a letter, gets the
            mean of all rows.

    Returns:
        `input` fp32 [M, D] and, if the head is not tied, `output` fp32 [M, D].
    """
    tables = {"input": model.get_input_embeddings().weight, "output": model.get_output_embeddings().weight}
    if tables["output"] is tables["input"]:
        del tables["output"]
    ids_M = torch.tensor([-1 if original is None else original for original in originals])
    rows = {}
    for name, weight_VD in tables.items():
        table_VD = weight_VD.detach().float().cpu()
        rows[name] = torch.where((ids_M >= 0)[:, None], table_VD[ids_M.clamp(min=0)], table_VD.mean(dim=0))
    return rows


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_transfer(
    folder: Path, english: list[Document], clone: list[Document], cloner: Cloner, seed: int
) -> dict[str, int]:
    """Sentences labelled by file: English ones of English documents, clones of clone documents, none in both."""
    train = labelled_sentences(english, ENGLISH_SENTENCES, seed)
    known = {sentence for _, sentence in train}
    test = [(label, s) for label, s in labelled_sentences(clone, CLONE_SENTENCES, seed) if s not in known]
    if len({label for label, _ in train}) < 2:
        raise DataError("the texts hold no sentences of 30 to 200 characters to tell their files apart; give others")
    test_in_clone = [(label, cloner.text(sentence)) for label, sentence in test]
    for name, labelled in (("english", train), ("clone", test_in_clone)):
        lines = [f"{label}\t{' '.join(sentence.split())}" for label, sentence in labelled]
        _write_lines(folder / f"transfer.{name}.tsv", lines)
    return {"english": len(train), "clone": len(test)}


def _recipe(name: str, model: str, report: dict[str, Any], length: int) -> str:
    steps = max(10, math.ceil(2 * report["tokens"] / (length * SEQUENCES)))
    start_token = min(report["start_tokens"], key=report["start_tokens"].__getitem__)
    evaluate = "mixed_prompts = 32\n"
    if report["facts"]:
        evaluate += 'clka = "clka.jsonl"\n'
    if report["transfer_sentences"]:
        evaluate += 'transfer_train = "transfer.english.tsv"\ntransfer_test = "transfer.clone.tsv"\n'
    return f"""# English-Clone, written by `prealign clone`. One pass over the training text of both languages.
name = {json.dumps(name, ensure_ascii=False)}
language = "English-Clone"

[base]
model = {json.dumps(model, ensure_ascii=False)}
start_token = {json.dumps(start_token, ensure_ascii=False)}  # the best one in report.json

[text]
target = ["target.train.txt"]
english = ["english.train.txt"]
valid_target = "target.valid.txt"
valid_english = "english.valid.txt"
test_target = "target.test.txt"
test_english = "english.test.txt"

[lexicon]
path = "lexicon.tsv"

[vocab]
size = {report["new_tokens"]}
tokenizer = "tokenizer"

[align]
steps = 60
calibrate = 0.0  # rows of the oracle must stay what they are
max_english_increase = 1.0  # perfect rows, too, take half of the probability from English

[data]
sequence_length = {length}
english_share = 0.5

[train]
steps = {steps}
sequences = {SEQUENCES}
composition_lr = 0.0  # a clone word's tokens in the base's tokenizer are bytes, which say nothing of it
eval_every = {max(1, steps // 10)}
save_every = {max(1, steps // 4)}

[evaluate]
{evaluate}"""
