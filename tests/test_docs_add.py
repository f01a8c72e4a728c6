"""Every page of docs/add: its example is trained, saved, loaded, used and exported as the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import pretune
from pretune.cli import main
from pretune.errors import DataError
from pretune.text.chat.choice import find_format
from pretune.text.chat.turns import AnswerFinder
from pretune.text.tokenizer.tokenizer import Tokenizer

PAGES = Path(__file__).parents[1] / "docs" / "add"
QUIET = ("--quiet", "--no-allocator")
TEXT = "w1 w2 w3 w4"


def examples(page: str) -> dict[str, str]:
    """The Python files of a page, by the names in their first lines."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return {block.split("\n", 1)[0].removeprefix("# "): block for block in blocks}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples of all pages, a tokenizer, a store, labelled files and a pretrained BERT."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("add")
    for page in PAGES.glob("*.md"):
        for name, block in examples(page.stem).items():
            (folder / name).write_text(block, encoding="utf-8")
    words = [f"w{n}" for n in range(40)]
    lines = [" ".join(words[(n * 7 + i * 3) % 40] for i in range(12)) + "." for n in range(200)]
    (folder / "text.txt").write_text("\n\n".join(lines))
    rows = [(line, "even" if n % 2 else "odd") for n, line in enumerate(lines[:24])]
    (folder / "labels.csv").write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in rows)]))
    (folder / "train.ft").write_text("\n".join(f"__label__{label} {text}" for text, label in rows) + "\n")
    tagged = [f'{text},"{label},w{n % 3}"' for n, (text, label) in enumerate(rows)]
    (folder / "tagged.csv").write_text("\n".join(["text,label", *tagged]))
    timed = [{"tokens": line.split(), "numbers": [float(len(word)) for word in line.split()]} for line in lines[:64]]
    (folder / "times.jsonl").write_text("\n".join(map(json.dumps, timed)))
    where = str(folder)
    vocabulary = ("--vocab-size", "100", "--output", f"{where}/tok")
    assert main(["tokenizer", "train", f"{where}/text.txt", *vocabulary, *QUIET]) == 0
    store = ("--tokenizer", f"{where}/tok", "--output", f"{where}/store", "--processes", "1")
    assert main(["prepare", f"{where}/text.txt", *store, *QUIET]) == 0
    train(folder, "pretrain", "bert", "--objective", "mlm", "--model.size", "tiny")
    return folder


def train(folder: Path, verb: str, output: str, *words: str, steps: int = 3) -> Path:
    """A run of a few steps."""
    run = folder / output
    data = ("--data.stores", str(folder / "store")) if verb == "pretrain" else ()
    common = ("--data.length", "32", "--data.batch", "8", "--budget.steps", str(steps), "--precision", "fp32")
    rest = ("--evaluation.samples", "4", "--track.report", "false", "--output", str(run), "--device", "cpu")
    assert main([verb, *words, *data, *common, *rest, *QUIET]) == 0
    return run


def load(run: Path) -> Any:
    return pretune.load(run, device="cpu", precision="fp32")


def logits(model: torch.nn.Module, tokens: list[int]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([tokens])).logits[0].numpy()


def check_masked(run: Path, exported: Path) -> None:
    """A masked language model fills, and gives `transformers` the same distribution."""
    model = load(run)
    guess = model.fill(f"{TEXT} [MASK]", top=1)[0][0]
    model.export(exported)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(exported)
    tokens = transformers.AutoTokenizer.from_pretrained(exported)(f"{TEXT} [MASK]")["input_ids"]
    place = tokens.index(model.tokenizer.vocabulary.mask)
    scores = torch.from_numpy(logits(theirs, tokens)[place]).softmax(0)
    assert scores.max().item() == pytest.approx(guess.probability, abs=1e-5)


