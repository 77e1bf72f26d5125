"""setfit: --base, a little contrastive training, and its logistic regression on all training texts; in PyTorch.

See system.py for the two commands. The contrastive part is short, some minutes of one core: 8 texts a class, 300 steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments, sample_dataset
from system import Batch, Floats, base, by_label, main, train

SAMPLES, STEPS, PAIRS = 8, 300, 16


def prepare(given: Path, made: Path) -> None:
    texts, labels = train(given)
    model = SetFitModel.from_pretrained(base(given), labels=sorted(set(labels)), device="cpu")
    few = sample_dataset(Dataset.from_dict({"text": texts, "label": labels}), num_samples=SAMPLES, seed=0)
    with TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            output_dir=scratch, batch_size=PAIRS, max_steps=STEPS, save_strategy="no", report_to="none", seed=0
        )
        Trainer(model=model, args=settings, train_dataset=few).train()
    model.fit(texts, labels, num_epochs=1)
    model.save_pretrained(str(made))


def load(given: Path, made: Path, threads: int) -> Batch:
    torch.set_num_threads(threads)
    model = SetFitModel.from_pretrained(str(made), device="cpu")
    order = by_label(given, model.model_head.classes_)

    def batch(texts: list[str]) -> Floats:
        found = model.predict_proba(texts, batch_size=len(texts), as_numpy=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)[:, order]

    return batch


if __name__ == "__main__":
    sys.exit(main("six layers in PyTorch fp32, a little contrastive training", prepare, load))
