"""The exceptions that the command lines turn into one line and an exit code."""


class UserError(ValueError):
    """Something the user can put right; the message says what is wrong, where, and what to do."""

    exit_code = 2


class GateError(UserError):
    """A file that does not do what it must; `convert` leaves nothing of it under its final name."""

    exit_code = 3
