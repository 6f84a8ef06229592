"""`prealign clone`: English text and a base model in, a folder with a whole language to learn out.

    english.{train,valid,test}.txt   target.{train,valid,test}.txt   valid and test are parallel, train is not
    tokenizer/     the base tokenizer grown by clones of its tokens   lexicon.tsv   the word map, minus the knobs
    pieces.tsv     new token -> English token                         oracle.safetensors   rows of perfect alignment
    clka.jsonl     questions about invented facts                     transfer.{english,clone}.tsv   labelled sentences
    recipe.toml    a recipe over these files                          report.json

The clone differs from English in nothing but its letters, so what a method gets wrong is the method's own fault. The
knobs make it harder, one at a time.
"""

import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from prealign_cpt.lab.clone.documents import SENTENCES, Deal, deal_documents, labelled_sentences
from prealign_cpt.lab.clone.facts import invent, questions, statements
from prealign_cpt.lab.clone.lexicon import count_words, make_lexicon, swap_words
from prealign_cpt.lab.clone.oracle import oracle_rows
from prealign_cpt.lab.clone.script import Cloner
from prealign_cpt.lab.clone.tokenizer import Mirror, make_cloner, mirror_tokenizer
from prealign_cpt.lexicon.pairs import write_pairs
from prealign_cpt.model.base import check_base, resolve_base
from prealign_cpt.model.bits import batches, score, windows
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.run.errors import DataError, RecipeError
from prealign_cpt.run.manifest import new_folder, sha256

SEQUENCE_LENGTH, SEQUENCES = 256, 16
"""Of the recipe; its steps read the clone's training text once."""

START_BYTES = 4_000
"""Bytes of validation text on which the start token is chosen."""


@dataclass(frozen=True, kw_only=True)
class Knobs:
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


