"""Kernels in C for decoding and for rounded weights, and what is said where there is no compiler.

kernels.c     all kernels, one variant for each instruction set
structs.py    what C and Python share
library.py    finds and loads the compiled file, chooses the instruction set, sets threads
packed.py     weights in the kernels' layout; a product that torch's code can call
program.py    a decoder's step as a list of operations
executor.py   runs a program
"""

from pretune.native.executor import Executor
from pretune.native.library import available, isa, reason, reload, set_threads, threads, variants
from pretune.native.packed import PackedMatrix, PackedProduct, matrix_of, product

__all__ = [
    "Executor", "PackedMatrix", "PackedProduct", "available", "isa", "matrix_of", "product", "reason", "reload",
    "set_threads", "threads", "variants",
]  # fmt: skip