def test_a_family(folder: Path, tmp_path: Path) -> None:
    family = str(folder / "prelayernorm.py")
    run = train(folder, "pretrain", "family", "--model.family", family, "--model.size", "tiny", "--objective", "mlm")
    check_masked(run, tmp_path / "exported")
    assert type(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "exported")).__name__ == (
        "RobertaPreLayerNormForMaskedLM"
    )
    data = ("--data.train", str(folder / "labels.csv"), "--task", "classification")
    tuned = train(folder, "finetune", "family-tuned", "--model.init", str(run), *data)
    assert load(tuned).predict(TEXT).label in ("even", "odd")


def test_an_objective(folder: Path, tmp_path: Path) -> None:
    run = train(folder, "pretrain", "replaced", "--objective", str(folder / "replaced.py"), "--model.size", "tiny")
    assert "loss/replaced" in (run / "metrics.jsonl").read_text()
    check_masked(run, tmp_path / "exported")


def test_a_task(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data.train", str(folder / "tagged.csv"), "--task", str(folder / "tags.py"))
    rates = ("--optimizer.lr", "1e-3", "--model.dropout", "0")
    run = train(folder, "finetune", "tags", "--model.init", str(folder / "bert"), *data, *rates, steps=150)
    model = load(run)
    prediction = model.predict((folder / "text.txt").read_text().split("\n\n")[1])
    assert set(prediction) <= {"even", "odd", "w0", "w1", "w2"}
    assert "even" in prediction
    assert model.evaluate(folder / "tagged.csv")["f1_micro"] > 0.8
    assert main(["predict", str(run), TEXT, *QUIET, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip()
    saved = json.loads((run / "config.json").read_text())["pretune"]
    assert saved["task"]["config"]["tags"] == ["even", "odd", "w0", "w1", "w2"]
    model.export(tmp_path / "exported")
    body, info = transformers.AutoModel.from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not [name for name in info["missing_keys"] if "pooler" not in name]
    assert all("heads.tags." in name for name in info["unexpected_keys"])  # it has no such head
    word = model.network.embedding.word.weight
    assert torch.equal(body.get_input_embeddings().weight, word)
    assert load(tmp_path / "exported").predict(TEXT) == model.predict(TEXT)


def test_a_task_on_tokens(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A number for each word, in one file that is no part of pretune: trained, saved, used, evaluated, exported."""
    times = folder / "times.jsonl"
    data = ("--data.train", str(times), "--task", str(folder / "reading_times.py"))
    rates = ("--optimizer.lr", "3e-3", "--model.dropout", "0")
    run = train(folder, "finetune", "times", "--model.init", str(folder / "bert"), *data, *rates, steps=40)
    model = load(run)
    pearson = model.evaluate(times)["pearson"]
    assert pearson > 0.8
    capsys.readouterr()
    assert main(["predict", str(run), "w1  w22 w3", *QUIET, "--device", "cpu"]) == 0
    words = json.loads(capsys.readouterr().out)["words"]
    assert [(word["start"], word["end"], word["text"]) for word in words] == [
        (0, 2, "w1"),
        (4, 7, "w22"),
        (8, 10, "w3"),
    ]
    assert words[1]["number"] > words[0]["number"]
    assert main(["evaluate", str(run), str(times), *QUIET, "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["pearson"] == pytest.approx(pearson, abs=1e-3)  # it may compute in bf16
    assert main(["predict", str(run), str(times), *QUIET, "--device", "cpu"]) == 0
    assert len(json.loads(capsys.readouterr().out.splitlines()[0])["words"]) == 12
    long = [{"tokens": [f"w{n}" for n in range(40)] * 5}]  # many windows
    (answer,) = model.predict(long)
    assert [word["text"] for word in answer["words"]] == long[0]["tokens"]
    with pytest.raises(DataError, match=r"list\[0\]: field 'numbers' has 1 numbers for 2 words; give each one"):
        model.evaluate([{"tokens": ["w1", "w2"], "numbers": [1.0]}])
    model.export(tmp_path / "exported")
    assert load(tmp_path / "exported").predict(long) == [answer]


def test_a_variant_of_a_task(folder: Path, tmp_path: Path) -> None:
    data = ("--data.train", str(folder / "labels.csv"), "--task", str(folder / "focal.py"))
    run = train(folder, "finetune", "focal", "--model.init", str(folder / "bert"), *data)
    check_classifier(run, tmp_path / "exported")


def check_classifier(run: Path, exported: Path) -> None:
    """A classifier predicts, and `transformers` reads the same from what it exports."""
    model = load(run)
    prediction = model.predict(TEXT)
    model.export(exported)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(exported)
    tokens = transformers.AutoTokenizer.from_pretrained(exported)(TEXT)["input_ids"]
    with torch.no_grad():
        scores = theirs.eval()(input_ids=torch.tensor([tokens])).logits[0].softmax(0)
    assert scores.max().item() == pytest.approx(prediction.probability, abs=1e-5)


def test_a_tuning_method(folder: Path, tmp_path: Path) -> None:
    data = ("--data.train", str(folder / "labels.csv"), "--task", "classification")
    method = ("--tune", str(folder / "bitfit.py"))
    run = train(folder, "finetune", "tuned", "--model.init", str(folder / "bert"), *data, *method)
    before, model = load(folder / "bert").network, load(run)
    after = dict(model.network.named_parameters())
    changed = {name for name, p in before.named_parameters() if name in after and not torch.equal(p, after[name])}
    assert changed
    assert all(name.endswith("bias") for name in changed)
    check_classifier(run, tmp_path / "exported")


def test_a_loss_on_vectors(folder: Path, tmp_path: Path) -> None:
    """It learns which pairs belong together, and the model does without its file."""
    words = [f"w{n}" for n in range(40)]
    rows = [(words[n], words[n if n % 2 else n - 20], n % 2) for n in range(40)]
    scored = tmp_path / "scored.csv"
    scored.write_text("\n".join(["text,second,label", *(f"{a} {a},{b},{label}" for a, b, label in rows)]))
    own = tmp_path / "logistic.py"
    own.write_text((folder / "logistic.py").read_text())
    flags = ("--task.similarity.loss", str(own), "--second", "second", "--optimizer.lr", "1e-3", "--model.dropout", "0")
    data = ("--task", "similarity", "--data.train", str(scored), "--data.validation", str(scored))
    run = train(folder, "finetune", "loss", "--model.init", str(folder / "bert"), *data, *flags, steps=60)
    own.unlink()
    assert load(run).evaluate(scored)["spearman"] > 0.8
    assert not [name for name in load_file(run / "model.safetensors") if "slope" in name]
    scored.write_text("text,second,label\na,b,0.5\n")
    with pytest.raises(AssertionError):  # the verb ends with an error
        train(
            folder,
            "finetune",
            "bad-loss",
            "--model.init",
            str(folder / "bert"),
            *data,
            *flags[2:],
            "--task.similarity.loss",
            str(folder / "logistic.py"),
        )


def test_an_optimizer(folder: Path, tmp_path: Path) -> None:
    own = ("--optimizer.name", str(folder / "momentum.py"), "--optimizer.momentum", "0.8", "--optimizer.lr", "0.01")
    run = train(folder, "pretrain", "optimizer", "--objective", "mlm", "--model.size", "tiny", *own)
    check_masked(run, tmp_path / "exported")


def test_a_reader(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data.train", str(folder / "train.ft"), "--data.columns.format", str(folder / "fasttext.py"))
    task = ("--task", "classification", "--model.init", str(folder / "bert"))
    run = train(folder, "finetune", "reader", *task, *data)
    check_classifier(run, tmp_path / "exported")
    (folder / "bad.ft").write_text("__label__even w1\nno label here\n")
    bad = ("--data.train", str(folder / "bad.ft"), "--data.columns.format", str(folder / "fasttext.py"))
    assert main(["finetune", *task, *bad, "--output", str(tmp_path / "bad"), *QUIET]) == 65
    assert "bad.ft:2: no label and text in 'no label here'" in capsys.readouterr().err
    assert not (tmp_path / "bad" / "model.safetensors").exists()


def test_a_view(folder: Path, tmp_path: Path) -> None:
    run = train(folder, "pretrain", "view", "--objective", str(folder / "overlapping.py"), "--model.size", "tiny")
    check_masked(run, tmp_path / "exported")


def test_a_backend(folder: Path, tmp_path: Path) -> None:
    slow = ("--model.attention", str(folder / "loop.py"))
    run = train(folder, "pretrain", "backend", "--objective", "mlm", "--model.size", "tiny", *slow)
    check_masked(run, tmp_path / "exported")
    plain = train(folder, "pretrain", "no-backend", "--objective", "mlm", "--model.size", "tiny")
    ours, theirs = (dict(load(each).network.named_parameters()) for each in (run, plain))
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name], parameter, atol=1e-4, rtol=1e-3)


def test_a_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A metric in one file that is no part of pretune: scored, with its interval, by the verb and in Python."""
    path = tmp_path / "length_ratio.py"
    path.write_text(examples("metric")["length_ratio.py"], encoding="utf-8")
    (tmp_path / "system.txt").write_text("a b c d\na b\n")
    (tmp_path / "test.txt").write_text("a b c d e\na b c d\n")
    files = (str(tmp_path / "system.txt"), "--references", str(tmp_path / "test.txt"))
    assert main(["judge", *files, "--metrics", str(path), "--length_ratio.unit", "word", *QUIET]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["scores"] == {"length_ratio": pytest.approx((4 / 5 + 2 / 4) / 2)}
    assert out["intervals"]["length_ratio"] == [0.5, 0.8]
    assert pretune.judge(["ab"], ["abcd"], metrics=[str(path)])["length_ratio"] == 0.5


def test_the_chat_template_writes_what_its_page_says(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder / "tok")
    chosen = find_format(str(folder / "colon.py"))
    template = chosen.with_tokens(tokenizer)
    messages = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    chat = AnswerFinder(template, chosen.marks).find(messages)
    assert chat.text == "user: w1<|stop|>\nassistant: w2<|stop|>\n"
    assert [chat.text[answer.start : answer.end] for answer in chat.answers] == [" w2<|stop|>"]
    backend = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend)
    assert backend.apply_chat_template(messages, chat_template=chosen.source, tokenize=False) == chat.text


def test_search_backend(folder: Path, tmp_path: Path) -> None:
    """An index of the page's backend, words and fusion, found again by its files."""
    draw = np.random.default_rng(0)
    rows = [{"id": f"d{n}", "text": " ".join(f"w{k}" for k in draw.integers(0, 40, 8))} for n in range(60)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [{"_id": f"q{n}", "text": " ".join(row["text"].split()[:4])} for n, row in enumerate(rows[:20])]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (tmp_path / "qrels.tsv").write_text("".join(f"q{n}\td{n}\t1\n" for n in range(20)))
    index, own = str(tmp_path / "index"), [str(folder / name) for name in ("clusters.py", "stems.py", "first_ten.py")]
    words = ["--model", str(folder / "bert"), "--backend", own[0], "--tokenization", own[1], "--output", index]
    assert main(["index", str(tmp_path / "docs.jsonl"), *words, *QUIET]) == 0
    judged = ["--queries", str(tmp_path / "queries.jsonl"), "--qrels", str(tmp_path / "qrels.tsv")]
    assert main(["index", "tune", index, *judged, "--fusion", own[2], *QUIET]) == 0
    opened = pretune.open_index(index)
    names = [type(opened.nearest).__name__, type(opened.fusion(opened.ranking)).__name__]
    assert names[0] == "Clusters"
    assert names[1] == "FirstTen" or opened.ranking.mode != "fused"
    assert opened.search("w1 w2 w3", 5, mode="vectors")
    (folder / "clusters.py").write_text((folder / "clusters.py").read_text() + "\n")
    with pytest.raises(DataError, match="the file has changed since"):
        pretune.open_index(index)
