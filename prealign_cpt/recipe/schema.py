"""The recipe: everything that decides a run, as frozen dataclasses. file.py reads them.

Paths in a recipe are relative to the recipe's own file; `cache:NAME` names a file that `prealign fetch` brought;
`out` is relative to the current folder. Unknown keys, wrong types and impossible values raise `RecipeError` with the
key's full path.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prealign_cpt.run.cache import cache_folder

HELD_OUT_SETS = ("valid", "test", "general")
"""Names of the held-out texts: `text.valid_target`, `text.valid_english`, ..."""

SPLIT_SETS = ("valid", "test")
"""Those that are split off the training text where they are not named."""

SIDES = ("target", "english")

AUTO = -1
"""Stands for "auto" in a number that is to be chosen before the run; no stage behind the text ever sees it."""


def number(default: Any = dataclasses.MISSING, *, least: float | None = None, above: float | None = None,
           most: float | None = None, step: int = 1, auto: bool = False) -> Any:  # fmt: skip
    """A dataclass field with bounds: `least <= value <= most`, `value > above`, a multiple of `step` if an integer;
    or, where `auto` allows it, the string "auto"."""
    metadata = {"least": least, "above": above, "most": most, "step": step, "auto": auto}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that is extended."""

    model: str
    """`smollm2-135m`, a local Hugging Face folder, or a hub id such as `meta-llama/Llama-3.2-1B`."""
    start_token: str = ""
    """Separates documents and starts every text, alike in training, evaluation and parity; empty: measured, for the
    tokenizer's own BOS is not always what the model was trained with."""
    end_token: str = ""
    """Ends every document of the training text and is learned, so that the model stops where a text does; empty: the
    tokenizer's EOS. Where it is the start token, that token before the next document is the end of the last one."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One of several texts of a side, with a weight of its own. With `target` alone it is text in the new language,
    with `english` alone replay; with both it is parallel text, line n of one beside line n of the other, and counts as
    target text: its documents are a sentence and its translation, in either order. A run of several new languages has a
    source for each, with its language and its word list."""

    name: str
    """Of its own, a plain file name."""
    target: tuple[str, ...] = ()
    """As `text.target`."""
    english: tuple[str, ...] = ()
    """As `text.english`."""
    weight: float = number(0.0, least=0.0)
    """Its part of the side's sequences is its weight's of the side's weights. Either all sources of a side have one or
    none; without weights all of them are read equally often."""
    language: str = ""
    """Of `target`, as the recipe's `language`; empty: that one."""
    lexicon: str = ""
    """A word list of English and that language, beside `lexicon.path`; its words are switched, contrasted and held out
    with the others."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Files, folders, globs, or datasets of a hub ("hf:owner/name"): plain text, JSON lines, CSV, Parquet or Arrow, in
    UTF-8, packed or not."""

    target: tuple[str, ...] = ()
    """Training text in the new language."""
    english: tuple[str, ...] = ()
    """Training text in English, for replay and code-switching; empty, and without a source of that side: a default that
    is fetched."""
    source: tuple[Source, ...] = ()
    """More texts, each a table [[text.source]]."""
    document: Literal["auto", "file", "line", "paragraph"] = "auto"
    """What a document is in plain files; "paragraph": blank lines part documents. "auto": guessed, and said."""
    column: str = "text"
    """Key of JSON lines, or column of a table, that holds the document."""
    valid_target: str = ""
    valid_english: str = ""
    """Watched while training, and where choices are made; empty: split off the training text, by document."""
    test_target: str = ""
    test_english: str = ""
    """Scored once per variant, for the result table; empty: split off the training text, by document."""
    general_target: str = ""
    general_english: str = ""
    """A second held-out pair from another domain; empty: not reported."""
    parallel_target: str = ""
    parallel_english: str = ""
    """Sentences and their translations, line n of one file beside line n of the other; for `align.objective`
    "infoxlm" and "afp", and for `prealign chat`."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The word list, English to target."""

    path: str = ""
    """Empty: no list, and so no switching, no contrast and no word retrieval."""
    format: Literal["auto", "tsv", "muse", "columns", "dictd", "wiktionary", "dix"] = "auto"
    """docs/lexicons.md says what each one is; "auto" recognises them."""
    swapped: bool = False
    """The target language stands first in the list, English second."""
    heldout: float = number(0.1, least=0.0, most=0.5)
    """Share of the source words that are kept for evaluation."""
    max_translations: int = number(5, least=1)
    """Of each source word, so many are kept, in the order of the file."""


