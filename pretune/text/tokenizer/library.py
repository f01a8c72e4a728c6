"""Turns what the `tokenizers` library raises on a file or a text into errors of the house.

The library is written in Rust. Most of its errors arrive as a plain `Exception`; a failed assertion of its own, a
panic, arrives as a `BaseException`, past every `except Exception`, after Rust wrote about it to the standard error of
the process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pretune.errors import DataError, first_line, is_panic

UNREADABLE = "not a tokenizer that the tokenizers library reads"
_STDERR = 2


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Makes a `DataError` of what the library raises in this block.

    Args:
        what: the beginning of the message: the file or the text, and what is wrong with it.

    Raises:
        DataError: the library refused, or failed within.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and not is_panic(error):
            raise
        raise DataError(f"{what}: {first_line(error)}") from None


def _is_of_panic(error: BaseException | None) -> bool:
    """Whether an error is a panic, or was made of one."""
    while error is not None and not is_panic(error):
        error = error.__context__
    return error is not None


def _is_silent(thread: threading.Thread) -> bool:
    """Whether it is one of those that watch over the machine, which print nothing while a file is read."""
    return thread.name.startswith("pretune-spin-")


@contextmanager
def without_panic_text() -> Iterator[None]:
    """Drops what is written to standard error in this block if it ends with a panic; else it is written at its end.

    Where other threads run, theirs could be among it, so that all is written at once there; so it is where standard
    error is closed, and where no directory takes a temporary file, as in a container that is read-only.
    """
    if sys.stderr is None or any(
        thread is not threading.current_thread() and not _is_silent(thread) for thread in threading.enumerate()
    ):
        yield
        return
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    except OSError:
        yield
        return
    _flush()
    stream = os.dup(_STDERR)
    with file as held:
        os.dup2(held.fileno(), _STDERR)
        is_dropped = False
        try:
            yield
        except BaseException as error:
            is_dropped = _is_of_panic(error)
            raise
        finally:
            _flush()
            os.dup2(stream, _STDERR)
            os.close(stream)
            held.seek(0)
            if not is_dropped:
                with suppress(OSError):  # nobody reads it any more
                    os.write(_STDERR, held.read())


def _flush() -> None:
    with suppress(OSError):
        sys.stderr.flush()
