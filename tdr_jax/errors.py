"""The one error for anything a user can put right."""


class InputError(ValueError):
    """One line that says what is wrong, where, and what to do about it.

    The command prints it as ``tdr: error: <line>`` and exits with status 2, without a traceback.
    """

    def __init__(self, line: object):
        # Messages of libraries are quoted now and then, and some of them span several lines.
        super().__init__(" ".join(str(line).split()))
