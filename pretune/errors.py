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


class MissingInputError(PretuneError):
    """A file or folder that was named does not exist or cannot be read (EX_NOINPUT)."""

    code = 66


def no_such_folder(path: object, what: str) -> MissingInputError:
    """The error of a model or tokenizer that is not there; what looks like a name of a hub is answered as such.

    Args:
        what: "model folder" or "tokenizer".
    """
    parts = str(path).split("/")
    if len(parts) > 2 or not all(part and part[0].isalnum() for part in parts) or str(path).endswith(_SUFFIXES):
        return MissingInputError(f"{path}: no such {what}")
    return MissingInputError(
        f"{path}: no such {what} here, and pretune fetches nothing from a hub; if it is the name of a hub's model, "
        f"bring its files (as with: hf download {path} --local-dir DIR) and name the folder"
    )


_SUFFIXES = (".json", ".txt", ".model", ".gguf")


class MissingPackageError(PretuneError):
    """An optional dependency is not installed (EX_UNAVAILABLE)."""

    code = 69


class CannotCreateError(PretuneError):
    """An output cannot be made where it was asked for: exists, locked, no permission (EX_CANTCREAT)."""

    code = 73


class StorageError(PretuneError):
    """The disk is full or answers with an error (EX_IOERR)."""

    code = 74


class DivergenceError(PretuneError):
    """Training was stopped because loss or gradient stayed non-finite (EX_SOFTWARE)."""

    code = 70


class BenchError(PretuneError):
    """A comparison that does not count: a side failed, the sides differ, the machine drifted (EX_SOFTWARE)."""

    code = 70
