"""A text of a million characters is tagged in windows, and takes little more memory than one of a tenth."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from tinymodels import save_bert, word_tokenizer

SCRIPT = """
import resource
import sys

import pretune

model = pretune.load(sys.argv[1], device="cpu", precision="fp32")
text = "the quick brown fox jumps over the lazy dog and a hat. " * 20_000
peaks = []
for length in (100_000, 1_000_000):
    spans = model.predict(text[:length])["spans"]
    assert spans and spans[-1]["end"] > 0.99 * length
    assert all(text[span["start"] : span["end"]] == span["text"] for span in spans)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) / 1024)
"""


@pytest.mark.slow
def test_a_million_characters_take_little_more_memory_than_a_tenth(tmp_path: Path) -> None:
    save_bert(tmp_path, word_tokenizer(), transformers.BertForTokenClassification, ["O", "B-A", "I-A"])
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 200  # MB: tokens, offsets and spans; 270 bytes of a token
