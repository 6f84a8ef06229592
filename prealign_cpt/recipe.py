"""The recipe: everything that decides a run, as frozen dataclasses read from TOML and overridden by flags.

    launch/recipes/demo_de.toml + ["--train.steps", "10"]  -->  Recipe

Paths in a recipe are relative to the recipe's own file; `cache:NAME` names a file that `prealign fetch` brought;
`out` is relative to the current folder. Unknown keys, wrong types and impossible values raise `RecipeError` with the
key's full path.
"""

import dataclasses
import json
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prealign_cpt.errors import MissingInputError, RecipeError
from prealign_cpt.fetch.cache import cache_folder


def number(default: Any = dataclasses.MISSING, *, least: float | None = None, above: float | None = None,
           most: float | None = None, step: int = 1) -> Any:  # fmt: skip
    """A dataclass field with bounds: `least <= value <= most`, `value > above`, a multiple of `step` if an integer."""
    metadata = {"least": least, "above": above, "most": most, "step": step}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that is extended."""

    model: str
    """`smollm2-135m`, a local Hugging Face folder, or a hub id such as `meta-llama/Llama-3.2-1B`."""
    start_token: str
    """Separates documents and starts every text, alike in training, evaluation and parity. Choose it by measurement:
    the tokenizer's own BOS is not always what the model was trained with."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Plain text (documents separated by blank lines) or JSON lines with a `text` key, UTF-8."""

    target: tuple[str, ...]
    """Training text in the new language."""
    english: tuple[str, ...]
    """Training text in English, for replay and code-switching."""
    valid_target: str
    valid_english: str
    """Watched while training, and where choices are made."""
    test_target: str
    test_english: str
    """Scored once per arm, for the result table."""
    general_target: str = ""
    general_english: str = ""
    """A second held-out pair from another domain; empty: not reported."""
    parallel_target: str = ""
    parallel_english: str = ""
    """Sentences and their translations, line n of one file beside line n of the other; for `align.unit` "sentence"."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The word list, English to target."""

    path: str
    format: Literal["tsv", "muse", "dictd"] = "tsv"
    heldout: float = number(0.1, least=0.0, most=0.5)
    """Share of the source words that are kept for evaluation."""
    max_translations: int = number(5, least=1)


