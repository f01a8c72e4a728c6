"""Errors that a user can act on: each says file, line or field, value and remedy, and carries a sysexits code."""

from __future__ import annotations


class PretuneError(Exception):
    """Base of every error raised on purpose; the command line prints it without a traceback and exits with `code`."""

    code = 70


class UsageError(PretuneError):
    """A flag or a recipe field is unknown or out of range (EX_USAGE)."""

    code = 64


class DataError(PretuneError):
    """Text, labels, a store, a tokenizer or a model that cannot be used as it is (EX_DATAERR)."""

    code = 65


class NonFiniteError(DataError):
    """A model gives NaN or an infinity for a text (EX_DATAERR); the message names the text.

    Attributes:
        what: the model gives, such as "a vector".
        index: of the text among those of the call, from 0.
        excerpt: how the text begins, if that is at hand.
    """

    what: str = "an answer"
    index: int = 0
    excerpt: str = ""

    @classmethod
    def of(cls, place: object, what: str, index: int = 0, excerpt: str = "") -> NonFiniteError:
        """The error of a text.

        Args:
            place: where the text is, such as a line of a file.
            what, index, excerpt: see the attributes.
        """
        text = f" ({excerpt!r})" if excerpt else ""
        error = cls(
            f"{place}{text}: the model gives {what} that is not a finite number; its weights are damaged, or its "
            "training diverged: use an earlier checkpoint (--step), or train again with a lower optimizer.lr"
        )
        error.what, error.index, error.excerpt = what, index, excerpt
        return error

    def at(self, place: object) -> NonFiniteError:
        """The same error, with the place of the text in the user's file."""
        return self.of(place, self.what, self.index, self.excerpt)


class MissingInputError(PretuneError):
    """A file or folder that was named does not exist or cannot be read (EX_NOINPUT)."""

    code = 66


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust failed within: its panics are no `Exception`, and have no class to import."""
    return type(error).__name__ == "PanicException"


def first_line(error: BaseException) -> str:
    """The message of an error, short enough to stand in another: libraries write whole files into theirs."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else f"{lines[0][:197]}..."


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or of a device, was asked for and not given."""
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


_NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "bad alloc")


class MissingPackageError(PretuneError):
    """An optional dependency is not installed (EX_UNAVAILABLE)."""

    code = 69


class CannotCreateError(PretuneError):
    """An output cannot be made where it was asked for: exists, locked, no permission (EX_CANTCREAT)."""

    code = 73


class StorageError(PretuneError):
    """The disk is full or answers with an error (EX_IOERR)."""

    code = 74


class TemporaryError(PretuneError):
    """Something of the system ran out, such as its memory; the same command may succeed later (EX_TEMPFAIL)."""

    code = 75


class DivergenceError(PretuneError):
    """Training was stopped because loss or gradient stayed non-finite (EX_SOFTWARE)."""

    code = 70


class IdleMethodError(PretuneError):
    """A tuning method, or a part of it, changed nothing, or changed what it must not (EX_SOFTWARE)."""

    code = 70


class BenchError(PretuneError):
    """A comparison that does not count: a side failed, the sides differ, the machine drifted (EX_SOFTWARE)."""

    code = 70
