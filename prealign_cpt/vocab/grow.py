"""Grow a tokenizer: base folder and text in, a Hugging Face folder with whole words or further merges out.

    base ─► words of target and English text ─► learn_words | Learner ─► tokenizer.json (+ tokenizer.model) ─► out

Every old token keeps its id and its rules; the words of the English guard keep their tokens; every new token occurs in
the tokenization of a real text. The last two are checked with the grown tokenizer as it will be loaded. Where the base
cuts the target's words at their marks, the pre-tokenizer of their script is changed first (`vocab.cuts`).
"""

import gc
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prealign_cpt.model.tokens import encode_text, num_ids
from prealign_cpt.run.errors import MissingInputError, RecipeError, StorageError
from prealign_cpt.run.manifest import storage_error
from prealign_cpt.text.scripts import unspaced_share
from prealign_cpt.vocab.cuts import SAMPLE, Cuts, is_recut, measure_cuts, whole_words
from prealign_cpt.vocab.families import ByteLevel, Family, SentencePiece, grow_model
from prealign_cpt.vocab.learn import Learner, Piece, Word
from prealign_cpt.vocab.words import LEAST_DOCUMENTS, learn_words

MODEL = "tokenizer.model"
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class NewToken:
    """One token that the grown tokenizer has and the base has not."""

    id: int
    text: str
    """What it decodes to; U+FFFD for a byte-level token that is a part of a character."""
    left: int | None
    right: int | None
    """Ids of the two tokens that first formed it; None for a whole word, and for a character that SentencePiece spelled
    in bytes."""
    count: int
    """How many tokens it saved in the target text when it was learned."""


@dataclass(frozen=True)
class Growth:
    """What was added: tokens `first_id`, `first_id` + 1, … in the order they were learned."""

    first_id: int
    tokens: list[NewToken]
    words: bool = False
    """Whether they are whole words, looked up before the merges."""
    cuts: Cuts | None = None
    """What the base's pre-tokenizer does to the words of the target text."""
    scripts: tuple[str, ...] = ()
    """Scripts whose words it no longer cuts at their marks."""
    recut: int = 0
    """Documents of the English guard that quote such words, which are now cut otherwise there too."""


