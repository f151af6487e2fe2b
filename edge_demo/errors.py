"""The one exception that the command lines turn into one line and exit code 2."""


class UserError(ValueError):
    """Something the user can put right; the message says what is wrong, where, and what to do."""
