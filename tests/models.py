"""Tiny real models and data for tests: random checkpoints of every family, and a sentiment that can be learnt."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from attar.distill.student import Student
from attar.runtime.data import Examples

FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "electra")
LABELS = ("negative", "positive")
MAX_LENGTH = 48

GOOD = ("charming", "gripping", "lovely", "brilliant", "moving", "funny", "superb", "tender")
BAD = ("dull", "clumsy", "awful", "tedious", "bland", "hollow", "tiresome", "lifeless")
NOUNS = ("film", "plot", "cast", "story", "scene", "music", "ending", "script")
NOISE = ("the", "a", "was", "and", "of", "in", "we", "saw", "it", "last", "night", "with", "two", "friends", "then")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?%'-"
torch.set_num_threads(1)  # models this small lose by a second thread, and very much so on a busy machine
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
EDGE_TEXTS = ("", " ", "a", "a " * 200, "Déjà vu: 東京 🎉\tand\nmore", "?!" * 9, "w\u0000x", "\ud83c")


def sentences(count: int, seed: int = 0) -> Examples:
    """Labelled sentences of 4 to 20 words in which one or two adjectives say the sentiment."""
    rng = random.Random(seed)
    texts, labels = [], []
    for i in range(count):
        label = LABELS[i % 2]
        words = GOOD if label == "positive" else BAD
        parts = [f"The {rng.choice(NOUNS)} was {rng.choice(words)}"]
        if rng.random() < 0.3:
            parts.append(f"and {rng.choice(words)}")
        parts += rng.choices(NOISE, k=rng.randrange(0, 14))
        texts.append(" ".join(parts) + rng.choice((".", "!", "")))
        labels.append(label)
    return Examples(tuple(texts), tuple(labels), "synthetic sentences")


def tokenizer(specials: tuple[str, ...] = SPECIALS) -> Tokenizer:
    """WordPiece over the words of the sentences and all letters, [CLS] in front and [SEP] behind."""
    words = [w for group in (GOOD, BAD, NOUNS, NOISE) for w in group]
    pieces = dict.fromkeys([*specials, *words, *LETTERS, *(f"##{c}" for c in LETTERS)])
    result = Tokenizer(models.WordPiece({w: i for i, w in enumerate(pieces)}, unk_token="[UNK]"))
    result.normalizer = normalizers.BertNormalizer(lowercase=True)
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    result.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, specials.index(t)) for t in ("[CLS]", "[SEP]")]
    )
    return result


def make_checkpoint(
    folder: Path, family: str = "bert", *, layers: int = 2, hidden: int = 32, ffn: int = 64, heads: int = 4,
    seed: int = 0, trained: bool = True, **options: Any,
) -> Path:  # fmt: skip
    """A random classifier in Hugging Face form. `trained`: weights as large as training makes them, biases included."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    roberta = family in {"roberta", "xlm-roberta"}
    # RoBERTa counts positions from behind its padding token, which is 1.
    specials = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]") if roberta else SPECIALS
    words, pad_id = tokenizer(specials), specials.index("[PAD]")
    sizes: dict[str, Any] = {
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
    }  # fmt: skip
    if family == "distilbert":
        sizes = {"dim": hidden, "hidden_dim": ffn, "n_layers": layers, "n_heads": heads}
    if family == "electra":
        sizes["embedding_size"] = hidden
    sizes |= {
        "vocab_size": words.get_vocab_size(), "max_position_embeddings": MAX_LENGTH + (2 if roberta else 0),
        "pad_token_id": pad_id, "id2label": dict(enumerate(LABELS)), "label2id": {v: k for k, v in enumerate(LABELS)},
    }  # fmt: skip
    config = AutoConfig.for_model(family, **(sizes | options))
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config)
    if trained:
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.normal_(0.0, 0.15)
                if "norm" in name.lower() and name.endswith("weight"):
                    value.add_(1.0)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(words.to_str(), encoding="utf-8")
    record = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_LENGTH,
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def make_student(folder: Path, family: str = "bert", **options: Any) -> Student:
    """The random classifier that `make_checkpoint` writes to `folder`, imported."""
    return Student.load(make_checkpoint(folder, family, **options))


def quiet(fraction: float, line: str) -> None:
    """A progress callback that says nothing."""
