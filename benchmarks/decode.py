"""Greedy decoding, batch 1, bf16, GPT-2 small shape with random weights, against `transformers.generate` in bf16.

    python benchmarks/decode.py                # 64 tokens of prompt, 64 new ones
    python benchmarks/decode.py --rounds 7

The peer runs as its documentation says (`dtype=bfloat16`, SDPA, dynamic cache), with the C library's allocator and with
ours. Every turn reads a prompt and decodes; the time of both counts. Before the race our tokens are checked: the fp32
logit of each, teacher-forced, is within 0.05 of the largest. The weights' GB/s are the bytes that a step must read
times steps a second; the limit beside it is a plain read of memory, measured between the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from pairs import OURS, Contestant, Turn, compete, read_bandwidth, record, rows_of, show

VOCABULARY = 50257
MARGIN = 0.05


def make(folder: Path) -> None:
    """A random GPT-2 small with a tokenizer of as many words; nothing ends a text."""
    import tokenizers
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(eos_token_id=None, bos_token_id=None)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    words = {f"w{n}": n for n in range(VOCABULARY)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))


def prompt(length: int) -> list[int]:
    """The same tokens for all."""
    return [int(n) for n in np.random.default_rng(0).integers(0, VOCABULARY, length)]


def ours(folder: str, length: int, new: int, threads: int) -> Turn:
    """`pretune.load(...).continuations(...)`."""
    torch.set_num_threads(threads)
    from pretune.api import load

    model = load(folder, "cpu", "bf16")
    text = " ".join(f"w{n}" for n in prompt(length))

    def turn() -> dict[str, float]:
        (found,) = model.continuations([text], max_new_tokens=new)
        return {"tokens": float(len(found.tokens))}

    return turn


def theirs(folder: str, length: int, new: int, threads: int) -> Turn:
    """`GPT2LMHeadModel.generate`."""
    torch.set_num_threads(threads)
    import transformers

    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    ids = torch.tensor([prompt(length)])
    mask = torch.ones_like(ids)

    def turn() -> dict[str, float]:
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0)
        return {"tokens": float(out.shape[1] - length)}

    return turn


def gap(folder: str, length: int, new: int) -> float:
    """How far below the best, at most, the fp32 logit of one of our choices is."""
    import transformers

    from pretune.api import load

    text = " ".join(f"w{n}" for n in prompt(length))
    (found,) = load(folder, "cpu", "bf16").continuations([text], max_new_tokens=new)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt(length), *found.tokens]])).logits[0, length - 1 : -1]
    chosen = logits.gather(1, torch.tensor(found.tokens)[:, None])[:, 0]
    return float((logits.max(dim=1).values - chosen).max())


def weight_bytes(folder: str) -> int:
    """bf16 bytes that one step reads: all blocks and the vocabulary, positions left out."""
    from pretune.interop.huggingface import load_model

    model = load_model(folder)
    return 2 * sum(p.numel() for n, p in model.named_parameters() if "position" not in n)


def main() -> None:
    """Run and record."""
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--prompt", type=int, default=64)
    words.add_argument("--new", type=int, default=64)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--threads", type=int, default=2)
    given = words.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        worst = gap(folder, given.prompt, given.new)
        if worst > MARGIN:
            raise SystemExit(f"our choice is {worst:.3f} below the best fp32 logit; more than {MARGIN}")
        size = weight_bytes(folder)
        arguments = {"folder": folder, "length": given.prompt, "new": given.new, "threads": given.threads}
        found = compete(
            {
                OURS: Contestant(ours, arguments, tuned=True),
                "transformers": Contestant(theirs, arguments),
                "transformers, our allocator": Contestant(theirs, arguments, tuned=True),
            },
            given.rounds,
            between=read_bandwidth,
        )
    rows = rows_of(f"greedy decode, {given.prompt} + {given.new}", found["turns"], "tokens", "tokens/s")
    show(rows)
    weights, read = rows[0].ours * size / 1e9, statistics.median(found["limit"]) / 1e9
    print(f"weights {weights:.1f} GB/s of a plain read's {read:.1f} GB/s; largest fp32 gap of a choice {worst:.4f}")
    print(record("decode", rows, threads=given.threads, weights_gbs=weights, read_gbs=read, gap=worst))


if __name__ == "__main__":
    main()
