#!/usr/bin/env bash
# onnxruntime's dynamic quantization rounds all embeddings of words by one scale, also with `per_channel=True`.
#
# Guess, written first: `quantize_dynamic` leaves the table of `Gather` as it is or gives each row a scale, at the latest where
# `per_channel=True` asks for more exact scales; a head that shares the table becomes a product of int8 like the others.
# Seen with onnxruntime 1.32.0, onnx 1.23.2 (CPU): `per_channel` gives each column of a matrix in MatMul and Gemm its scale; the
# table keeps one for all its rows, by default and with every option of `per_channel`, `weight_type` and `reduce_range`. One
# row with values ten times those of the rest makes every other word seven times as wrong (here 0.9 % -> 6.5 % of its length). The
# tied head stays a product in float, of the rounded table, which is turned into float anew in every call. Without a warning.
# `op_types_to_quantize=["MatMul"]` leaves the table alone. In the table of all-MiniLM-L6-v2 rounding by one scale costs 4.7 % of
# a row's length on average and 19 % at worst, by a scale a row 0.7 % and 3.3 %.
# For pretune: `export --format onnx --type int8` gives each row a scale, of the vocabulary too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
from collections import Counter

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

WORDS, WIDTH = 200, 64
draw = np.random.default_rng(0)
even = draw.normal(size=(WORDS, WIDTH)).astype(np.float32)
TABLES = {"even rows": even, "one row ten times as large": even * np.where(np.arange(WORDS) == 7, 10, 1)[:, None].astype(np.float32)}
MATRIX = draw.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8
IDS = np.delete(np.arange(WORDS), 7)[None]


def write(table: np.ndarray) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "matrix"], ["hidden"]),
        helper.make_node("Transpose", ["table"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "n"])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "embedded")]
    weights = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(MATRIX, "matrix")]
    graph = helper.make_graph(nodes, "tied", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), "model.onnx")


print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}")
OPTIONS = [{}, {"per_channel": True}, {"per_channel": True, "weight_type": QuantType.QUInt8}, {"per_channel": True, "reduce_range": True}]
errors = {}
for name, table in TABLES.items():
    write(table)
    for options in [*OPTIONS, {"op_types_to_quantize": ["MatMul"]}]:
        quantize_dynamic("model.onnx", "int8.onnx", **options)
        rounded = onnx.load("int8.onnx")
        shapes = {tensor.name: tuple(tensor.dims) for tensor in rounded.graph.initializer}
        operators = Counter(node.op_type for node in rounded.graph.node)
        embedded = onnxruntime.InferenceSession("int8.onnx", providers=["CPUExecutionProvider"]).run(["embedded"], {"ids": IDS})[0][0]
        error = float(np.mean(np.linalg.norm(embedded - table[IDS[0]], axis=1) / np.linalg.norm(table[IDS[0]], axis=1)))
        print(f"{name}, {options}: scales of the table {shapes.get('table_scale')}, of the matrix {shapes['matrix_scale']}; words off by {error:.2%}; {operators['MatMulInteger']} products of int8, {operators['MatMul']} of float")
        errors[name, str(options)] = error
        if options in OPTIONS:
            assert shapes["table_scale"] == () and operators["MatMul"] == 1 and operators["MatMulInteger"] == 1
            assert shapes["matrix_scale"] == ((WIDTH,) if options else ())
        else:
            assert "table_scale" not in shapes and error == 0
for options in OPTIONS:
    assert errors["one row ten times as large", str(options)] > 5 * errors["even rows", str(options)] > 0
PY
