"""What is evaluated: a model in a folder, and perhaps the server that serves it. Nothing is downloaded for it."""

import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import huggingface_hub.constants
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.model.base import EMBEDDED, resolve_base, take_folder
from prealign_cpt.model.load import load_whole, reading_device
from prealign_cpt.model.world import choose_device
from prealign_cpt.run.cache import cache_folder
from prealign_cpt.run.errors import DataError, MissingInputError, PrealignError, RecipeError
from prealign_cpt.run.manifest import digest, sha256

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
)  # fmt: skip

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Environment in which no library fetches anything, if it stands before their import."""


class Subject:
    """A model in a folder. Nothing is loaded before it is asked for.

    Args:
        path: a Hugging Face folder, or a run folder, whose export is taken.
        name: for tables and folders; by default the run's or the folder's name.
        device: "auto", "cpu" or "cuda".
        dtype: "auto" is the precision a run was trained in; of other models, fp32 on a CPU and bf16 on a GPU.
        start_token: stands before every text. By default the run's own (`base.start_token`), else the tokenizer's BOS,
            else its EOS.
        base: folder or name of the model before it was extended, for figures of before and after; by default the run's
            own. A name is looked up on this machine alone.
        url, embeddings_url: roots of OpenAI-compatible servers of this model, such as "http://127.0.0.1:8000/v1".
        key: their key.

    Raises:
        MissingInputError: no such folder, or it is not complete.
        DataError: the folder holds code or pickles, or is damaged (see `check_base`).
        UnavailableError: a `base` that was given is not on this machine.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str = "",
        device: str = "auto",
        dtype: Literal["auto", "fp32", "bf16"] = "auto",
        start_token: str = "",
        base: Path | str | None = None,
        url: str = "",
        embeddings_url: str = "",
        key: str = "",
    ) -> None:
        self.run = path if (path / "recipe.toml").is_file() else None
        """The run folder, if it is one."""
        self.folder = take_folder(model_folder(path))
        self.name = name or (self.run or path).resolve().name
        content, wanted = _read_recipe(self.run) if self.run else {}, choose_device(device)
        precision = content.get("train", {}).get("precision", "fp32" if wanted.type == "cpu" else "bf16")
        self.dtype = torch.float32 if (precision if dtype == "auto" else dtype) == "fp32" else torch.bfloat16
        self.device = reading_device(self.folder, self.dtype, wanted)
        self.url, self.embeddings_url, self.key = url, embeddings_url, key
        self._start_token = start_token or str(content.get("base", {}).get("start_token", ""))
        self.base: Path | None = None
        self.base_reason = ""
        """Why a run's base is not measured beside it; empty if it is, or if there is none."""
        if base is not None:
            with offline():
                self.base = resolve_base(str(base))
        elif self.run is not None:
            self.base, self.base_reason = _find_base(self.run)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The folder's tokenizer."""
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        return tokenizer

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text without the start token; a special token that is spelled out is text."""
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        encoded: list[list[int]] = self.tokenizer(list(texts), **options)["input_ids"]
        return encoded

    @cached_property
    def model(self) -> PreTrainedModel:
        """The folder's model, whole, in `dtype` on `device`, in eval mode."""
        return load_whole(self.folder, self.dtype).to(self.device).eval()

    @cached_property
    def model_digest(self) -> str:
        """See the function `model_digest`."""
        return model_digest(self.folder)

    @cached_property
    def tokenizer_digest(self) -> str:
        """See the function `tokenizer_digest`."""
        return tokenizer_digest(self.folder)

    @cached_property
    def start_token(self) -> str:
        """The token that stands before every text.

        Raises:
            RecipeError: the tokenizer does not have it, or none can be found.
        """
        tokenizer = self.tokenizer
        token = self._start_token or tokenizer.bos_token or tokenizer.eos_token
        if not token:
            raise RecipeError(f"{self.folder}: its tokenizer has neither BOS nor EOS; name one with --start-token")
        number = tokenizer.convert_tokens_to_ids(token)
        if not isinstance(number, int) or tokenizer.convert_ids_to_tokens(number) != token:
            raise RecipeError(
                f"{self.folder}: start token {token!r} is not a token of it; choose another --start-token"
            )
        return str(token)

    @property
    def start_token_id(self) -> int:
        """Its id."""
        return int(self.tokenizer.convert_tokens_to_ids(self.start_token))

    @cached_property
    def base_subject(self) -> "Subject | None":
        """The base as a subject of its own, with the same start token, device and type."""
        if self.base is None:
            return None
        dtype: Literal["fp32", "bf16"] = "fp32" if self.dtype == torch.float32 else "bf16"
        return Subject(self.base, name="base", device=self.device.type, dtype=dtype, start_token=self.start_token)

    def with_base(self) -> "dict[str, Subject]":
        """This subject and its base, if there is one, by the prefix of their figures' names."""
        return {"": self} | ({"base/": self.base_subject} if self.base_subject else {})

    def unload(self) -> None:
        """Forget the models, so that another subject has room; they load again when asked for."""
        if "base_subject" in self.__dict__ and self.base_subject is not None:
            self.base_subject.unload()
        self.__dict__.pop("model", None)


def model_folder(path: Path) -> Path:
    """The folder of the model that a path means: a run's export, or the folder itself.

    Raises:
        MissingInputError: a run that has no export yet.
    """
    if (path / "export").is_dir():
        return path / "export"
    if (path / "recipe.toml").is_file() and not (path / "config.json").is_file():
        raise MissingInputError(f"{path}: this run has no export yet; finish it with `prealign run` and its recipe")
    return path


def base_folder(run: Path) -> Path | None:
    """The folder of a run's base, if it is on this machine.

    Raises:
        DataError: the run's recipe is damaged.
    """
    return _find_base(run)[0]


def model_digest(folder: Path) -> str:
    """SHA-256 over a model folder's weights and configuration: by it a result says whose it is."""
    return _digest([*sorted(folder.glob("*.safetensors")), folder / "config.json"])


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 over the files of a model folder's tokenizer."""
    return _digest([path for name in TOKENIZER_FILES if (path := folder / name).is_file()])


@contextmanager
def offline() -> Iterator[None]:
    """No library may fetch anything inside this block: what is not in a local cache raises."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    # Libraries read the environment once, when they are imported, which may have been long ago.
    modules: list[Any] = [huggingface_hub.constants]
    modules += [sys.modules["datasets"].config] if "datasets" in sys.modules else []
    constants = [module.HF_HUB_OFFLINE for module in modules]
    os.environ |= OFFLINE
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, constant in zip(modules, constants, strict=True):
            module.HF_HUB_OFFLINE = constant
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _find_base(run: Path) -> tuple[Path | None, str]:
    """The folder of a run's base, or why it is not there."""
    name = str(_read_recipe(run).get("base", {}).get("model", ""))
    if not name:
        return None, f"{run / 'recipe.toml'} names no base"
    if name == EMBEDDED and not (cache_folder() / "base" / EMBEDDED).is_dir():
        return None, f"base {name!r} is not in the cache; bring it there with `prealign base {name}`"
    try:
        with offline():
            return resolve_base(name), ""
    except PrealignError as error:
        # It need not be fit for training to be told from another model.
        folder = Path(name).expanduser()
        return (folder, "") if name != EMBEDDED and folder.is_dir() else (None, str(error))


def _read_recipe(run: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{run / 'recipe.toml'}: damaged: {error}; name the model's own folder instead") from error


def _digest(paths: list[Path]) -> str:
    return digest({path.name: sha256(path) for path in paths})
