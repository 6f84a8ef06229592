"""The errors a user can cause or mend. Each carries the exit code that launchers and schedulers read.

A message says what is wrong, where (file:line, recipe key, token id) and the remedy, on one line; only of a recipe with
several faults each has a line. Entry points print it without a traceback. Anything else that is raised is a fault of
this program and keeps its traceback (exit code 70).
"""


class PrealignError(Exception):
    """Base of the errors that are shown to a user as one line; never raised itself."""

    exit_code = 70


class DataError(PrealignError):
    """The content of an input is wrong: encoding, columns, a damaged or foreign file."""

    exit_code = 65


class MissingInputError(PrealignError):
    """An input is not there."""

    exit_code = 66


class UnavailableError(PrealignError):
    """A service that is needed does not answer: a download, a port, a served model."""

    exit_code = 69


class StorageError(PrealignError):
    """Writing failed: disk full, no permission, target already there."""

    exit_code = 74


class BusyError(PrealignError):
    """Somebody else works in this folder, or the run was asked to stop: try again later."""

    exit_code = 75


class RecipeError(PrealignError):
    """The recipe or the command line is wrong."""

    exit_code = 78


class NumericError(PrealignError):
    """A loss, gradient or weight is not finite, or a gate on quality failed."""

    exit_code = 79
