"""Greedy decoding by llama.cpp, built on this machine for its processor; its file is written by its own `gguf`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def setup(
    *, model: str, prompts: list[list[int]], new: int, format: str, threads: int, folder: str
) -> Callable[[], dict[str, float]]:
    """Converts the model, once for all runs; a run reads the prompts and decodes.

    Args:
        model: a Hugging Face folder of a GPT-2.
        prompts: token ids.
        new: tokens to decode after each.
        format: of the weights, as llama.cpp calls it: "BF16", "Q8_0", "Q4_0", whose vocabulary is in Q8_0.
        threads: of its matmuls.
        folder: for the converted model.
    """
    import llama_cpp

    path = Path(folder) / f"{format}.gguf"
    if not path.exists():
        _convert(Path(model), path, format)
    llama_cpp.llama_log_set(_silent(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    network = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    length, count = len(prompts[0]) + new + 1, len(prompts)
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = length * count, max(512, length * count), 512
    options.n_seq_max = count
    options.n_threads = options.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(network, options)
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(network))
    batch = llama_cpp.llama_batch_init(options.n_batch, 0, 1)

    def feed(runs: list[list[int]], start: int) -> list[int]:
        rows = 0
        last = []
        for sequence, run in enumerate(runs):
            for place, token in enumerate(run):
                batch.token[rows], batch.pos[rows] = token, start + place
                batch.n_seq_id[rows], batch.seq_id[rows][0] = 1, sequence
                batch.logits[rows] = place == len(run) - 1
                rows += 1
            last.append(rows - 1)
        batch.n_tokens = rows
        if llama_cpp.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        logits = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, row), (size,)) for row in last]
        return [int(each.argmax()) for each in logits]

    def run() -> dict[str, float]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        newest, start = feed(prompts, 0), len(prompts[0])
        for step in range(new - 1):
            newest = feed([[token] for token in newest], start + step)
        return {"tokens": float(new * count)}

    return run


def _silent(llama_cpp: Any) -> Any:
    """A logger that says nothing; kept by the module, for C calls it."""
    global _logger
    _logger = llama_cpp.llama_log_callback(lambda level, text, data: None)
    return _logger


_logger: Any = None


def _convert(folder: Path, path: Path, format: str) -> None:
    """Writes a GPT-2 as llama.cpp's own converter does, with words for tokens, of which only the numbers are used."""
    import gguf
    from gguf.quants import quantize
    from safetensors.numpy import load_file

    loaded = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("transformer."): value for name, value in loaded.items()}
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("h."))
    size, width = weights["wte.weight"].shape
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(weights["wpe.weight"].shape[0])
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(4 * width)
    writer.add_head_count(width // 64)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"w{n}" for n in range(size)])
    writer.add_token_types([1] * size)
    writer.add_token_merges(["w 0"])
    kind = gguf.GGMLQuantizationType[format]
    outer = gguf.GGMLQuantizationType.Q8_0 if format == "Q4_0" else kind

    def add(name: str, value: Any, kind: Any = None) -> None:
        if kind is None:
            writer.add_tensor(name, np.ascontiguousarray(value, np.float32))
        else:
            writer.add_tensor(name, quantize(np.ascontiguousarray(value, np.float32), kind), raw_dtype=kind)

    add("token_embd.weight", weights["wte.weight"], outer)
    add("output.weight", weights["wte.weight"], outer)
    add("position_embd.weight", weights["wpe.weight"])
    for name, ours in {"output_norm": "ln_f"}.items():
        for part in ("weight", "bias"):
            add(f"{name}.{part}", weights[f"{ours}.{part}"])
    names = {"attn_norm": "ln_1", "ffn_norm": "ln_2"}
    products = {"attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
    for n in range(layers):
        for name, ours in names.items():
            for part in ("weight", "bias"):
                add(f"blk.{n}.{name}.{part}", weights[f"h.{n}.{ours}.{part}"])
        for name, ours in products.items():
            add(f"blk.{n}.{name}.weight", weights[f"h.{n}.{ours}.weight"].T, kind)
            add(f"blk.{n}.{name}.bias", weights[f"h.{n}.{ours}.bias"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