@dataclass(frozen=True, kw_only=True)
class Vocab:
    """New pieces, learned by further merges on top of the base tokenizer."""

    size: int = number(least=0)
    """How many; 0 keeps the base tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Align:
    """Rows of the new tokens: a static start, then the contrastive stage (PreAlign, arXiv 2407.16222, section 3)."""

    init: Literal["mean", "subword", "lexicon", "subword+lexicon", "vecmap", "focus", "wechsel", "file"] = (
        "subword+lexicon"
    )
    """The static start (docs/method.md says what each one is); "file" takes the rows from `rows`."""
    rows: str = ""
    """safetensors with `input` [new tokens, hidden size] and, for an untied head, `output`; only for init "file"."""
    lexicon_weight: float = number(0.1, least=0.0, most=1.0)
    """Share of the lexicon's mean in a row whose token is a listed word, for init "subword+lexicon"."""
    shrink: float = number(1.0, least=0.0, most=1.0)
    """Output rows are `mean + shrink * (row - mean)`: less than 1 leaves English more of its probability mass. The
    vocabulary stage makes no piece that occurs in English text, so there is little to save, and in a model with a tied
    head shrinking costs the target language its input rows."""
    match_norm: bool = False
    """Scale each new output row to the mean norm of the old ones, before it is shrunk."""
    steps: int = number(least=0)
    """Steps of the training stage behind the static start; 0 leaves it out."""
    lr: float = number(2e-3, above=0.0)
    trains: Literal["new_rows", "embeddings", "first_blocks", "all"] = "new_rows"
    """What moves: the new rows; all rows; all rows and the first `blocks` blocks; everything."""
    blocks: int = number(2, least=1)
    """How many blocks move under trains "first_blocks"."""
    weight: float = number(0.1, least=0.0)
    """Weight of the contrastive loss beside the language-model losses; 0 leaves it out."""
    unit: Literal["word", "word-in-context", "sentence"] = "word"
    """What is contrasted: listed words by themselves (PreAlign), listed words inside English and switched sentences
    (VECO 2.0), or parallel sentences (InfoXLM, AFP), for which `text.parallel_*` must be given."""
    words: int = number(64, least=2)
    """Units in a batch, over all ranks; every other unit of the batch is a negative."""
    queue: int = number(0, least=0)
    """Units of earlier batches that are kept as further negatives."""
    pooling: Literal["mean", "last"] = "mean"
    """A unit's vector: the mean over its tokens, or its last token."""
    layers: tuple[int, ...] = ()
    """Layers that are contrasted, 0 the embeddings; empty: all of them, and the head's rows where it is not tied."""
    temperature: float = number(0.1, above=0.0)
    symmetric: bool = True
    """Every unit is an anchor; false: only the English ones are."""
    freeze_english: bool = True
    """No gradient through English vectors. With trains "new_rows" they cannot move anyway."""
    distill_weight: float = number(0.0, least=0.0)
    """Weight of distilling the original tokenization: after target text in new tokens the model must predict what the
    base model predicts after the same text in old tokens. Reads `distill_tokens` of target text in each step."""
    distill_tokens: int = number(512, least=128, step=128)
    switch_weight: float = number(0.0, least=0.0)
    """Weight of switch-distillation: after an English sentence with words replaced by translations the model must
    predict what it predicts after the original. Reads `switch_tokens` of English text in each step."""
    switch_tokens: int = number(512, least=128, step=128)
    anchor_tokens: int = number(4096, least=0)
    """English tokens in the language-model loss of each step."""
    target_tokens: int = number(512, least=0, step=128)
    """Tokens of target training text in it, in windows of 128. It is training text: a fair control reads as much."""
    max_english_increase: float = number(0.02, least=0.0)
    """Gate: the stage fails if English bits per byte (validation text) rise by more than this."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Packed sequences."""

    sequence_length: int = number(least=8)
    english_share: float = number(0.25, least=0.0, most=0.95)
    """Share of the sequences that are English replay."""
    mixed_tokenization: float = number(0.0, least=0.0, most=1.0)
    """Probability per word that target text is spelled in the base tokenizer's pieces instead of the new ones."""


@dataclass(frozen=True, kw_only=True)
class Codeswitch:
    """Replacement of English words by translations in the replay text."""

    ratio: float = number(0.05, least=0.0, most=1.0)
    """Probability per word, before the lexicon is asked; the realised share is reported."""
    labels: Literal["input_only", "vanilla", "soft"] = "input_only"
    """`input_only`: labels stay English (PreAlign); `vanilla`: the labels are switched too (ablation); `soft`: before
    a switched word, `soft_weight` of the target probability is its translation's first token (AlignLM)."""
    soft_weight: float = number(0.1, above=0.0, most=1.0)
    curriculum: Literal["constant", "falling"] = "constant"
    """`falling`: the share of replay that is switched falls in a line from all of it to none over the run."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Continual pretraining under FSDP2."""

    steps: int = number(least=1)
    sequences: int = number(least=1)
    """Sequences per optimizer step, over all ranks; the same batch at any number of ranks."""
    micro_batch: int = number(4, least=1)
    """Sequences per rank in one forward pass; the rest is gradient accumulation."""
    lr: float = number(3e-4, above=0.0)
    rows_lr: float = number(0.0, least=0.0)
    """Learning rate of the new tokens' rows; 0: the same as `lr`."""
    rows_steps: int = number(0, least=0)
    """Steps at the beginning in which only the new rows move."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """After the warm-up: constant, then falling in a line (warm-up, stable, decay); or falling in a cosine all along.
    Both end at a tenth."""
    warmup: float = number(0.1, least=0.0, most=1.0)
    """Share of the steps in which the learning rate rises to `lr`."""
    decay: float = number(0.3, least=0.0, most=1.0)
    """Share of the steps, at the end, in which it falls under schedule "wsd"."""
    weight_decay: float = number(0.1, least=0.0)
    clip: float = number(1.0, above=0.0)
    """Largest norm of the gradient."""
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpoint_activations: bool = False
    eval_every: int = number(least=1)
    save_every: int = number(least=1)
    keep: int = number(2, least=2)
    """Newest checkpoints to keep."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How held-out text is scored."""

    window_bytes: int = number(1024, least=64)
    """Longest piece that is scored in one go: bytes, not tokens, so that no tokenizer sees more context."""
    max_bytes: int = number(24_000, least=64)
    """Of each held-out text, so many bytes are scored."""
    batch_tokens: int = number(4096, least=64)
    clka: str = ""
    """Questions about facts that stand in the training text in the other language (JSON lines, `prealign clone`)."""
    transfer_train: str = ""
    transfer_test: str = ""
    """Zero-shot transfer: `label TAB text` lines, English to train a classifier on, target text to test it on."""
    arms: bool = True
    """Score the base model, mean rows, static rows and aligned rows too, not only the trained model."""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """The vLLM server."""

    max_model_len: int = number(512, least=16)
    prompts_target: tuple[str, ...] = ()
    prompts_english: tuple[str, ...] = ()
    """Asked of the served model at the end of the demo."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run. The run folder is `out/name`."""

    name: str
    language: str
    """Name of the target language, for reports."""
    base: Base
    text: Text
    lexicon: Lexicon
    vocab: Vocab
    align: Align
    data: Data
    codeswitch: Codeswitch = field(default_factory=Codeswitch)
    train: Train
    evaluate: Evaluate = field(default_factory=Evaluate)
    serve: Serve = field(default_factory=Serve)
    out: str = "runs"
    seed: int = number(0, least=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    folder: Path = field(default=Path("."), metadata={"given": False})
    """Where the recipe's file lies; set by `load_recipe`."""

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.out) / self.name

    def path(self, value: str) -> Path:
        """The file that a path of the recipe means."""
        if value.startswith("cache:"):
            return cache_folder() / value.removeprefix("cache:")
        return self.folder / Path(value).expanduser()

    def paths(self, values: tuple[str, ...]) -> list[Path]:
        """`path` of each value."""
        return [self.path(value) for value in values]