def grow_tokenizer(
    base: Path,
    target: Iterable[str],
    english: Iterable[str],
    size: int,
    out: Path,
    kind: Literal["auto", "words", "merges"] = "merges",
    pretokenizer: Literal["auto", "base"] = "auto",
) -> Growth:
    """Write to `out` the tokenizer of `base` with up to `size` tokens for the target language.

    Args:
        base: folder with a byte-level BPE or SentencePiece BPE tokenizer.
        target: documents of the new language, read once.
        english: documents whose words must keep their tokens, in any case and with or without a space in front; read
            once. The broader, the less unseen English changes. A foreign word in them is kept too, so they should be
            English throughout.
        size: number of tokens wanted; fewer are made when nothing that occurs twice is left. 0 copies the tokenizer.
        out: folder to fill; made if missing, must be empty.
        kind: whole words, looked up before the merges, or further merges; "auto": words where they can be looked up and
            the text has spaces between them.
        pretokenizer: "auto": changed for scripts whose words the base's cuts at their marks (`Cuts.scripts`).

    Raises:
        RecipeError: the tokenizer is of another kind, or cannot look words up, or the text has no spaces between words,
            or `size` is negative.
        MissingInputError: `base` holds no tokenizer.
        StorageError: `out` is not empty.
    """
    if size < 0:
        raise RecipeError(f"vocabulary size {size}: must not be negative; give the number of tokens to add, or 0")
    tokenizer = load_tokenizer(base)
    if out.exists() and any(out.iterdir()):
        raise StorageError(f"{out}: is not empty and is never overwritten; choose another folder")
    vocab = tokenizer.get_vocab()
    first_id = num_ids(tokenizer)
    if size == 0:
        copy_tokenizer(tokenizer, base, out)
        return Growth(first_id, [])
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    family: Family = family_of(base, tokenizer, content)
    target, sample = _beginning(target)
    growth = Growth(first_id, [], cuts=measure_cuts(tokenizer.backend_tokenizer, sample))
    if isinstance(family, ByteLevel) and pretokenizer == "auto" and growth.cuts and growth.cuts.scripts:
        recut = whole_words(content, growth.cuts.scripts)
        if recut is not None and _same_cuts(recut, _read_back(recut, tokenizer, base, keep_class=True)):
            content, growth = recut, replace(growth, scripts=tuple(growth.cuts.scripts))
            family = ByteLevel(Tokenizer.from_str(json.dumps(content)))
    guard = _Guard(english, tokenizer.backend_tokenizer, family, growth.scripts)

    def looks_up() -> bool:
        """Whether transformers, too, would look words up; a Qwen2Tokenizer is built anew without."""
        wanted = {**content, "model": content["model"] | {"ignore_merges": True}}
        return bool(_read_back(wanted, tokenizer, base, bool(growth.scripts))["model"].get("ignore_merges"))

    as_words = _as_words(base, family, kind, sample, looks_up)
    if as_words:
        words = family.words(target, whole=True, least_documents=LEAST_DOCUMENTS)
        pieces, witnesses = learn_words(words, guard.words(), family.text, size), list[str]()
    else:
        pieces, witnesses = _learn(family, target, guard, size)
    copy_tokenizer(tokenizer, base, out)
    try:
        if growth.scripts:
            _keep_class(out / "tokenizer_config.json")
        (out / "tokenizer.json").write_text(
            json.dumps(family.grown(content, pieces, first_id, as_words), ensure_ascii=False)
        )
        if (out / MODEL).is_file():
            grow_model(out / MODEL, vocab, pieces, first_id)
    except OSError as error:
        raise storage_error(out, error) from error
    ids = vocab | {string: first_id + n for n, string in enumerate(pieces)}
    grown = load_tokenizer(out)
    if grown.get_vocab() != ids:
        raise RecipeError(
            f"{base}: {type(tokenizer).__name__} numbers its tokens otherwise when it is saved and loaded; put "
            '"tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json'
        )
    lost = unreachable(grown, set(ids.values()) - set(vocab.values()), witnesses)
    assert not lost, f"new tokens {sorted(lost)} are out of reach"
    tokens = [
        NewToken(ids[piece.string], family.text(piece.string), ids.get(piece.left), ids.get(piece.right), piece.count)
        for piece in pieces.values()
    ]
    return replace(growth, tokens=tokens, words=as_words, recut=guard.recut)


