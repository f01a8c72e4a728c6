"""Builds an ONNX graph node by node, and stores matrices in it as they are rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from pretune.interop.plain_parts import array, matrix, stored_format, stored_tensors
from pretune.nn.formats.format import find_format, pack
from pretune.nn.projection import ProjectionBrick
from pretune.nn.vocabulary import VocabularyBrick

OPSET = 17
IR_VERSION = 8
CONTRIB = "com.microsoft"
TYPES = ("fp32", "int8", "q8_0", "q4_0")
BLOCKS = {"q8_0": 8, "q4_0": 4}  # bits of a weight
GROUP = 32
_INLINE_BYTES = 1_900_000_000  # a file of protobuf holds 2 GB
Array = NDArray[Any]


@dataclass
class Graph:
    """Collects nodes and weights.

    Attributes:
        stored_as: type of matrices that are not rounded already.
        nodes, weights: of the graph, in order.
        domains: of operators beside ONNX's own.
    """

    stored_as: str
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    _count: int = 0
    _names: dict[object, str] = field(default_factory=dict)
    _alive: list[object] = field(default_factory=list)

    def many(self, operator: str, *inputs: str, count: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        """Adds a node and names its outputs."""
        from onnx import helper

        self._count += 1
        outputs = [f"{operator}_{self._count}" + (f".{n}" if count > 1 else "") for n in range(count)]
        name = f"node_{self._count}"
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, name=name, domain=domain, **attributes))
        if domain:
            self.domains.add(domain)
        return outputs

    def op(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Adds a node with one output and names that."""
        return self.many(operator, *inputs, domain=domain, **attributes)[0]

    def rename(self, name: str, wanted: str) -> None:
        """Gives an output of the graph its name."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [name], [wanted], name=f"output_{wanted}"))

    def constant(self, values: object, dtype: DTypeLike = np.int64) -> str:
        """A small constant, stored once. Shape: any."""
        content: Array = np.asarray(values, dtype)
        return self.weight((content.shape, content.dtype.str, content.tobytes()), content, "constant")

    def number(self, value: float) -> str:
        """A scalar in fp32."""
        return self.constant(value, np.float32)

    def weight(self, key: object, values: Array, hint: str) -> str:
        """A weight, stored once for each key."""
        from onnx import numpy_helper

        if key not in self._names:
            self._names[key] = f"{hint}_{len(self._names)}"
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), self._names[key]))
        return self._names[key]

    def tensor(self, tensor: Tensor, hint: str) -> str:
        """A parameter in fp32, stored once."""
        self._alive.append(tensor)
        return self.weight(id(tensor), array(tensor), hint)

    def linear(self, x: str, brick: ProjectionBrick, hint: str) -> str:
        """A projection's product. Shape: (..., in) -> (..., out)."""
        out = self.product(x, brick, hint)
        own = brick.dense()[1]
        return out if own is None else self.op("Add", out, self.tensor(own, f"{hint}.bias"))

    def product(self, x: str, brick: ProjectionBrick | VocabularyBrick, hint: str) -> str:
        """The product with a brick's matrix. Shape: (..., in) -> (..., out)."""
        type = self._type_of(brick)
        if type == "fp32":
            name = self._once(brick, "matrix", lambda: matrix(brick).numpy(), hint)
            return self.op("MatMul", x, self.op("Transpose", name, perm=[1, 0]))
        if type == "int8":
            values, scale = self._int8(brick, hint)
            dense = self.op("DequantizeLinear", values, scale, axis=0)
            return self.op("MatMul", x, self.op("Transpose", dense, perm=[1, 0]))
        levels, scale, (rows, width) = self._blocks(brick, type, hint)
        sizes = {"K": width, "N": rows, "bits": BLOCKS[type], "block_size": GROUP}
        return self.op("MatMulNBits", x, levels, scale, domain=CONTRIB, **sizes)

    def lookup(self, tokens: str, brick: VocabularyBrick, hint: str) -> str:
        """The vectors of tokens. Shape: (B, L) -> (B, L, width)."""
        type = self._type_of(brick)
        if type == "fp32":
            return self.op("Gather", self._once(brick, "matrix", lambda: matrix(brick).numpy(), hint), tokens)
        if type == "int8":
            values, scale = self._int8(brick, hint)
            rows = self.op("Cast", self.op("Gather", values, tokens), to=1)
            return self.op("Mul", rows, self.op("Unsqueeze", self.op("Gather", scale, tokens), self.constant([-1])))
        levels, scales, (rows_, width) = self._blocks(brick, type, hint)
        groups = width // GROUP
        taken = self.op("Gather", levels, tokens)  # (B, L, groups, bytes) uint8
        if type == "q4_0":
            two = self.constant(16, np.uint8)
            high = self.op("Div", taken, two)
            low = self.op("Sub", taken, self.op("Mul", high, two))
            pairs = [self.op("Unsqueeze", half, self.constant([-1])) for half in (low, high)]
            taken = self.op("Concat", *pairs, axis=-1)
        shape = self.constant([0, 0, groups, GROUP])
        whole = self.op("Reshape", self.op("Cast", taken, to=1), shape)
        centred = self.op("Sub", whole, self.number(float(1 << (BLOCKS[type] - 1))))
        table = self.op("Reshape", scales, self.constant([rows_, groups]))
        factor = self.op("Unsqueeze", self.op("Gather", table, tokens), self.constant([-1]))
        return self.op("Reshape", self.op("Mul", centred, factor), self.constant([0, 0, width]))

    def _type_of(self, brick: object) -> str:
        own = stored_format(brick)
        if own in TYPES and self.stored_as != "fp32":
            return own
        if self.stored_as == "q4_0" and isinstance(brick, VocabularyBrick):
            return "q8_0"
        return self.stored_as

    def _once(self, brick: object, part: str, make: Any, hint: str) -> str:
        self._alive.append(brick)
        dense = brick.dense() if isinstance(brick, VocabularyBrick) else brick
        key = (id(dense if stored_format(brick) is None else brick), part)
        self._alive.append(dense)
        if key in self._names:
            return self._names[key]
        return self.weight(key, make(), f"{hint}.{part}")

    def _int8(self, brick: ProjectionBrick | VocabularyBrick, hint: str) -> tuple[str, str]:
        packed = stored_tensors(brick) if stored_format(brick) == "int8" else pack(find_format("int8"), matrix(brick))
        values = self._once(brick, "int8", lambda: packed["values"].cpu().numpy(), hint)
        return values, self._once(brick, "scale", lambda: packed["scale"].cpu().numpy(), hint)

    def _blocks(
        self, brick: ProjectionBrick | VocabularyBrick, type: str, hint: str
    ) -> tuple[str, str, tuple[int, int]]:
        """Levels and scales as MatMulNBits has them: unsigned, each byte two neighbours where they have 4 bits."""
        own = stored_format(brick) == type
        packed = stored_tensors(brick) if own else pack(find_format(type), matrix(brick))
        levels, scales = find_format(type).levels(packed)  # type: ignore[attr-defined]
        rows, width = levels.shape
        unsigned = (levels.cpu().numpy().astype(np.int16) + (1 << (BLOCKS[type] - 1))).astype(np.uint8)
        if type == "q4_0":
            unsigned = unsigned[:, 0::2] | unsigned[:, 1::2] << 4
        blob = unsigned.reshape(rows, width // GROUP, -1)
        name = self._once(brick, type, lambda: blob, hint)
        scale = self._once(brick, f"{type}.scale", lambda: array(scales).reshape(-1), hint)
        return name, scale, (rows, width)

    def save(self, path: Path, inputs: Sequence[Any], outputs: Sequence[Any], metadata: dict[str, str]) -> None:
        """Writes the file; weights of 2 GB and more stand in a file beside it."""
        import onnx
        from onnx import helper

        graph = helper.make_graph(self.nodes, "pretune", list(inputs), list(outputs), self.weights)
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in sorted(self.domains))]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="pretune")
        helper.set_model_props(model, metadata)
        size = sum(len(weight.raw_data) for weight in self.weights)
        if size < _INLINE_BYTES:
            onnx.save_model(model, str(path))
            return
        location = f"{path.name}_data"
        onnx.save_model(model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=location)