def load_recipe(path: Path, flags: list[str] | None = None) -> Recipe:
    """Read a recipe and apply flags such as `--train.steps 10` or `--train.steps=10`.

    Raises:
        MissingInputError: no such file.
        RecipeError: not TOML, an unknown key, a wrong type, or a value out of its bounds.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MissingInputError(f"{path}: no such recipe; the ones that ship lie in launch/recipes/") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    for key, text in _pairs(flags or []):
        _set(content, key, text)
    recipe = _build(Recipe, content, "")
    recipe = dataclasses.replace(recipe, folder=path.parent)
    _check_whole(recipe)
    return recipe


def as_dict(value: Any) -> Any:
    """A recipe or one of its sections as plain JSON types, without `folder`."""
    if dataclasses.is_dataclass(value):
        return {f.name: as_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if _given(f)}
    return list(value) if isinstance(value, tuple) else value


def as_toml(recipe: Recipe) -> str:
    """The recipe as TOML, defaults and flags included."""
    top, sections = [], []
    for key, value in as_dict(recipe).items():
        if isinstance(value, dict):
            sections.append("\n".join([f"\n[{key}]", *(f"{k} = {_toml(v)}" for k, v in value.items())]))
        else:
            top.append(f"{key} = {_toml(value)}")
    return "\n".join(top + sections) + "\n"


def keys(kind: type = Recipe, prefix: str = "") -> list[str]:
    """Every key that a recipe or a flag may set, as dotted paths."""
    found: list[str] = []
    for f, kind_of_field in _fields(kind):
        inner = (
            keys(typing.cast(type, kind_of_field), f"{prefix}{f.name}.")
            if dataclasses.is_dataclass(kind_of_field)
            else None
        )
        found += inner if inner is not None else [prefix + f.name]
    return found


def _given(f: "dataclasses.Field[Any]") -> bool:
    return bool(f.metadata.get("given", True))


def _fields(kind: Any) -> list[tuple["dataclasses.Field[Any]", Any]]:
    hints = typing.get_type_hints(kind)
    return [(f, hints[f.name]) for f in dataclasses.fields(kind) if _given(f)]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return repr(value)


def _pairs(flags: list[str]) -> list[tuple[str, str]]:
    pairs, rest = [], list(flags)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise RecipeError(f"{flag!r}: expected a flag such as --train.steps 10")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise RecipeError(f"--{key}: a value is missing")
            text = rest.pop(0)
        pairs.append((key, text))
    return pairs


def _set(content: dict[str, Any], key: str, text: str) -> None:
    """Put a flag's text into the parsed TOML, read as TOML if it can be (numbers, lists), else as a string."""
    if key not in keys():
        raise RecipeError(f"--{key}: unknown key{_closest(key, keys())}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if _kind(key) is str and not isinstance(value, str):
        value = text
    *sections, name = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise RecipeError(f"{section}: expected a section [{section}], got {content!r}")
    content[name] = value


def _kind(key: str) -> Any:
    kind: Any = Recipe
    for name in key.split("."):
        kind = typing.get_type_hints(kind)[name]
    return kind


def _closest(key: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(known)}"


def _build(kind: Any, content: dict[str, Any], prefix: str) -> Any:
    known = {f.name: (f, hint) for f, hint in _fields(kind)}
    values = {}
    for key, value in content.items():
        if key not in known:
            raise RecipeError(f"{prefix}{key}: unknown key{_closest(key, list(known))}")
        values[key] = _value(known[key][1], value, prefix + key, known[key][0].metadata)
    for name, (f, _) in known.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{prefix}{name}: missing; add it to the recipe")
    return kind(**values)


def _value(kind: Any, value: Any, key: str, bounds: "types.MappingProxyType[Any, Any]") -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise RecipeError(f"{key}: expected a section [{key}], got {value!r}")
        return _build(kind, value, key + ".")
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise RecipeError(f"{key}: {value!r} is not one of {', '.join(map(repr, choices))}")
        return value
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(value, list) or not all(type(v) is inner for v in value):
            example = 'a list of strings such as ["a.txt"]' if inner is str else "a list of numbers such as [0, 4]"
            raise RecipeError(f"{key}: expected {example}, got {value!r}")
        if inner is int and any(v < 0 for v in value):
            raise RecipeError(f"{key}: {value!r} holds a number below 0")
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise RecipeError(f"{key}: expected {_NAMES[kind]}, got {value!r} ({type(value).__name__})")
    if kind is float and not math.isfinite(value):
        raise RecipeError(f"{key}: {value!r} is not a finite number")
    least, above, most = bounds.get("least"), bounds.get("above"), bounds.get("most")
    if least is not None and not value >= least:
        raise RecipeError(f"{key}: {value!r} is too small, it must be at least {least}")
    if above is not None and not value > above:
        raise RecipeError(f"{key}: {value!r} is too small, it must be above {above}")
    if most is not None and not value <= most:
        raise RecipeError(f"{key}: {value!r} is too large, it may be at most {most}")
    if kind is int and value % bounds.get("step", 1):
        raise RecipeError(f"{key}: {value!r} must be a multiple of {bounds['step']}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _check_whole(recipe: Recipe) -> None:
    """What one key alone cannot tell."""
    if not recipe.name or set(recipe.name) & set("/\\\0\n") or recipe.name.startswith("."):
        raise RecipeError(f"name: {recipe.name!r} must be a plain folder name")
    for key in ("target", "english"):
        if not getattr(recipe.text, key):
            raise RecipeError(f"text.{key}: empty; name at least one file")
    if bool(recipe.text.general_target) != bool(recipe.text.general_english):
        raise RecipeError("text.general_target: needs text.general_english beside it, and the other way round")
    if bool(recipe.text.parallel_target) != bool(recipe.text.parallel_english):
        raise RecipeError("text.parallel_target: needs text.parallel_english beside it, and the other way round")
    if bool(recipe.evaluate.transfer_train) != bool(recipe.evaluate.transfer_test):
        raise RecipeError("evaluate.transfer_train: needs evaluate.transfer_test beside it, and the other way round")
    align = recipe.align
    if (align.init == "file") != bool(align.rows):
        raise RecipeError('align.rows: names the rows of align.init "file", and belongs to it alone')
    if align.unit == "sentence" and align.steps and align.weight and not recipe.text.parallel_target:
        raise RecipeError('align.unit: "sentence" needs text.parallel_target and text.parallel_english')
    if recipe.train.rows_steps >= recipe.train.steps:
        raise RecipeError(
            f"train.rows_steps: {recipe.train.rows_steps} leaves no step of {recipe.train.steps} to the body"
        )
    if recipe.train.warmup + recipe.train.decay > 1:
        raise RecipeError(
            f"train.decay: warmup {recipe.train.warmup} and decay {recipe.train.decay} are together more than 1"
        )
