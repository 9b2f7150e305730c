"""The one error that a user's own input can cause."""


class TreeKVError(ValueError):
    """Bad input: one sentence that names the bad value and what would be right.

    The command line prints the sentence and exits with status 2; nothing else in the project catches it.
    """
