"""What many tests need: a tiny real tokenizer, a tiny real model, text in two languages, and gloo ranks."""

import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run import signals, tasks
from prealign_cpt.text.stage import build_text

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)

RANKS = multiprocessing.get_context("forkserver")
"""Ranks are forked from one server that has imported what they need, and where nothing has run: as clean as new
processes, without the ten seconds of imports each."""
RANKS.set_forkserver_preload(["tests.faults.runs"])

ENGLISH = [
    "The old house stands near the river. A small dog sleeps in front of the house.\nThe water is cold and clear.",
    "In the morning the children walk to school. They carry bread and water.\nThe road is long.",
    "My brother reads a book about the sea. The book is old, but the words are beautiful.\nHe reads all night.",
    "A king had three daughters. The youngest daughter loved the garden.\nEvery day she walked under the trees.",
    "The city sleeps. The river runs through the city, and the moon is on the water.\nNobody speaks.",
]
TARGET = [
    "Das alte Haus steht am Fluss. Ein kleiner Hund schläft vor dem Haus.\nDas Wasser ist kalt und klar.",
    "Am Morgen gehen die Kinder zur Schule. Sie tragen Brot und Wasser.\nDie Straße ist lang.",
    "Mein Bruder liest ein Buch über das Meer. Das Buch ist alt, aber die Worte sind schön.\nEr liest die ganze Nacht.",
    "Ein König hatte drei Töchter. Die jüngste Tochter liebte den Garten.\nJeden Tag ging sie unter die Bäume.",
    "Die Stadt schläft. Der Fluss läuft durch die Stadt, und der Mond ist auf dem Wasser.\nNiemand spricht.",
]
PAIRS = [
    ("house", "Haus"), ("house", "Gebäude"), ("water", "Wasser"), ("river", "Fluss"), ("dog", "Hund"),
    ("children", "Kinder"), ("school", "Schule"), ("bread", "Brot"), ("road", "Straße"), ("brother", "Bruder"),
    ("book", "Buch"), ("sea", "Meer"), ("words", "Worte"), ("king", "König"), ("daughter", "Tochter"),
    ("garden", "Garten"), ("trees", "Bäume"), ("city", "Stadt"), ("moon", "Mond"), ("morning", "Morgen"),
    ("night", "Nacht"), ("day", "Tag"), ("old", "alt"), ("cold", "kalt"), ("clear", "klar"),
]  # fmt: skip
START = "<|endoftext|>"


def make_tokenizer(texts: list[str], vocab_size: int = 420) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the GPT-2 kind."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=START, eos_token=START)


def make_model(
    vocab_size: int, tied: bool = True, layers: int = 2, hidden: int = 32, spread: float = 0.2
) -> LlamaForCausalLM:
    """A tiny Llama with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=spread,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Commands install signal handlers; no test sees those of another."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    signals._requested, signals._deferred = None, False
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that read text are forked like the ranks, not started anew; tests/run/test_tasks.py has such."""
    own = SimpleNamespace(get_context=lambda _: RANKS, active_children=multiprocessing.active_children)
    monkeypatch.setattr(tasks, "multiprocessing", own)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(ENGLISH * 4)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A base model as a Hugging Face folder: tied, English tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe_file(tmp_path: Path, base_folder: Path) -> Path:
    """A whole recipe over the tiny base and texts of a few sentences; runs in seconds."""
    (tmp_path / "target.txt").write_text("\n\n".join(TARGET[:4] * 8), encoding="utf-8")
    (tmp_path / "english.txt").write_text("\n\n".join(ENGLISH[:4] * 8), encoding="utf-8")
    (tmp_path / "valid_target.txt").write_text(TARGET[4], encoding="utf-8")
    (tmp_path / "valid_english.txt").write_text(ENGLISH[4], encoding="utf-8")
    (tmp_path / "test_target.txt").write_text(TARGET[4].upper(), encoding="utf-8")
    (tmp_path / "test_english.txt").write_text(ENGLISH[4].upper(), encoding="utf-8")
    (tmp_path / "lexicon.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in PAIRS), encoding="utf-8")
    path = tmp_path / "tiny.toml"
    path.write_text(
        f"""
name = "tiny"
language = "German"
out = "{tmp_path / "runs"}"
device = "cpu"
[base]
model = "{base_folder}"
start_token = "{START}"
[text]
target = ["target.txt"]
english = ["english.txt"]
valid_target = "valid_target.txt"
valid_english = "valid_english.txt"
test_target = "test_target.txt"
test_english = "test_english.txt"
[lexicon]
path = "lexicon.tsv"
heldout = 0.2
[vocab]
size = 30
[align]
steps = 3
words = 8
max_english_increase = 5.0
[data]
sequence_length = 32
[codeswitch]
ratio = 0.5
[train]
steps = 6
sequences = 4
micro_batch = 2
precision = "fp32"
eval_every = 3
save_every = 2
[evaluate]
window_bytes = 64
"""
    )
    return path


def with_texts(recipe: Recipe) -> Recipe:
    """The recipe, with its text stage made, as far as a stage that is called by itself needs it."""
    out = recipe.run / "text"
    if not out.exists():
        out.mkdir(parents=True)
        build_text(recipe, out, out.parent / "tasks", 1)
    return recipe


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def run_ranks(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run `work(rank, size, *arguments)` in real processes with torchrun's environment; results in rank order."""
    queue = RANKS.Queue()
    port = free_port()
    processes = [RANKS.Process(target=_rank, args=(rank, size, port, queue, work, arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=240) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode is not None, "a rank did not end"
    for rank, (ok, value) in sorted(found.items()):
        assert ok, f"rank {rank}: {value}"
    return [found[rank][1] for rank in range(size)]


def _rank(rank: int, size: int, port: int, queue: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        queue.put((rank, (True, work(rank, size, *arguments))))
    except BaseException:
        queue.put((rank, (False, traceback.format_exc())))
        raise
