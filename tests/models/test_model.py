"""What all families share."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pretune.batch import Batch, Layout, OutputRows, ragged
from pretune.errors import DataError, UsageError
from pretune.models import build
from pretune.models.flops import block_flops, flops_per_token, head_flops
from pretune.nn.cast import cast_to_bf16
from pretune.objectives.objective import ends
from pretune.runtime.device import inference_context
from pretune.train.shapes import pad_to_bucket

FAMILIES = {"bert": ["mlm", "nsp"], "gpt2": ["clm"]}
SMALL = {"vocab_size": 50}


def test_package_imports_no_torch():
    code = "import pretune.models, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_functions_of_seed_and_name(family):
    one = build(family, "tiny", FAMILIES[family], SMALL, seed=3).state_dict()
    more = build(family, "tiny", [*FAMILIES[family], "classification"], SMALL, labels=["x", "y"], seed=3).state_dict()
    other = build(family, "tiny", FAMILIES[family], SMALL, seed=4).state_dict()
    assert all(torch.equal(value, more[name]) for name, value in one.items())
    assert not torch.equal(one["embedding.word.weight"], other["embedding.word.weight"])
    first, second = (one[f"stack.blocks.{n}.attention.query.weight"] for n in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_does_not_see_its_neighbours(family):
    model = build(family, "tiny", FAMILIES[family], SMALL).eval()
    alone = model(ragged([[5, 6, 7]])).last_hidden_state
    among = model(ragged([[9, 9], [5, 6, 7], [8]])).last_hidden_state[2:5]
    torch.testing.assert_close(alone, among, atol=1e-5, rtol=1e-5)


@pytest.fixture
def one_thread():
    """Steps of microseconds: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_overfits_one_batch(family, precision):
    model = build(family, "tiny", FAMILIES[family], SMALL)
    tokens = torch.randint(0, 50, (40,), generator=torch.Generator().manual_seed(0))
    layout = Layout.of([10, 10, 13, 7])
    inside = torch.cat([torch.arange(a, b - 1) for a, b in zip(layout.bounds, layout.bounds[1:], strict=False)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            hidden = model(Batch(tokens, layout)).last_hidden_state
            loss, correct = model.heads[FAMILIES[family][0]].loss(hidden[inside], tokens[inside + 1])
        optimizer.zero_grad()
        (loss / len(inside)).backward()
        optimizer.step()
    assert loss / len(inside) < 0.3
    assert correct > 0.9 * len(inside)


def some_rows(batch: Batch) -> Batch:
    """Some of the first, the second and the third of five sequences; rounded as the training step does."""
    return pad_to_bucket(replace(batch, output_rows=OutputRows.of(np.array([9, 2, 6, 7, 8, 12]), batch.layout)))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_layer_gives_the_rows_that_are_read(precision, checkpointing):
    """The same rows and the same gradients as from the whole run."""
    model = build("bert", "tiny", ["mlm"], {**SMALL, "hidden_dropout_prob": 0.0})
    model.stack.checkpointing = checkpointing
    torch.manual_seed(0)
    batch = ragged([torch.randint(5, 50, (n,)).tolist() for n in (8, 4, 10, 6, 4)])
    part, index = some_rows(batch), torch.tensor([7, 2, 12, 6, 8, 9])
    actual = []
    for run in (pad_to_bucket(batch), part):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = model(run)
            rows = output.at(index)
        (rows * torch.arange(6)[:, None]).sum().backward()
        actual.append([rows.detach(), *(p.grad.clone() for p in model.stack.parameters())])
        model.zero_grad()
        assert (output.rows is None) == (run is not part)
    assert len(output.last_hidden_state) == 16 < part.layout.total == 32
    tolerance = 1e-5 if precision == "fp32" else 4e-2
    for whole, some in zip(*actual, strict=True):
        assert float((whole - some).norm()) <= tolerance * float(whole.norm() + 1e-2)


def test_rows_keep_their_places():
    batch = some_rows(ragged([[7] * n for n in (8, 4, 10, 6, 4)]))
    assert batch.output_rows.layout.count == batch.layout.count
    assert torch.equal(batch.output_rows.layout.positions, batch.layout.positions[batch.output_rows.index])
    assert set(batch.output_rows.index.tolist()) >= {2, 6, 7, 8, 9, 12}
    assert batch.output_rows.layout.total == 16


def test_a_causal_model_gives_every_row():
    model = build("gpt2", "tiny", ["clm"], SMALL)
    batch = ragged([[1, 2, 3], [4]])
    output = model(replace(batch, output_rows=OutputRows.of(np.array([2]), batch.layout)))
    assert output.rows is None
    assert torch.equal(output.at(torch.tensor([3])), output.last_hidden_state[3:])


def test_a_sequence_head_reads_its_row_among_few():
    model = build("bert", "tiny", ["nsp"], SMALL).eval()
    batch = ragged([[5, 6, 7], [8], [9, 10]])
    part = pad_to_bucket(replace(batch, output_rows=OutputRows.of(ends(batch.layout), batch.layout)))
    whole, some = model(batch), model(part)
    want = model.heads["nsp"](whole.last_hidden_state, whole.layout)
    got = model.heads["nsp"](some.last_hidden_state, some.layout)
    torch.testing.assert_close(got[:3], want, atol=1e-5, rtol=1e-5)


def test_layers_on_request():
    model = build("bert", "tiny", [], SMALL)
    output = model(ragged([[1, 2, 3]]), layers=True)
    assert [tuple(x.shape) for x in output.layers] == [(3, 128)] * 3
    assert model(ragged([[1]])).layers is None


@pytest.mark.parametrize(
    ("family", "size", "heads", "overrides", "message"),
    [
        ("berd", "tiny", [], {}, "did you mean 'bert'"),
        ("bert", "huge", [], {}, "no size 'huge'"),
        ("bert", "tiny", ["mln"], {}, "did you mean 'mlm'"),
        ("gpt2", "tiny", ["mlm"], {}, "gpt2 has no head 'mlm'"),
        ("bert", "tiny", ["classification"], {}, "names of its labels"),
        ("bert", "tiny", [], {"hidden_sise": 3}, "did you mean 'hidden_size'"),
        ("bert", "tiny", [], {"hidden_size": 2**31}, "hidden_size"),
        ("bert", "tiny", [], {"hidden_size": 100, "num_attention_heads": 3}, "not a multiple"),
        ("bert", "tiny", [], {"hidden_act": "gelo"}, "did you mean 'gelu'"),
        ("gpt2", "tiny", [], {"n_layer": 10**9}, "n_layer"),
        ("gpt2", "tiny", [], {"resid_pdrop": float("nan")}, "resid_pdrop"),
    ],
)
def test_bad_requests_name_the_field(family, size, heads, overrides, message):
    with pytest.raises(UsageError, match=message):
        build(family, size, heads, overrides)


def test_too_long_a_sequence_is_refused():
    model = build("gpt2", "tiny", ["clm"], {**SMALL, "n_positions": 8})
    with pytest.raises(DataError, match="9 tokens is longer than the model's 8 positions"):
        model(ragged([[1] * 9]))
    cache = model.new_cache(1)
    model(Batch(torch.ones(8, dtype=torch.long), cache.layout([8])), cache=cache)
    with pytest.raises(DataError, match="9 tokens"):
        model(Batch(torch.ones(1, dtype=torch.long), cache.layout([1])), cache=cache)


def test_labels_are_asked_of_the_classifier():
    assert build("bert", "tiny", ["classification"], SMALL, labels=["no", "yes"]).labels == ["no", "yes"]
    with pytest.raises(UsageError, match="no classification head"):
        _ = build("bert", "tiny", ["mlm"], SMALL).labels


def test_flops_are_those_of_the_profiler():
    """Counted by torch for one forward of a padded-free batch; causal attention counts only what it lets through."""
    from torch.utils.flop_counter import FlopCounterMode

    model = build("bert", "mini", ["mlm", "nsp"], SMALL)
    batch = ragged([[1] * 32] * 2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch)
    matrices = 64 * flops_per_token(model, 32) - 64 * 4 * 4 * 256 * 32  # torch does not count our operator
    assert counter.get_total_flops() == matrices
    assert head_flops(model, "mlm") == 2 * 256 * 256 + 2 * 256 * 50
    assert head_flops(model, "nsp") == 2 * 256 * 256 + 2 * 256 * 2
    part = replace(batch, output_rows=OutputRows.of(np.arange(0, 64, 8), batch.layout))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(part)
    saved = 2 * (block_flops(model.stack.blocks[-1], 32, 32) - block_flops(model.stack.blocks[-1], 4, 32))
    assert counter.get_total_flops() == matrices - saved + 64 * 4 * 256 * 32 - 8 * 4 * 256 * 32
    causal = build("gpt2", "mini", ["clm"], SMALL)
    assert flops_per_token(causal, 9) == flops_per_token(model, 9) - 4 * 4 * 256 * (9 - 5)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f == "bert" else pytest.mark.slow) for f in FAMILIES])