def take_tokenizer(base: Path, given: Path, size: int, out: Path) -> Growth:
    """Copy the ready grown tokenizer of `given` to `out`, instead of learning one.

    Args:
        size: how many tokens it must add to the base's.

    Raises:
        MissingInputError: `given` holds no tokenizer.
        RecipeError: an old token has another id in it, the new ids do not follow the old ones, or their number is not
            `size`.
    """
    base_tokenizer, tokenizer = load_tokenizer(base), load_tokenizer(given)
    old, ids = base_tokenizer.get_vocab(), tokenizer.get_vocab()
    for token, number in old.items():
        if ids.get(token) != number:
            raise RecipeError(
                f"vocab.tokenizer: {given}: token {token!r} has id {ids.get(token)} there and {number} in the base; "
                "give a tokenizer that was grown from this base"
            )
    first_id = num_ids(base_tokenizer)
    new = sorted((number, token) for token, number in ids.items() if token not in old)
    if [number for number, _ in new] != list(range(first_id, first_id + len(new))):
        raise RecipeError(f"vocab.tokenizer: {given}: its new ids do not run on from {first_id}; grow it again")
    if len(new) != size:
        raise RecipeError(
            f"vocab.tokenizer: {given} adds {len(new)} tokens, vocab.size is {size}; set vocab.size = {len(new)}, "
            "or 0 to keep the base tokenizer"
        )
    copy_tokenizer(tokenizer, given, out)
    texts = (tokenizer.decode([number]) for number, _ in new)
    return Growth(first_id, [NewToken(n, text, None, None, 0) for (n, _), text in zip(new, texts, strict=True)])


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a local folder; nothing is downloaded and no code of the folder is run.

    Raises:
        MissingInputError: there is none.
        RecipeError: it has no tokenizer.json form.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; give the folder of the base model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingInputError(
            f"{folder}: no tokenizer can be read ({' '.join(str(error).split())}); add its tokenizer.json"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise RecipeError(
            f"{folder}: {type(tokenizer).__name__} has no tokenizer.json form; choose a base model with byte-level BPE "
            "or SentencePiece BPE with byte fallback"
        )
    return tokenizer


def unreachable(tokenizer: PreTrainedTokenizerFast, ids: Collection[int], documents: Iterable[str] = ()) -> set[int]:
    """Those of `ids` that occur neither in the tokenization of their own text nor in that of a document."""
    left = set(ids)
    if not left:
        return left
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    family = family_of(Path(tokenizer.name_or_path), tokenizer, content)
    for number, string in zip(sorted(ids), tokenizer.convert_ids_to_tokens(sorted(ids)), strict=True):
        if any(number in encode_text(tokenizer, probe) for probe in family.probes(string)):
            left.remove(number)
    for document in documents:
        if not left:
            break
        left.difference_update(encode_text(tokenizer, document))
    return left


def family_of(base: Path, tokenizer: PreTrainedTokenizerFast, content: dict[str, Any]) -> ByteLevel | SentencePiece:
    """Which family a tokenizer belongs to; `content` is that of its tokenizer.json."""
    model = content["model"]
    kind = model["type"]
    if kind == "BPE" and model.get("byte_fallback"):
        return SentencePiece(tokenizer.backend_tokenizer, model["merges"])
    stages = content["pre_tokenizer"] or {}
    if kind == "BPE" and "ByteLevel" in {stage["type"] for stage in stages.get("pretokenizers", [stages]) if stage}:
        return ByteLevel(tokenizer.backend_tokenizer)
    raise RecipeError(
        f"{base}: a {kind} tokenizer without byte-level letters or byte fallback cannot be grown by further merges; "
        "choose a base model with byte-level BPE or SentencePiece BPE with byte fallback, or set the size to 0"
    )


def copy_tokenizer(tokenizer: PreTrainedTokenizerFast, base: Path, out: Path) -> None:
    """A copy of the base tokenizer, with its tokenizer.model where it has one."""
    try:
        tokenizer.save_pretrained(out)
        if (base / MODEL).is_file():
            shutil.copyfile(base / MODEL, out / MODEL)
    except OSError as error:
        raise storage_error(out, error) from error


def _beginning(documents: Iterable[str]) -> tuple[Iterable[str], list[str]]:
    """The documents again, and those of their first `SAMPLE` characters."""
    rest, head, size = iter(documents), list[str](), 0
    while size < SAMPLE and (document := next(rest, None)) is not None:
        head.append(document)
        size += len(document)
    return chain(head, rest), head


def _as_words(base: Path, family: Family, kind: str, sample: list[str], looks_up: Callable[[], bool]) -> bool:
    """Whether new tokens are whole words."""
    if kind == "merges":
        return False
    unspaced = unspaced_share("\n".join(sample)) > 0.5
    can = isinstance(family, ByteLevel) and not unspaced and family.may_look_up() and looks_up()
    if kind == "words" and unspaced:
        raise RecipeError('vocab.kind: the target text has no spaces between words; choose "merges"')
    if kind == "words" and not can:
        raise RecipeError(f'vocab.kind: the tokenizer of {base} cannot look whole words up; choose "merges"')
    return can


def _read_back(
    content: dict[str, Any], tokenizer: PreTrainedTokenizerFast, base: Path, keep_class: bool
) -> dict[str, Any]:
    """What transformers makes of this tokenizer.json beside the base's config.json, whose model type decides the class
    for some bases whatever the tokenizer says (Qwen 2: tokenization_auto.py of transformers 5)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_tokenizer(tokenizer, base, folder)
        if keep_class:
            _keep_class(folder / "tokenizer_config.json")
        (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))
        if (base / "config.json").is_file():
            shutil.copyfile(base / "config.json", folder / "config.json")
        return dict(json.loads(load_tokenizer(folder).backend_tokenizer.to_str()))


def _same_cuts(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two tokenizer.json have the same pre-tokenizer."""
    states = [Tokenizer.from_str(json.dumps(content)).pre_tokenizer.__getstate__() for content in (one, other)]
    return bool(states[0] == states[1])


def _keep_class(path: Path) -> None:
    """Let transformers read tokenizer.json as it is: some classes are built anew with a pre-tokenizer of their own."""
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2, ensure_ascii=False))


