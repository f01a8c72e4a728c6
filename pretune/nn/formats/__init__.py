"""Formats of weights, one file each: how a matrix is stored, and what multiplies by it.

A format's file defines `NAME`, `BITS`, `GROUP`, `pack`, `dense` and `product`, as `format.Format` describes them. A
user's own file does the same and is named by its path.
"""

SHARED_MODULES = ("blocks", "format", "kernels", "levels", "rounded_matmul")
