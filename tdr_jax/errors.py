"""The errors that a command says in one line: what a user can put right, and what may pass."""


class InputError(ValueError):
    """One line that says what is wrong, where, and what to do about it.

    The command prints it as ``tdr: error: <line>`` and exits with status 2, without a traceback.
    """

    def __init__(self, line: object):
        # Messages of libraries are quoted now and then, and some of them span several lines.
        super().__init__(" ".join(str(line).split()))


class TryAgain(Exception):
    """One line about what the same command may get over when it is given again.

    A full disk, a process that did not come. The command prints it and exits with status 75.
    """

    def __init__(self, line: object):
        super().__init__(" ".join(str(line).split()))