def test_compiles_whole_and_for_all_lengths(family):
    """No graph break, and other lengths do not compile for ever; in bfloat16, where attention is our operator."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    name = "hidden_dropout_prob" if family == "bert" else "resid_pdrop"
    more = {} if family == "bert" else {"embd_pdrop": 0.0}
    model = build(family, "tiny", [], {**SMALL, name: 0.0, **more})
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for lengths in ([5, 7, 7, 30], [6, 6, 7, 30], [10, 20, 3], [9, 9, 9, 2, 1]):
        batch = Batch(torch.arange(sum(lengths)) % 50, Layout.of(lengths))
        grads = []
        for run in (compiled, model):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                hidden = run(batch).last_hidden_state
            hidden.float().square().sum().backward()
            grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert (grads[0] - grads[1]).norm() < 0.02 * grads[1].norm()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("family", ["llama", "t5", "bert"])
def test_the_residual_run_of_a_rounded_model_is_not_rounded(family):
    model = build(family, "tiny", ["mlm" if family == "bert" else "clm"], {"vocab_size": 50}).eval()
    cast_to_bf16(model)
    with inference_context(torch.device("cpu"), half=True):
        batch = ragged([[3, 4, 5]])
        assert model.embedding(batch.tokens, batch.layout).dtype == torch.float32
        assert model(batch).last_hidden_state.dtype == torch.float32
