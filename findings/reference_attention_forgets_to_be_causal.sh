#!/usr/bin/env bash
# ONNX's own reference of Attention lets every query see the first key alone, where a causal one has a mask of padding.
#
# Guess, written first: `is_causal=1` with an `attn_mask` of (batch, 1, 1, keys), as decoders with padding have it, is allowed
# ("must be broadcastable") and means both; `onnx.reference`, the function that the operator is defined by, and onnxruntime
# agree.
# Seen with onnx 1.23.2, onnxruntime 1.32.0 (CPU), opsets 23, 24, 25: `ReferenceEvaluator` applies the triangle to a mask of one
# row, and so its first row to all queries, each of which sees the first key alone. The operator's function body, unfolded
# by `onnx.inliner` of the same package, is right. onnxruntime refuses the mask of opsets 23 and 24, and is right in 25. With
# the mask written out as (batch, 1, queries, keys) all are right. Without `is_causal` the reference is right, too.
# So an export that is checked by the reference fails a right engine, or passes a wrong one.
# For pretune: graphs have the masked scores written out, without that operator, and onnxruntime is compared with the model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>"$folder/log" <<'PY' || { cat "$folder/log"; exit 1; }
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, inliner
from onnx.reference import ReferenceEvaluator

LENGTH, WIDTH = 5, 4
draw = np.random.default_rng(0)
VALUES = {name: draw.normal(size=(2, 2, LENGTH, WIDTH)).astype(np.float32) for name in "QKV"}
PADDING = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)[:, None, None, :]
TRIANGLE = np.tril(np.ones((LENGTH, LENGTH), bool))


def attention(mask: np.ndarray) -> np.ndarray:
    scores = VALUES["Q"] @ VALUES["K"].transpose(0, 1, 3, 2) / np.sqrt(WIDTH)
    scores = np.exp(np.where(mask, scores, -np.inf))
    return scores / scores.sum(-1, keepdims=True) @ VALUES["V"]


def graph(opset: int, mask: np.ndarray, causal: int) -> onnx.ModelProto:
    node = helper.make_node("Attention", ["Q", "K", "V", "attn_mask"], ["Y"], is_causal=causal)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in VALUES.items()]
    inputs.append(helper.make_tensor_value_info("attn_mask", TensorProto.BOOL, mask.shape))
    output = helper.make_tensor_value_info("Y", TensorProto.FLOAT, VALUES["Q"].shape)
    model = helper.make_model(
        helper.make_graph([node], "attention", inputs, [output]), opset_imports=[helper.make_opsetid("", opset)], ir_version=11
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def engine(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def answer(compute: Callable[[], np.ndarray], wanted: np.ndarray, first: np.ndarray) -> str:
    try:
        out = compute()
    except Exception as error:
        return f"refused ({type(error).__name__})"
    return "right" if np.abs(out - wanted).max() < 1e-5 else "first key alone" if np.abs(out - first).max() < 1e-5 else "wrong"


print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
first = attention(np.arange(LENGTH) == 0)
for opset in (23, 24, 25):
    for rows, causal in ((1, 0), (1, 1), (LENGTH, 1)):
        mask = np.broadcast_to(PADDING, (2, 1, rows, LENGTH)).copy()
        wanted = attention(PADDING & TRIANGLE if causal else PADDING)
        model, inputs = graph(opset, mask, causal), VALUES | {"attn_mask": mask}
        unfolded = inliner.inline_selected_functions(model, [("", "Attention")], inline_schema_functions=True)
        assert all(node.op_type != "Attention" for node in unfolded.graph.node)
        reference = answer(lambda: ReferenceEvaluator(model).run(None, inputs)[0], wanted, first)
        body = answer(lambda: engine(unfolded, inputs), wanted, first)
        runtime = answer(lambda: engine(model, inputs), wanted, first)
        print(f"opset {opset}, mask {mask.shape}, is_causal={causal}: reference {reference}; function body {body}; onnxruntime {runtime}")
        assert reference == ("first key alone" if causal and rows == 1 else "right")
        assert body == "right"
        assert runtime.startswith("refused") if rows == 1 and opset < 25 else runtime == "right"
PY
