"""The key of a server that others can reach: from a file or the environment, never from the command line.

A command line is visible to every user of the machine (`ps`); an environment only to the same user, a file to whom its
mode allows.
"""

import os
import stat
from pathlib import Path

from prealign_cpt.run.errors import DataError, MissingInputError

VARIABLE = "PREALIGN_API_KEY"
"""Environment variable that holds the key, for the server and for its clients."""

MIN_LENGTH, MAX_LENGTH = 32, 512


def read_key(file: Path | None = None) -> str | None:
    """The key in `file`, or in the environment where no file is given; None where neither is.

    White space around it is no part of it.

    Raises:
        MissingInputError: no such file.
        DataError: others may read the file, or the key is too short, too long, or not of visible ASCII characters.
    """
    if file is None:
        source, text = VARIABLE, os.environ.get(VARIABLE)
        if text is None:
            return None
    else:
        source, text = str(file), _read_private(file)
    key = text.strip()
    if not MIN_LENGTH <= len(key) <= MAX_LENGTH:
        raise DataError(
            f"{source}: the key has {len(key)} characters, {MIN_LENGTH} to {MAX_LENGTH} are needed; make one with "
            '`python -c "import secrets; print(secrets.token_urlsafe(32))"`'
        )
    if not all("!" <= character <= "~" for character in key):
        raise DataError(f"{source}: the key holds a character that is not visible ASCII; a header cannot carry it")
    return key


def _read_private(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            if mode & 0o077:
                raise DataError(f"{file}: others may use the key (mode {mode:04o}); run `chmod 600 {file}`")
            content = opened.read(MAX_LENGTH + 1024)
    except FileNotFoundError as error:
        raise MissingInputError(f"{file}: no such key file") from error
    except OSError as error:
        raise DataError(f"{file}: the key cannot be read: {error.strerror or error}") from error
    return content.decode("latin-1")  # never fails; what is not ASCII is refused above