@dataclass(frozen=True, kw_only=True)
class Vocab:
    """New tokens on top of the base tokenizer, learned from the target text."""

    size: int = number(AUTO, least=0, auto=True)
    """How many; 0 keeps the base tokenizer. "auto": what short trials predict to be best (`prealign sizes`)."""
    kind: Literal["auto", "words", "merges"] = "auto"
    """Whole words, which the tokenizer looks up before its merges (as Llama 3's does), or further merges. "auto": words
    where the tokenizer is of the byte-level kind and the text has spaces between words. llama.cpp reads words of a few
    tokenizers only (docs/export.md)."""
    pretokenizer: Literal["auto", "base"] = "auto"
    """"auto": words that the base's pre-tokenizer cuts at vowel signs or vocalisation (Hindi, Thai, Arabic on most
    byte-level bases) are left whole, for scripts of which every tenth word is cut; other text is cut as before. "base":
    never. llama.cpp reads no changed pre-tokenizer."""
    tokenizer: str = ""
    """Folder of a ready grown tokenizer, taken instead of learning one. The base's tokens must keep their ids in it,
    and `size` must be the number of tokens that it adds. With size 0 it is not read."""


@dataclass(frozen=True, kw_only=True)
class Align:
    """Rows of the new tokens: a static start, then a training stage."""

    init: Literal["pieces", "mean", "subword", "lexicon", "subword+lexicon", "file"] = "pieces"
    """The static start (docs/method.md says what each one is); "file" takes the rows from `rows`."""
    untie: Literal["auto", "yes", "no"] = "auto"
    """Whether a tied base gets a head of its own when it gets new tokens, so that each has two rows; it grows by a
    table. "auto": with init "pieces"."""
    rows: str = ""
    """safetensors with `input` [new tokens, hidden size] and, for an untied head, `output`; only for init "file"."""
    lexicon_weight: float = number(0.1, least=0.0, most=1.0)
    """Share of the lexicon's mean in a row whose token is a listed word, for init "subword+lexicon"."""
    calibrate: float = number(1.0, least=0.0, most=1.0)
    """How far the output rows are shifted: towards what tells their places apart, and so that target text expects each
    new token as often as it stands there and its first piece leads to it, and English text hardly; 0: not at all. The
    base model reads 16,384 tokens of target training text for it, and 3,000 of English."""
    steps: int = number(100, least=0)
    """Steps of the training stage behind the static start; 0 leaves it out."""
    lr: float = number(1e-3, above=0.0)
    """Learning rate of the first step; it falls in a line to 0."""
    trains: Literal["new_rows", "embeddings", "all"] = "new_rows"
    """What moves: the new rows; all rows; everything."""
    distill: float = number(1.0, least=0.0)
    """Weight of the distillation: the base model, reading target text in its own tokens, teaches the new rows what they
    stand for; 0 leaves it out."""
    distill_tokens: int = number(2048, least=1)
    """New-tokenization tokens of target training text that it reads in each step, over all ranks; fewer where one
    reading of the text, spread over the steps, is less."""
    distill_to: Literal["states", "logits"] = "states"
    """What is compared: hidden states behind a third of the blocks, or next-token distributions behind all of them, at
    about three times the cost."""
    objective: Literal["prealign", "veco", "infoxlm", "afp"] = "prealign"
    """What is learned of the lexicon: a word and its translation agree at every layer (PreAlign). The others are of
    the laboratory: docs/method.md; "infoxlm" and "afp" need `text.parallel_*`."""
    weight: float = number(0.1, least=0.0)
    """Weight of the objective beside the other losses; 0 leaves it out."""
    words: int = number(64, least=2)
    """Units in a batch, over all ranks; every other unit of the batch is a negative."""
    anchor_tokens: int = number(0, least=0)
    """English tokens in a language-model loss of each step, which also moves output rows; 0 leaves it out."""
    target_tokens: int = number(0, least=0, step=128)
    """Tokens of target training text in another, in windows of 128; 0 leaves it out. Like the text of the distillation
    it is training text: a fair control reads as much."""
    max_english_increase: float = number(0.02, least=0.0)
    """Gate: the stage fails if English bits per byte (validation text) rise by more than this."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Packed sequences."""

    sequence_length: int = number(AUTO, least=8, auto=True)
    """In tokens. "auto": by the length of the text, at most the model's own limit."""
    english_share: float = number(0.25, least=0.0, most=0.95)
    """Share of the sequences that are English replay."""
    mixed_tokenization: float = number(0.0, least=0.0, most=1.0)
    """Probability per word that target text is spelled in the base tokenizer's tokens instead of the new ones."""


