"""model2vec: static vectors distilled from --base, and its own classifier, trained on the training data.

See system.py for the two commands. What is served is its light pipeline, without PyTorch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from system import Batch, Floats, base, by_label, main, train


def prepare(given: Path, made: Path) -> None:
    from model2vec.distill import distill
    from model2vec.train import StaticModelForClassification

    static = distill(model_name=base(given))
    texts, labels = train(given)
    classifier = StaticModelForClassification.from_static_model(model=static)
    classifier.fit(texts, labels)
    classifier.to_pipeline().save_pretrained(str(made))


def load(given: Path, made: Path, threads: int) -> Batch:
    from model2vec.inference import StaticModelPipeline

    model = StaticModelPipeline.from_pretrained(str(made))
    order = by_label(given, model.classes_)

    def batch(texts: list[str]) -> Floats:
        found = model.predict_proba(texts, batch_size=len(texts), use_multiprocessing=False)
        return np.asarray(found, dtype=np.float32)[:, order]

    return batch


if __name__ == "__main__":
    sys.exit(main("static vectors and a trained classifier", prepare, load))
