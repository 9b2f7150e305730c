"""The one error that a user's own input can cause."""


class TreeKVError(ValueError):
    """Bad input: one sentence that names the bad value and what would be right.

    The command line prints the sentence and exits with status 2, the dashboard shows it, and work on many documents or
    settings notes it with the one that it belongs to and goes on.
    """
