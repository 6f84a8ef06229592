"""Tiny folders to serve, and one real vLLM server for the whole session."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prealign_cpt.serving.server import Server

ROWS = 403
START = "<|endoftext|>"
TEXTS = ["Der Hund läuft durch den Wald.", "The dog runs through the forest.", "Größe — 漢字, не знаю 🐕\n\tx  y"]


def _tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with exactly ROWS tokens, so that every text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ROWS,
        special_tokens=[START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    assert tokenizer.get_vocab_size() == ROWS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=START, clean_up_tokenization_spaces=False
    )


@pytest.fixture(scope="session")
def make_folder() -> Callable[..., Path]:
    """make(path, seed=0, words="wort", rows=ROWS, **config): a random Llama with its tokenizer, saved to `path`."""

    def make(path: Path, *, seed: int = 0, words: str = "wort", rows: int = ROWS, **config: object) -> Path:
        torch.manual_seed(seed)
        settings = {
            "vocab_size": rows,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "initializer_range": 0.2,  # far from uniform, so that differences show
        }
        LlamaForCausalLM(LlamaConfig(**(settings | config))).save_pretrained(path)
        _tokenizer([*TEXTS, *(f"{words}{number} {words}er{number * 7}" for number in range(400))]).save_pretrained(path)
        return path

    return make


@pytest.fixture(scope="session")
def folder(make_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A servable folder. Copy it before changing it."""
    return make_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM serving `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        log = tmp_path_factory.mktemp("server") / "vllm.log"
        with Server(folder, max_model_len=128, kv_cache_bytes=2**25, log=log) as running:
            yield running
            process = running.process
    assert process is not None and process.returncode == 0, "SIGTERM ends vLLM without an error"
    with pytest.raises(ProcessLookupError):  # nobody of its group is left, once the killed ones are reaped
        for _ in range(50):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