@dataclass(frozen=True, kw_only=True)
class Codeswitch:
    """Replacement of English words by translations in the replay text."""

    ratio: float = number(0.05, least=0.0, most=1.0)
    """Probability per word, before the lexicon is asked; the realised share is reported."""
    labels: Literal["input_only", "vanilla", "soft"] = "input_only"
    """`input_only`: labels stay English (PreAlign); `vanilla`: the labels are switched too (ablation); `soft`: before
    a switched word, `soft_weight` of the target probability is its translation's first token (AlignLM)."""
    soft_weight: float = number(0.1, above=0.0, most=1.0)
    """For labels "soft"."""
    curriculum: Literal["constant", "falling"] = "constant"
    """`falling`: the share of replay that is switched falls in a line from all of it to none over the run."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Continual pretraining under FSDP2."""

    method: Literal["full", "lora", "qlora", "rows"] = "full"
    """What moves: `full`, everything; `lora`, new tokens' rows and low-rank adapters on the blocks' linears; `qlora`,
    the same with these linears in 4 bits (needs bitsandbytes); `rows`, new tokens' rows alone."""
    lora_rank: int = number(16, least=1)
    """Rank of the adapters."""
    lora_alpha: float = number(32.0, above=0.0)
    """An adapter's product counts `lora_alpha / lora_rank` times."""
    steps: int = number(AUTO, least=1, auto=True)
    """Optimizer steps. "auto": as many as read the target text once, or several times where it is short."""
    sequences: int = number(AUTO, least=1, auto=True)
    """Sequences per optimizer step, over all ranks; the same batch at any number of ranks. "auto": by the length of the
    text."""
    micro_batch: int = number(4, least=1)
    """Sequences per rank in one forward pass; the rest is gradient accumulation."""
    lr: float = number(2e-4, above=0.0)
    """Highest learning rate."""
    embeddings_lr: float = number(0.0, least=0.0)
    """Highest learning rate of the old tokens' rows, in the embedding and the head; 0: the same as `lr`."""
    rows_lr: float = number(0.0, least=0.0)
    """Learning rate of the new tokens' rows; 0: the same as `lr`. Five times `lr` is better where the base reads letter
    by letter, as in Hindi."""
    composition_lr: float = number(1e-3, least=0.0)
    """Learning rate of the map by which new input rows move together, from the old tokens that spell theirs; 0: no map.
    It rises and falls with that of the new rows."""
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
    """AdamW's, of all but vectors (norms and biases)."""
    clip: float = number(1.0, above=0.0)
    """Largest norm of the gradient."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` keeps the moments of the body's matrices in 8 bits (needs bitsandbytes); embeddings and head stay in
    32 bits."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """What is computed in; weights and moments are kept in 32 bits."""
    checkpoint_activations: Literal["none", "selective", "full", "auto"] = "none"
    """What the backward pass computes again: nothing; all but the results of matrix products and attention; whole
    blocks; "auto": the least of these with which a step fits into the GPU's free memory, and on a CPU nothing."""
    offload: bool = False
    """Keep weights, gradients and moments in host memory and update them there; a GPU then holds what a step works on.
    It costs time at every step; on a CPU it changes nothing."""
    compile: bool = False
    """Compile each block with torch.compile; needs a C++ compiler on CPU and Triton on CUDA."""
    replicas: int = number(1, least=1)
    """Copies of the sharded model (hybrid sharding): a node each, for example, so that weights are gathered within a
    node and only gradients cross nodes. Must divide the number of ranks."""
    eval_every: int = number(AUTO, least=1, auto=True)
    """Steps between two looks at the validation text. "auto": a tenth of the steps."""
    save_every: int = number(AUTO, least=1, auto=True)
    """Steps between two checkpoints. "auto": a fifth of the steps, at most 500."""
    keep: int = number(2, least=2)
    """Newest checkpoints to keep."""
    save_at: Literal["none", "log"] = "none"
    """`log`: the weights after the steps 1, 2, 4, 8, ... are kept too, beside the checkpoints and for good, for
    `prealign trajectory` and `prealign export RUN --step N`."""
    log: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the figures of metrics.jsonl go beside it, each with the extra of its name: TensorBoard (in the run's
    train/tensorboard), Weights & Biases, Trackio."""

    def is_milestone(self, step: int) -> bool:
        """Whether the weights after a step are kept; after the last one its checkpoint stays."""
        return self.save_at == "log" and 0 < step < self.steps and step.bit_count() == 1


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How held-out text is scored."""

    window_bytes: int = number(1024, least=64)
    """Longest window that is scored in one go: bytes, not tokens, so that no tokenizer sees more context."""
    max_bytes: int = number(24_000, least=64)
    """Of each held-out text, so many bytes are scored."""
    batch_tokens: int = number(4096, least=64)
    """Tokens in one forward pass; no figure depends on it."""
    clka: str = ""
    """Questions about facts that stand in the training text in the other language (JSON lines, `prealign clone`)."""
    transfer_train: str = ""
    transfer_test: str = ""
    """Zero-shot transfer: `label TAB text` lines, English to train a classifier on, target text to test it on."""
    mixed_prompts: int = number(0, least=0)
    """Held-out prompts of each language that are continued, to count letters of the other language's script in what
    the model writes; 0: not measured."""
    before_training: bool = True
    """Score the base model and the extended one before training too, not only the trained model."""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """Instructions after continual pretraining, for `prealign chat`; no other command reads them. Precision,
    micro-batches, adapters' rank and the like are those of `train`."""

    instructions: tuple[str, ...] = ()
    """English instructions and their answers, JSON lines with the keys `instruction`, `input`, `output`, or
    `messages`."""
    instructions_target: tuple[str, ...] = ()
    """Translations of these files, or of the first of them, file for file and line for line; without `instructions`,
    ones that there are in the new language alone."""
    cross: float = number(0.5, least=0.0, most=1.0)
    """Probability that an instruction which is there in both languages is answered in the other one."""
    translations: float = number(0.25, least=0.0, most=1.0)
    """Share of the conversations that ask for a translation, in either direction, where there is parallel text
    (`text.parallel_*`, a source with both sides); without instruction files all do."""
    template: str = ""
    """File with a chat template (Jinja); empty: the base's."""
    method: Literal["full", "lora", "qlora"] = "full"
    """What moves, as `train.method`."""
    steps: int = number(500, least=1)
    """Optimizer steps."""
    sequences: int = number(16, least=1)
    """Rows per optimizer step, over all ranks, each with as many whole conversations as it has room for."""
    sequence_length: int = number(512, least=32)
    """Of a row, in tokens; longer conversations are left out."""
    lr: float = number(0.0, least=0.0)
    """Highest learning rate; 0: 1e-5, as in AFP, and 2e-4 for adapters."""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """The vLLM server."""

    max_model_len: int = number(0, least=0)
    """Longest sequence; 0: the model's own limit, on a CPU at most 8,192."""
    prompts_target: tuple[str, ...] = ()
    prompts_english: tuple[str, ...] = ()
    """Asked of the served model at the end of the demo."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run. The run folder is `out/name`."""

    name: str
    """The run's; a plain folder name."""
    language: str
    """The target language: an English name ("Swahili") or a BCP 47 code ("sw", "swh_Latn")."""
    base: Base
    text: Text
    lexicon: Lexicon = field(default_factory=Lexicon)
    vocab: Vocab = field(default_factory=Vocab)
    align: Align = field(default_factory=Align)
    data: Data = field(default_factory=Data)
    codeswitch: Codeswitch = field(default_factory=Codeswitch)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    chat: Chat = field(default_factory=Chat)
    serve: Serve = field(default_factory=Serve)
    out: str = "runs"
    """Folder of runs."""
    seed: int = number(0, least=0)
    """Of all that is drawn by chance."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the stages compute; "auto": on CUDA where there is a GPU."""
    folder: Path = field(default=Path("."), metadata={"given": False})
    """Where the recipe's file lies; set by `load_recipe`."""

    @property
    def num_sequences(self) -> int:
        """Sequences of the whole run."""
        return self.train.steps * self.train.sequences

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.out) / self.name

    def path(self, value: str) -> Path:
        """The file that a path of the recipe means."""
        if value.startswith("hf:"):
            return Path(value)
        if value.startswith("cache:"):
            return cache_folder() / value.removeprefix("cache:")
        return self.folder / Path(value).expanduser()

    def paths(self, values: tuple[str, ...]) -> list[Path]:
        """`path` of each value."""
        return [self.path(value) for value in values]

    def sources(self, side: str) -> list[Source]:
        """The training texts of a side: its plain list, as a source called after it, and the sources that name it;
        parallel text is of the side "target"."""
        plain = getattr(self.text, side)
        found = [Source(name=side, **{side: plain})] if plain else []
        return found + [one for one in self.text.source if (side == "target") == bool(one.target)]

    @property
    def languages(self) -> list[str]:
        """The new languages: those that sources of target text name, and `language` where one names none."""
        return list(dict.fromkeys(source.language or self.language for source in self.sources("target")))

    def word_lists(self) -> list[tuple[str, str, str]]:
        """Name of the source, path as the recipe has it, and language of every word list; `lexicon.path` is the first,
        and called after `text.target`."""
        whole = [("target", self.lexicon.path, self.language)] if self.lexicon.path else []
        lists = [(one.name, one.lexicon, one.language or self.language) for one in self.text.source if one.lexicon]
        return whole + lists

    def weights(self, side: str) -> list[float]:
        """Of the side's sources, summing to 1; empty where they have none."""
        given = [source.weight for source in self.sources(side)]
        return [weight / sum(given) for weight in given] if any(given) else []

    def held_out(self, name: str, side: str) -> Path | None:
        """The held-out text of a set ("valid", "test", "general") and a side: the file that the recipe names, or what
        the text stage has split off; None for a general set that is not named."""
        if named := getattr(self.text, f"{name}_{side}"):
            return self.path(named)
        return self.run / "text" / f"{side}.{name}.jsonl" if name in SPLIT_SETS else None

    def named_held_out(self) -> list[Path]:
        """The held-out texts that the recipe names."""
        names = [getattr(self.text, f"{name}_{side}") for name in HELD_OUT_SETS for side in SIDES]
        return [self.path(name) for name in names if name]

    def question_files(self) -> list[Path]:
        """The files for CLKA and zero-shot transfer, those that are named."""
        settings = self.evaluate
        names = (settings.clka, settings.transfer_train, settings.transfer_test)
        return [self.path(name) for name in names if name]
