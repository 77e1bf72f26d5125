"""transformers 4.57.6, scikit-learn 1.9.1, torch 2.13.0: `python tests/golden/make_sequence_tasks.py` in an environment
with these writes sequence_tasks.json beside this file: what others make of logits, labels and vectors."""

import json
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, TextClassificationPipeline

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "film", "good", "bad", "dull", "fine"]
TEXTS = ["a good film", "the bad dull film", "fine", "bad bad bad", "something unknown"]


def pipeline(kind: str, count: int) -> dict[str, object]:
    """Logits of a random classifier, and the scores that the library's pipeline makes of them, by label."""
    torch.manual_seed(7)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    names = dict(enumerate("abcdef"[:count]))
    config = BertConfig(
        vocab_size=len(WORDS),
        problem_type=kind,
        id2label=names,
        label2id={v: k for k, v in names.items()},
        initializer_range=1.0,
        **sizes,
    )
    model = BertForSequenceClassification(config).eval()
    Path("vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast("vocab.txt")
    Path("vocab.txt").unlink()
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in TEXTS]
    found = [TextClassificationPipeline(model=model, tokenizer=tokenizer)(text, top_k=None) for text in TEXTS]
    return {"logits": logits, "scores": [{one["label"]: one["score"] for one in row} for row in found]}


def counted() -> dict[str, object]:
    rng = np.random.default_rng(3)
    true, given = rng.random((40, 5)) < 0.4, rng.random((40, 5)) < 0.4
    given[:20] = true[:20]
    given[18, 0] ^= True
    return {
        "true": true.astype(int).tolist(),
        "given": given.astype(int).tolist(),
        "micro F1": f1_score(true, given, average="micro"),
        "exact match": accuracy_score(true, given),
    }


def retrieved() -> dict[str, object]:
    """Whether one of the nearest others is of the same class; class 5 has one text, so it is not asked for."""
    rng = np.random.default_rng(4)
    classes = np.array([*np.arange(59) % 5, 5])
    vectors = (rng.normal(size=(6, 8))[classes] * 0.4 + rng.normal(size=(60, 8))).astype(np.float32)
    near = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(vectors).kneighbors()[1]
    hits = classes[near] == classes[:, None]
    asked = classes != 5
    return {
        "vectors": vectors.round(6).tolist(),
        "classes": classes.tolist(),
        "recall@1": hits[asked, :1].any(axis=1).tolist(),
        "recall@10": hits[asked].any(axis=1).tolist(),
    }


def scaled() -> dict[str, object]:
    values = np.array([1.0, 2.0, 2.5, 4.0, 5.0, 5.0])
    scaler = StandardScaler().fit(values[:, None])
    return {
        "values": values.tolist(),
        "mean": scaler.mean_[0],
        "scale": scaler.scale_[0],
        "z": scaler.transform(values[:, None])[:, 0].tolist(),
    }


if __name__ == "__main__":
    results = {
        "single": pipeline("single_label_classification", 3),
        "multi": pipeline("multi_label_classification", 4),
        "regression": pipeline("regression", 1),
        "counts": counted(),
        "retrieval": retrieved(),
        "scaling": scaled(),
    }
    Path(__file__).with_name("sequence_tasks.json").write_text(json.dumps(results) + "\n")