class _Guard:
    """The words that must keep their tokens: those of the English documents in all their spellings.

    Args:
        documents: read once.
        old: the base's tokenizer.
        scripts: whose words it cuts, and `family` does not.

    Attributes:
        recut: documents that are cut otherwise than by `old`, once the words are read.
    """

    def __init__(self, documents: Iterable[str], old: Tokenizer, family: Family, scripts: tuple[str, ...]) -> None:
        self._documents, self._old, self._family, self._scripts = documents, old, family, scripts
        self.recut = 0

    def words(self) -> Iterable[Word]:
        """Read the documents, once."""
        return self._family.words(_spellings(self._watched() if self._scripts else self._documents), whole=True)

    def _watched(self) -> Iterator[str]:
        for document in self._documents:
            self.recut += is_recut(self._old, self._family.backend, document, self._scripts)
            yield document


def _learn(family: Family, target: Iterable[str], guard: _Guard, size: int) -> tuple[dict[str, Piece], list[str]]:
    """Learn, drop what no text can reach, and go on until nothing is dropped any more.

    Returns:
        The pieces, and training words that hold those which their own text does not reach.
    """
    # Millions of lists and sets, no circles among them: looking for some took half of the time.
    gc.disable()
    try:
        return _learned(family, target, guard, size)
    finally:
        gc.enable()


def _learned(family: Family, target: Iterable[str], guard: _Guard, size: int) -> tuple[dict[str, Piece], list[str]]:
    learner = Learner(
        family.words(target),
        guard.words(),
        vocab=family.vocab,
        base_rank=family.base_rank,
        allowed=family.allowed,
        whole_words=family.whole_words,
    )
    while True:
        learner.learn(size)
        used = learner.in_use()
        dead = [string for string in learner.pieces if string not in used and not _reached(family, learner, string)]
        if not dead:
            words = sorted({used[string] for string in learner.pieces if string in used})
            return learner.pieces, [text for word in words for text in family.probes(word)]
        learner.remove(dead)


def _reached(family: Family, learner: Learner, string: str) -> bool:
    """Whether a piece occurs in the tokenization of one of its probes."""
    return any(string in learner.segment(word) for text in family.probes(string) for word in family.words([text], True))


def _spellings(documents: Iterable[str]) -> Iterator[str]:
    """The documents, then each of their words as it may also be met: lower, title and upper case, each with a space
    in front and without. A word seen once as " Moses" is thereby guarded in "MOSES" and at the start of a line."""
    words: set[str] = set()
    for document in documents:
        words.update(_WORD.findall(document))
        yield document
    for word in sorted(words):
        for spelling in sorted({word, word.lower(), word.title(), word.upper()}):
            yield f" {spelling}\n{spelling}"