def build_clone(base_name: str, texts: list[Path], out: Path, knobs: Knobs) -> dict[str, Any]:
    """Write the folder `out` and return its report.

    Args:
        base_name: as `base.model` of a recipe.
        texts: English text files. With more than one, sentences labelled by their file are written for the measure of
            zero-shot transfer.

    Raises:
        DataError, MissingInputError, RecipeError: a text or the base cannot be used.
        StorageError: `out` exists, or writing failed.
    """
    base = resolve_base(base_name)
    check_base(base)
    if len({path.stem for path in texts}) < len(texts):
        raise RecipeError("two texts have the same file name; rename one, the names label their sentences")
    deal = deal_documents(texts, knobs.seed)
    everything = [document.text for part in (deal.english, deal.clone, deal.valid, deal.test) for document in part]
    words = count_words(everything)
    cloner = make_cloner(base, everything)
    facts = invent(knobs.facts, {word.lower() for word in words}, knobs.seed)
    about = {"base": base_name, "texts": {str(path): sha256(path) for path in texts}, "knobs": asdict(knobs)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out, about) as folder:
        draw = random.Random(f"swap {knobs.seed}")
        files = {
            f"{language}.{name}": [
                swap_words(document.text, knobs.swap if language == "target" else 0.0, draw) for document in documents
            ]
            for language, half in (("english", deal.english), ("target", deal.clone))
            for name, documents in (("train", half), ("valid", deal.valid), ("test", deal.test))
        }
        files["english.train"] += statements(facts, "english", knobs.exposures, knobs.seed)
        files["target.train"] += statements(facts, "clone", knobs.exposures, knobs.seed)
        originals = [text for name, some in files.items() if name.startswith("target") for text in some]
        asked = questions(facts, str)  # of facts that are stated in English alone, too
        for question in (q for q in asked if q["language"] == "clone"):
            originals += [question["prompt"], *(f" {candidate}" for candidate in question["candidates"])]
        mirror = mirror_tokenizer(base, cloner, originals, knobs.vocab, folder / "tokenizer")
        for name, some in files.items():
            _write_documents(folder / f"{name}.txt", map(cloner.text, some) if name.startswith("target") else some)
        names = {fact.subject: knobs.exposures for fact in facts}
        pairs, lexicon = make_lexicon(
            words | names, cloner.text, knobs.lexicon_share, knobs.noise, knobs.ambiguity, knobs.seed
        )
        write_pairs(folder / "lexicon.tsv", pairs, f"English and its clone in {cloner.script.name} letters")
        if facts:
            lines = [json.dumps(q, ensure_ascii=False) for q in questions(facts, cloner.text)]
            (folder / "clka.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        sentences = _write_transfer(folder, deal, cloner, knobs.seed) if len(texts) > 1 else {}
        model = load_whole(base).eval()
        oracle_rows(model, [piece.original for piece in mirror.pieces], folder / "oracle.safetensors")
        _write_pieces(folder / "pieces.tsv", mirror)
        starts = _start_tokens(model, base, [document.text for document in deal.valid])
        report = {
            "script": cloner.script.name,
            "documents": {name: len(some) for name, some in files.items()},
            "bytes": {name: (folder / f"{name}.txt").stat().st_size for name in files},
            "new_tokens": len(mirror.pieces),
            "new_tokens_in_text": sum(piece.count > 0 for piece in mirror.pieces),
            "tokens": mirror.tokens,
            "mismatch": mirror.mismatch,
            "lexicon": lexicon,
            "facts": len(facts),
            "transfer_sentences": sentences,
            "start_tokens": starts,
        }
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        start = min(starts, key=starts.__getitem__)
        model_name = str(base.resolve()) if Path(base_name).expanduser().is_dir() else base_name
        recipe = _recipe(out.name, model_name, start, mirror, model.config.max_position_embeddings, facts, sentences)
        (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    return report


def _write_documents(path: Path, documents: Any) -> None:
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")


def _write_pieces(path: Path, mirror: Mirror) -> None:
    lines = [f"{p.id}\t{'' if p.original is None else p.original}\t{p.text!r}\t{p.count}" for p in mirror.pieces]
    path.write_text("\n".join(["id\toriginal\ttext\tcount", *lines]) + "\n", encoding="utf-8")


def _write_transfer(folder: Path, deal: Deal, cloner: Cloner, seed: int) -> dict[str, int]:
    """Sentences labelled by file: English ones of English documents, clones of clone documents, none in both."""
    train = labelled_sentences(deal.english, SENTENCES["english"], seed)
    known = {sentence for _, sentence in train}
    test = [(label, s) for label, s in labelled_sentences(deal.clone, SENTENCES["clone"], seed) if s not in known]
    if len({label for label, _ in train}) < 2:
        raise DataError("the texts hold no sentences of 30 to 200 characters to tell their files apart; give others")
    for name, some in (("english", train), ("clone", [(label, cloner.text(s)) for label, s in test])):
        lines = [f"{label}\t{' '.join(sentence.split())}" for label, sentence in some]
        (folder / f"transfer.{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"english": len(train), "clone": len(test)}


def _start_tokens(model: PreTrainedModel, base: Path, documents: list[str]) -> dict[str, float]:
    """Bits per byte of some validation text after each token that may start a text."""
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token)
    tokens = dict.fromkeys(token for token in special if token)
    if not tokens:
        raise RecipeError(f"{base}: its tokenizer names no BOS or EOS token, so no text can be started; add one")
    texts = windows(documents, 512, START_BYTES)
    module = LanguageModelLoss(model)
    return {
        token: round(
            score(module, batches(texts, tokenizer, tokenizer.convert_tokens_to_ids(token), 2048)).bits_per_byte, 4
        )
        for token in tokens
    }


def _recipe(
    name: str, model: str, start: str, mirror: Mirror, positions: int, facts: list[Any], sentences: dict[str, int]
) -> str:
    length = min(SEQUENCE_LENGTH, positions)
    steps = max(10, math.ceil(2 * mirror.tokens / (length * SEQUENCES)))
    evaluate = ["mixed_prompts = 32"]
    if facts:
        evaluate.append('clka = "clka.jsonl"')
    if sentences:
        evaluate += ['transfer_train = "transfer.english.tsv"', 'transfer_test = "transfer.clone.tsv"']
    return f"""# English-Clone, written by `prealign clone`. One pass over the training text of both languages.
name = {json.dumps(name, ensure_ascii=False)}
language = "English-Clone"

[base]
model = {json.dumps(model, ensure_ascii=False)}
start_token = {json.dumps(start, ensure_ascii=False)}  # the best one in report.json

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
size = {len(mirror.pieces)}
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
composition_lr = 0.0  # a clone word's pieces in the base's tokenizer are bytes, which say nothing of it
eval_every = {max(1, steps // 10)}
save_every = {max(1, steps // 4)}

[evaluate]
{chr(10).join(evaluate)}
"""
