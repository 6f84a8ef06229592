"""The tensors of a Hugging Face folder, read one by one or in part, so that nobody holds the whole model.

model.safetensors, or model.safetensors.index.json + parts --name, rows--> a tensor
"""

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from prealign_cpt.run.errors import DataError, MissingInputError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class Tensors:
    """Names, shapes and rows of a folder's tensors. Used as a context; files stay open in it.

    Args:
        folder: with `model.safetensors`, or an index of several files.

    Raises:
        MissingInputError: it has neither.
        DataError: the index is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[Path, Any] = {}
        self._stack = ExitStack()
        if (folder / INDEX).is_file():
            try:
                places: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            except (ValueError, KeyError) as error:
                raise DataError(f"{folder / INDEX}: not an index of tensors; write the folder again") from error
            self.places = {name: folder / file for name, file in places.items()}
        elif (folder / SINGLE).is_file():
            self.places = dict.fromkeys(self._file(folder / SINGLE).keys(), folder / SINGLE)
        else:
            raise MissingInputError(f"{folder}: neither {SINGLE} nor {INDEX}; save the model as safetensors")

    def __enter__(self) -> "Tensors":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        self._open.clear()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, unread."""
        return tuple(self._file(self.places[name]).get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """A whole tensor, of the type it is stored in."""
        return self._file(self.places[name]).get_tensor(name)

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Some rows of a tensor; only these are read."""
        part: Tensor = self._file(self.places[name]).get_slice(name)[first : first + count]
        return part

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
            except FileNotFoundError as error:
                raise MissingInputError(f"{path}: no such file, although {INDEX} names it") from error
            except SafetensorError as error:
                raise DataError(f"{path}: cannot be read ({error}); write the folder again") from error
        return self._open[path]
