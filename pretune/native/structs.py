"""The structs that Python and C share. A change here is a change of `kernels.c`, and of the version in both."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p, sizeof
from typing import Final

ABI: Final = 2
"""Version of the interface; a compiled file of another is refused."""

PANEL: Final = 32
"""Outputs that lie side by side in packed weights."""

FORMATS: Final = ("fp32", "bf16", "int8", "q8_0", "q4_0")
OPERATIONS: Final = (
    "Embed", "AddPosition", "AddVector", "LayerNorm", "RmsNorm", "Multiply", "Gate", "Activate", "Add", "Copy",
    "Rotate", "Attend", "CrossAttend", "Scores",
)  # fmt: skip
ACTIVATIONS: Final = (
    "none", "relu", "gelu", "gelu_tanh", "silu", "tanh", "quick_gelu", "relu_squared", "sigmoid",
)  # fmt: skip
ROUNDED: Final = 1
ACCUMULATE: Final = 2
INTERLEAVED: Final = 4
SEVEN_BITS: Final = 8
MAX_HALF: Final = 512
"""Angles of a head."""


class Matrix(Structure):
    """Packed weights."""

    _fields_ = (
        ("data", c_void_p), ("scale", c_void_p), ("out", c_int64), ("in_", c_int64), ("format", c_int32),
        ("pad", c_int32),
    )  # fmt: skip


class Op(Structure):
    """An operation."""

    _fields_ = (
        ("code", c_int32), ("activation", c_int32), ("flags", c_int32), ("layer", c_int32),
        ("buffer", c_int32 * 4), ("start", c_int32 * 4), ("n", c_int64 * 4), ("f", c_float * 2),
        ("matrix", POINTER(Matrix)), ("p", c_void_p * 2),
    )  # fmt: skip


class Cache(Structure):
    """Pages of keys and values."""

    _fields_ = (
        ("pages", c_void_p), ("stride", c_int64), ("lengths", c_void_p), ("layers", c_int32), ("key_heads", c_int32),
        ("head_width", c_int32), ("pad", c_int32),
    )  # fmt: skip


class Rotation(Structure):
    """Frequencies, and memory for the angles of a call."""

    _fields_ = (
        ("frequencies", c_void_p), ("half", c_int64), ("cosine", c_void_p), ("sine", c_void_p), ("amplitude", c_float),
        ("pad", c_int32),
    )  # fmt: skip


class Step(Structure):
    """A call of a program."""

    _fields_ = (
        ("ops", c_void_p), ("buffers", c_void_p), ("widths", c_void_p), ("tokens", c_void_p), ("slots", c_void_p),
        ("positions", c_void_p), ("wanted", c_void_p), ("rotations", c_void_p), ("cache", Cache), ("cross", Cache),
        ("scores", c_void_p), ("values", c_void_p), ("log_sum", c_void_p), ("hidden", c_void_p), ("ids", c_void_p),
        ("op_count", c_int32), ("rows", c_int32), ("wanted_count", c_int32), ("rotation_count", c_int32),
        ("top", c_int32), ("wants_log_sum", c_int32),
    )  # fmt: skip


class Product(Structure):
    """A product alone."""

    _fields_ = (
        ("matrix", POINTER(Matrix)), ("x", c_void_p), ("bias", c_void_p), ("y", c_void_p), ("ldx", c_int64),
        ("ldy", c_int64), ("rows", c_int32), ("activation", c_int32), ("flags", c_int32), ("pad", c_int32),
    )  # fmt: skip


def rounding_flags(rounded: bool, seven_bits: bool) -> int:
    """How a product reads its activations, as `program.Multiply` says."""
    return (ROUNDED | (SEVEN_BITS if seven_bits else 0)) if rounded else 0


def struct_bytes() -> int:
    """What the compiled file must give too."""
    return sizeof(Op) + sizeof(Step) + sizeof(Product)
