"""Libraries that say what they think of a file, past those who asked them."""

import contextlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator

_lock = threading.RLock()  # neither warnings nor the terminal are a thread's own


@contextlib.contextmanager
def warnings_caught() -> Iterator[list[warnings.WarningMessage]]:
    """Yields a list of Python's warnings instead of showing them."""
    with _lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps lines that a library writes, past Python too, off the terminal, and warnings."""
    with warnings_caught():
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
