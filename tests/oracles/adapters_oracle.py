"""Writes what the library `adapters` computes with bottleneck adapters, for `tests/tune/test_adapters_numbers.py`.

It needs another version of `transformers` than the tests do, so its outputs are kept in a file. All weights are
functions of their names, here and in the test.

Usage, in an environment with adapters 1.3.0: python adapters_oracle.py adapters_oracle.safetensors
"""

from __future__ import annotations

import re
import sys
import zlib
from typing import Any

import numpy as np
import torch

TOKENS, WRITTEN = (7, 3, 19, 11, 5), (4, 13, 9)
_SHAPE = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 12, "vocab_size": 23}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {**_SHAPE, "max_position_embeddings": 16}),
    "gpt2": ("GPT2", {"n_embd": 8, "n_head": 2, "n_layer": 2, "vocab_size": 23, "n_positions": 16}),
    "llama": ("Llama", {**_SHAPE, "max_position_embeddings": 16}),
    "t5": ("T5", {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2, "vocab_size": 23}),
}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "houlsby": ("DoubleSeqBnConfig", {"reduction_factor": 4}),
    "pfeiffer": ("SeqBnConfig", {"reduction_factor": 4}),
    "parallel": ("ParBnConfig", {"reduction_factor": 4}),
    "houlsby-cross": ("DoubleSeqBnConfig", {"reduction_factor": 4, "cross_adapter": True}),
}
_BRANCHES = (
    (r"encoder\.layer\.(\d+)\.attention\.output\.adapters", "{}.attention"),
    (r"encoder\.layer\.(\d+)\.output\.adapters", "{}.feedforward"),
    (r"(?:h|layers)\.(\d+)\.attention_adapters\.adapters", "{}.attention"),
    (r"(?:h|layers)\.(\d+)\.output_adapters\.adapters", "{}.feedforward"),
    (r"encoder\.block\.(\d+)\.layer\.0\.adapters", "encoder.{}.attention"),
    (r"encoder\.block\.(\d+)\.layer\.1\.adapters", "encoder.{}.feedforward"),
    (r"decoder\.block\.(\d+)\.layer\.0\.adapters", "{}.attention"),
    (r"decoder\.block\.(\d+)\.layer\.1\.adapters", "{}.cross"),
    (r"decoder\.block\.(\d+)\.layer\.2\.adapters", "{}.feedforward"),
)
_WEIGHT = re.compile(r"\.a\.adapter_(down)\.0\.(weight|bias)|\.a\.adapter_(up)\.(weight|bias)")


def values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight as a function of its name."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    is_factor = len(shape) == 1 and "norm" in name.lower().replace("ln_", "norm") and name.endswith("weight")
    return torch.from_numpy(0.3 * drawn + is_factor).float()


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Gives a model of `transformers` its weights."""
    for name, weight in model.named_parameters():
        weight.copy_(values(name, tuple(weight.shape)))


def base(transformers: Any, name: str) -> Any:
    """A model without heads."""
    family, fields = BASES[name]
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**fields)).eval()
    fill(model)
    return model


def _own_name(name: str) -> str | None:
    """What a weight of an adapter is called here, such as `0.feedforward.down.weight`."""
    for pattern, branch in _BRANCHES:
        if match := re.match(pattern, name):
            weight = _WEIGHT.fullmatch(name[match.end() :])
            assert weight is not None, name
            part, kind = (group for group in weight.groups() if group)
            return f"{branch.format(match[1])}.{part}.{kind}"
    return None


@torch.no_grad()
def main(output: str) -> None:
    import adapters
    import transformers
    from safetensors.torch import save_file

    out: dict[str, torch.Tensor] = {}
    for name in BASES:
        for form, (config, fields) in FORMS.items():
            if form.endswith("-cross") and name != "t5":
                continue
            model = base(transformers, name)
            adapters.init(model)
            model.add_adapter("a", config=getattr(adapters, config)(**fields))
            model.set_active_adapters("a")
            count = 0
            for weight_name, weight in model.named_parameters():
                if ".adapters." in weight_name:
                    own = _own_name(weight_name)
                    assert own is not None, weight_name
                    weight.copy_(values(own, tuple(weight.shape)))
                    count += 1
            assert count, name
            extra = {"decoder_input_ids": torch.tensor([WRITTEN])} if name == "t5" else {}
            got = model.eval()(input_ids=torch.tensor([TOKENS]), **extra).last_hidden_state[0]
            out[f"{name}.{form}"] = got.contiguous()
            print(name, form, count, tuple(got.shape), float(got.std()))
    save_file(out, output, {"adapters": adapters.__version__, "transformers": transformers.__version__})


if __name__ == "__main__":
    main(sys.argv[1])
