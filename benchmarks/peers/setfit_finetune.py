"""SetFit on few labels: pairs of texts by contrast, then logistic regression on the vectors.

python benchmarks/peers/setfit_finetune.py JOB.json: reads the job, and prints the labels of its tested texts.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def finetune(job: dict[str, Any]) -> dict[str, Any]:
    """Trains and tests.

    Args:
        job: `model`, a folder of a sentence transformer; `texts` and `labels` that train; `tested` texts; `seed`;
            `iterations`, pairs of each kind that are drawn for each text: 20 in the paper. (The library's default is
            all pairs once, and as many of the rarer kind: 374,000 for 8 texts of each of 77 labels.)

    Returns:
        labels of the tested texts, and seconds of loading and training.
    """
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    begin = time.perf_counter()
    names = sorted(set(job["labels"]))
    numbers = [names.index(label) for label in job["labels"]]
    model = SetFitModel.from_pretrained(job["model"], device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_iterations=job["iterations"],
            seed=job["seed"],
            show_progress_bar=False,
            report_to="none",
            save_strategy="no",
        )
        data = Dataset.from_dict({"text": job["texts"], "label": numbers})
        Trainer(model=model, args=settings, train_dataset=data).train()
    seconds = time.perf_counter() - begin
    answers = model.predict(job["tested"], show_progress_bar=False)
    return {"labels": [names[int(n)] for n in answers], "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(finetune(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
