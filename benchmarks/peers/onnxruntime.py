"""Vectors of texts by onnxruntime: a BERT exported by torch, in fp32 or with dynamic int8 products.

Texts are sorted by length and each batch is padded to its longest, as sentence-transformers does; the mean over real
tokens is taken by NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


def setup(
    *, model: str, texts: str, vectors: str, precision: str, batch: int, folder: str
) -> Callable[[], dict[str, float]]:
    """Export the model; a run encodes all texts, the first one also writes the vectors.

    Args:
        model: a Hugging Face folder with a tokenizer.json.
        texts: JSON file of a list.
        vectors: .npy file to write.
        precision: fp32 or int8.
        batch: texts of a forward.
        folder: where the exported model goes, if it is not there yet.
    """
    import onnxruntime
    import tokenizers

    path = Path(folder) / f"{precision}.onnx"
    if not path.exists():
        _export(model, path, precision)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    lines: list[str] = json.loads(Path(texts).read_text(encoding="utf-8"))

    def run() -> dict[str, float]:
        order = np.argsort([-len(text) for text in lines], kind="stable")
        out: Any = None
        for start in range(0, len(order), batch):
            index = order[start : start + batch]
            encoded = tokenizer.encode_batch([lines[n] for n in index])
            ids, mask = (np.array([getattr(e, name) for e in encoded]) for name in ("ids", "attention_mask"))
            (hidden,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
            pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
            out = np.empty((len(lines), pooled.shape[1]), np.float32) if out is None else out
            out[index] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        if not Path(vectors).exists():
            np.save(vectors, out)
        return {"texts": float(len(out))}

    return run


def _export(model: str, path: Path, precision: str) -> None:
    """Write the network, hidden states alone, with batch and length free and its attention, GELU and norms fused."""
    import transformers
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network: Any = transformers.AutoModel.from_pretrained(model, attn_implementation="eager")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    plain = path.with_name("fp32.onnx")
    if not plain.exists():
        plain.parent.mkdir(parents=True, exist_ok=True)
        hidden, sample = Hidden().eval(), torch.ones(2, 8, dtype=torch.long)
        names, free = ["input_ids", "attention_mask"], {0: "batch", 1: "length"}
        torch.onnx.export(  # dynamo's export gives other values (torch 2.13)
            hidden, (sample, sample), str(plain), input_names=names, output_names=["hidden"],
            dynamic_axes=dict.fromkeys([*names, "hidden"], free), dynamo=False,
        )  # fmt: skip
        config = hidden.network.config
        fused = optimizer.optimize_model(
            str(plain), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
        )
        fused.save_model_to_file(str(plain))
    if precision == "int8":
        quantize_dynamic(str(plain), str(path), weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": 1})
