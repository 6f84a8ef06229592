"""Rows from a file, for initializers that live elsewhere.

A rows file is safetensors with `input` [M, D] and, for a model whose head is not tied, `output` [M, D]: row m belongs
to the token with id V + m. Shapes: V old tokens, M new tokens, D hidden size.
"""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from prealign_cpt.run.errors import DataError, MissingInputError


def read_rows(path: Path, num_new: int, hidden: int, tied: bool) -> tuple[Tensor, Tensor]:
    """Input and output rows, fp32 [M, D]; the same tensor if the head is tied.

    Raises:
        MissingInputError: no such file.
        DataError: not safetensors; a tensor is missing, or one too many; or its shape, dtype or values are wrong.
    """
    if not path.is_file():
        raise MissingInputError(f"align.rows: {path}: no such file; write it first, or choose another align.init")
    expected = ["input"] if tied else ["input", "output"]
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            if names != expected:
                raise DataError(
                    f"{path}: holds {', '.join(names) or 'nothing'}; expected {' and '.join(expected)}, since the "
                    f"head of the base model is {'tied' if tied else 'not tied'}"
                )
            rows = [_checked(path, name, file.get_tensor(name), num_new, hidden) for name in expected]
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error}); write it again") from error
    return rows[0], rows[-1]


def _checked(path: Path, name: str, rows: Tensor, num_new: int, hidden: int) -> Tensor:
    if not rows.is_floating_point():
        raise DataError(f"{path}: {name} is {rows.dtype}, expected floating point; convert it to float32")
    if list(rows.shape) != [num_new, hidden]:
        raise DataError(
            f"{path}: {name} is {list(rows.shape)}, expected [{num_new}, {hidden}] (new tokens, hidden size); make it "
            "for this base model and this grown tokenizer"
        )
    rows = rows.float()
    bad = (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise DataError(f"{path}: {name} is not finite in {len(bad)} rows, the first {bad[:5]}; make the file again")
    return rows
