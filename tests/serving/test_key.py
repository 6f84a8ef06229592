"""The key comes from a private file or the environment, and is one (row 75)."""

from pathlib import Path

import pytest

from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.serving.key import VARIABLE, read_key

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_key() is None
    monkeypatch.setenv(VARIABLE, KEY)
    assert read_key() == KEY
    other = KEY[::-1]
    assert read_key(write(tmp_path / "key", other.encode() + b"\n", 0o400)) == other, "a file comes first"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o660, 0o777])
def test_a_file_that_others_may_use(tmp_path: Path, mode: int) -> None:
    with pytest.raises(DataError, match=rf"mode 0{mode:o}\); run `chmod 600"):
        read_key(write(tmp_path / "key", KEY.encode(), mode))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 characters"),
        (b" \n", "0 characters"),
        (KEY[:-1].encode(), "31 characters"),
        (b"x" * 513, "513 characters"),
        (b"x" * 100_000, "1536 characters"),
        ((KEY + "ä").encode(), "visible ASCII"),
        (KEY.encode() + b" x", "visible ASCII"),
        (KEY.encode() + b"\nsecond", "visible ASCII"),
        (b"\0" + KEY.encode(), "visible ASCII"),
    ],
)
def test_what_is_no_key(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_key(write(tmp_path / "key", content))
    assert KEY[:-1] not in str(caught.value), "a message never shows the key"


def test_a_short_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(DataError, match=f"{VARIABLE}: the key has 5 characters"):
        read_key()


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such key file"):
        read_key(tmp_path / "nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read_key(tmp_path)
