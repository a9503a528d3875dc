"""The exceptions of Vitreous and the exit codes that they map to.

::

    VitreousError                    3
    ├── UserError                    2   something the user can mend
    │   ├── InputFileError           2   a file is missing, unreadable, of the wrong kind or contradicts what was said
    │   ├── SettingError             2   a parameter or fact is missing, unknown or out of range
    │   ├── ProjectError             2   the project folder cannot be used for what was asked
    │   └── PersonNeededError        2   the recipe waits for what a person has to decide
    └── StageError                   3   a stage failed as a whole

`vitreous.ops` raises `ValueError` and `TypeError` only.
"""

from pathlib import Path

__all__ = [
    "InputFileError",
    "PersonNeededError",
    "ProjectError",
    "SettingError",
    "StageError",
    "UserError",
    "VitreousError",
]


class VitreousError(Exception):
    """Base of every error raised on purpose outside `vitreous.ops`."""

    exit_code = 3


class UserError(VitreousError, ValueError):
    """Something that the user can mend; the message says what was found, what was expected and what to do."""

    exit_code = 2


class InputFileError(UserError):
    """A file cannot be used.

    Parameters
    ----------
    path
        The file.
    found
        What was found in it, or that it was not found.
    expected
        What would have been right.
    remedy
        What to do about it.
    """

    def __init__(self, path: Path | str, *, found: str, expected: str, remedy: str) -> None:
        self.path = Path(path)
        self.found = found
        self.expected = expected
        self.remedy = remedy
        super().__init__(f"{path}: found {found}; expected {expected}. {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_input_file_error, (str(self.path), self.found, self.expected, self.remedy)


def _rebuild_input_file_error(path: str, found: str, expected: str, remedy: str) -> InputFileError:
    """Unpickle: keyword-only arguments do not survive the default, and worker processes send errors back."""
    return InputFileError(path, found=found, expected=expected, remedy=remedy)


class SettingError(UserError):
    """A parameter or fact is missing, unknown or out of range."""


class ProjectError(UserError):
    """The project folder cannot be used for what was asked."""


class PersonNeededError(UserError):
    """The recipe goes on once a person has decided something; the message says what."""


class StageError(VitreousError):
    """A stage failed as a whole: more of its items failed than it allows, or nothing was left to work on."""
