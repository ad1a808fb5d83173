"""The errors that are safe to show a user: each says what was seen, what is accepted and what to do.

Exit codes of the command line hang on these classes: BadRequest 2, ModelUnavailable 3, Cancelled 130.
"""


class PprobeError(Exception):
    """Base of every error whose message is one plain sentence (or two) meant for the user."""

    exit_code = 2


class BadRequest(PprobeError):
    """The request itself cannot be met: an unknown circuit, a damaged prompt file, a bad option."""


class ModelUnavailable(PprobeError):
    """The model cannot be loaded, or its structure is not supported."""

    exit_code = 3


class StoreUnavailable(PprobeError):
    """The results file cannot be opened, read or written."""


class Cancelled(PprobeError):
    """The user stopped the job; what was finished before is kept."""

    exit_code = 130
