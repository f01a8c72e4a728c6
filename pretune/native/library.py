"""Finds the compiled kernels, checks that they are of this version, and chooses the instruction set.

Environment:
    PRETUNE_NATIVE=0: kernels are not used, and torch does the work.
    PRETUNE_ISA: the instruction set instead of the best that the processor has, as `variants()` names them.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pretune.errors import UsageError
from pretune.native.structs import ABI, Product, Step, struct_bytes

_log = logging.getLogger("pretune")
_threads: list[int] = []


@dataclass(frozen=True)
class Library:
    """The loaded kernels.

    Attributes:
        functions: of the file.
        variant: number of the instruction set in the file's table.
        isa: its name.
    """

    functions: ctypes.CDLL
    variant: int
    isa: str

    def run_product(self, product: Product) -> None:
        """Runs a product; other Python threads go on meanwhile."""
        self._check(self.functions.pretune_product(self.variant, threads(), ctypes.byref(product)))

    def run_step(self, step: Step) -> None:
        """Runs a step; other Python threads go on meanwhile."""
        self._check(self.functions.pretune_step(self.variant, threads(), ctypes.byref(step)))

    @staticmethod
    def _check(failed: int) -> None:
        if failed:
            raise MemoryError("the kernels could not allocate memory for the rows of a call; use fewer rows at once")


def available() -> bool:
    """Whether there are kernels for this processor, and nobody switched them off."""
    return isinstance(_load(), Library)


def reason() -> str | None:
    """Why there are none; None where there are."""
    loaded = _load()
    return None if isinstance(loaded, Library) else loaded


def library() -> Library:
    """The kernels.

    Raises:
        UsageError: there are none.
    """
    loaded = _load()
    if isinstance(loaded, Library):
        return loaded
    raise UsageError(f"no native kernels: {loaded}")


def isa() -> str | None:
    """Name of the instruction set in use; None without kernels."""
    loaded = _load()
    return loaded.isa if isinstance(loaded, Library) else None


def variants() -> dict[str, bool]:
    """Instruction sets of the compiled file, the best first, and whether this processor has them."""
    functions = library().functions
    return {name: bool(functions.pretune_supported(number)) for number, name in _variants(functions)}


def threads() -> int:
    """Threads of a call: those that were set, or as many as torch has."""
    return _threads[0] if _threads else torch.get_num_threads()


def set_threads(count: int | None) -> None:
    """Sets the number of threads of a call; None for as many as torch has. Results do not depend on it."""
    if count is not None and count < 1:
        raise UsageError(f"threads must be 1 or more, got {count}")
    _threads[:] = [] if count is None else [count]


def reload() -> None:
    """Looks at the environment and the files again."""
    _load.cache_clear()


@functools.cache
def _load() -> Library | str:
    """The kernels, or why there are none, which is logged once."""
    if os.environ.get("PRETUNE_NATIVE") == "0":
        return "PRETUNE_NATIVE=0 switches them off"
    files = sorted(Path(__file__).parent.glob("_kernels*"))
    loaded = _open(files)
    if isinstance(loaded, str):
        _log.info("no native kernels, so torch does the work: %s", loaded)
        return loaded
    return _choose(loaded)


def _open(files: Sequence[Path]) -> ctypes.CDLL | str:
    problem = "they are not compiled; run `make native`, or install again where there is a C compiler (gcc or clang)"
    for file in files:
        if file.suffix not in (".so", ".pyd", ".dylib"):
            continue
        try:
            functions = ctypes.CDLL(str(file))
            functions.pretune_variant.restype = ctypes.c_char_p
            functions.pretune_packed_bytes.restype = ctypes.c_int64
            functions.pretune_packed_bytes.argtypes = (ctypes.c_int32, ctypes.c_int64, ctypes.c_int64)
            functions.pretune_pack.restype = functions.pretune_dense.restype = None
            version, size = functions.pretune_abi(), functions.pretune_struct_bytes()
        except (OSError, AttributeError) as error:
            problem = f"{file} cannot be loaded ({error}); run `make native`"
            continue
        if (version, size) == (ABI, struct_bytes()):
            return functions
        problem = (
            f"{file} is of another version of pretune (interface {version}, this one has {ABI}); run `make native`"
        )
    return problem


def _variants(functions: ctypes.CDLL) -> list[tuple[int, str]]:
    out: list[tuple[int, str]] = []
    while (name := functions.pretune_variant(len(out))) is not None:
        out.append((len(out), name.decode()))
    return out


def _choose(functions: ctypes.CDLL) -> Library:
    candidates = _variants(functions)
    wanted = os.environ.get("PRETUNE_ISA")
    usable = [(number, name) for number, name in candidates if functions.pretune_supported(number)]
    if wanted is not None:
        usable = [(number, name) for number, name in usable if name == wanted]
        if not usable:
            names = ", ".join(name for number, name in candidates if functions.pretune_supported(number))
            raise UsageError(f"PRETUNE_ISA={wanted}: this processor has no such instruction set; use one of {names}")
    return Library(functions, *usable[0])
