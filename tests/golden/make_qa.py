"""transformers 4.57.6, torch 2.13.0: `python tests/golden/make_qa.py` in an environment with these writes qa.json
beside this file: what the question-answering pipeline (gone in transformers 5) makes of given start and end logits.

A case holds [text, score, start, end] of each answer found, and under `places` where among all the spans that went
into it the likeliest stands: of a text that several windows offer, the pipeline reports where it met it first.
"""

import json
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForQuestionAnswering, PreTrainedTokenizerFast, QuestionAnsweringPipeline
from transformers.modeling_outputs import QuestionAnsweringModelOutput
from transformers.pipelines.question_answering import select_starts_ends

PLACES = ("Reykjavik", "Oslo", "the old harbour", "New Amsterdam", "St. Gallen", "Zürich", "Ouagadougou")
THINGS = ("museum", "bridge", "library", "lighthouse", "observatory", "tram depot", "salt works", "orchestra")
PEOPLE = ("Ada O'Neil", "J. R. Ödegaard", "Mme. Curie-Sklodowska", "Li Wei", "Nnedi", "van der Berg")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?%'-()"
SHORT = {
    "plain": ("Who built the bridge?", "The bridge at Oslo was built by Ada O'Neil in 1893, for 40,000 crowns."),
    "emoji": ("what is it", "It is a 🎉 party 👩‍🚀 in space, with 🎂🎂 cake"),
    "marks": ("where", "Café Zu\u0308rich — na\u0131\u0308ve re\u0301sume\u0301, Ångström's place"),
    "cjk": ("which city", "東京は日本の首都です。大阪 is second, ソウル is not in it"),
    "white": ("when  was\tit ", "\t In   1999,\n\n after  lunch\t\tat   noon  "),
    "unknown": ("who ☃ spoke", "☃☃ spoke to Ω and to ⚙gear⚙ about ☃"),
    "repeated": ("what colour", "Red, red and RED: the red door. Red!"),
    "one word": ("what", "Only"),
    "special": ("what stands", "there is [SEP] and </s> written here"),
    "controls": ("what", "a\u200bb \u0000c\ufffd soft\u00adhyphen x\u0301\u0302y"),
}


def wordpiece() -> Tokenizer:
    """BERT's kind, with few words, so that most of them fall into several pieces."""
    words = ("the", "was", "built", "by", "in", "of", "and", "museum", "bridge", "light", "house", "oslo", "red", "at")
    pieces = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *LETTERS, "東", "京", "日", "本"])
    pieces |= dict.fromkeys(f"##{piece}" for piece in (*LETTERS, "ing", "house", "er"))
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return made


def byte_level() -> Tokenizer:
    """RoBERTa's kind: bytes, a few merges, spaces trimmed from offsets."""
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("e", "r"), ("Ġ", "w"), ("o", "r"), ("Ġ", "a")]
    alphabet = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces = dict.fromkeys([*alphabet, *(a + b for a, b in merges)])
    made = Tokenizer(models.BPE({w: i for i, w in enumerate(pieces)}, merges, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return made


def logits(ids: np.ndarray, salt: int, width: float, null: float) -> np.ndarray:
    """(T,) -> (T, 2): numbers from -width / 2 to width / 2 that a test can make too, and `null` on top for token 0."""
    place = np.arange(len(ids))[:, None] * 104_729 + np.array([[1, 2]]) * 15_485_863
    x = (ids[:, None] * 7_919 + place + salt * 1_299_709) % 1_000_003
    for _ in range(3):
        x = (x * x + 48_271) % 1_000_003
    found = (x / 1_000_003 - 0.5) * width
    found[0] += null
    return found.astype(np.float32)


class Fake(BertForQuestionAnswering):
    settings: tuple[int, float, float] = (0, 8.0, 0.0)

    def forward(self, input_ids, **_):
        found = np.stack([logits(row, *self.settings) for row in input_ids.numpy()])
        return QuestionAnsweringModelOutput(
            start_logits=torch.tensor(found[..., 0]), end_logits=torch.tensor(found[..., 1])
        )


def story(rng: random.Random, sentences: int) -> str:
    """Sentences of which names, but not years, come again and again."""
    parts = [
        f"The {rng.choice(THINGS)} of {rng.choice(PLACES)} was founded by {rng.choice(PEOPLE)} in {1500 + 7 * i}."
        for i in range(sentences)
    ]
    return "  ".join(parts)


def cases() -> list[dict]:
    rng = random.Random(5)
    made = []
    for kind in ("wordpiece", "byte level"):
        for i, (question, context) in enumerate(SHORT.values()):
            for top_k, no_answer in ((1, False), (5, True)) if i % 2 else ((3, False), (1, True)):
                made.append({"tokenizer": kind, "question": question, "context": context, "top_k": top_k})
                made[-1] |= {"max_length": 384, "stride": 128, "max_answer": rng.choice((1, 4, 15))}
                made[-1] |= {"no_answer": no_answer, "width": 9.0, "null": rng.choice((-2.0, 0.0, 4.0))}
        for length, stride, sentences in ((48, 0, 6), (48, 16, 6), (64, 32, 9), (128, 42, 12), (384, 128, 25)):
            for top_k, no_answer, width in ((1, False, 30.0), (3, True, 16.0), (5, False, 9.0)):
                made.append({"tokenizer": kind, "question": "Who? When?", "context": story(rng, sentences)})
                made[-1] |= {"top_k": top_k, "max_length": length, "stride": stride, "max_answer": rng.choice((5, 15))}
                made[-1] |= {"no_answer": no_answer, "width": width, "null": rng.choice((-2.0, 3.0, 12.0))}
    return [{**case, "salt": salt} for salt, case in enumerate(made)]


def places(pipeline: QuestionAnsweringPipeline, case: dict) -> dict[str, tuple[float, int, int]]:
    """By text in lower case: the highest score of a single span with it, and its characters."""
    best: dict[str, tuple[float, int, int]] = {}
    pair = {"question": case["question"], "context": case["context"]}
    for row in pipeline.preprocess(pair, doc_stride=case["stride"], max_seq_len=case["max_length"]):
        out = pipeline.forward(row)
        mask = out["attention_mask"].numpy()
        starts, ends, scores, _ = select_starts_ends(
            out["start"], out["end"], out["p_mask"], mask, 1e6, 2 * case["top_k"] + 10, False, case["max_answer"]
        )
        for first, last, score in zip(starts, ends, scores, strict=True):
            start, end = pipeline.get_indices(out["encoding"], first, last, 1, align_to_words=True)
            text = case["context"][start:end].lower()
            if score > best.get(text, (0.0, 0, 0))[0]:
                best[text] = (float(score), start, end)
    return best


def main() -> None:
    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = Fake(BertConfig(vocab_size=8, **sizes)).eval()
    tokenizers = {"wordpiece": wordpiece(), "byte level": byte_level()}
    pipelines = {}
    for kind, one in tokenizers.items():
        names = ("[CLS]", "[SEP]", "[PAD]") if kind == "wordpiece" else ("<s>", "</s>", "<pad>")
        special = dict(zip(("cls_token", "sep_token", "pad_token"), names, strict=True))
        fast = PreTrainedTokenizerFast(tokenizer_object=one, model_max_length=512, **special)
        pipelines[kind] = QuestionAnsweringPipeline(model=model, tokenizer=fast, device="cpu")
        tokenizers[kind] = json.loads(fast.backend_tokenizer.to_str())
    made = cases()
    for case in made:
        model.settings = (case["salt"], case["width"], case["null"])
        found = pipelines[case["tokenizer"]](
            question=case["question"], context=case["context"], top_k=case["top_k"], max_seq_len=case["max_length"],
            doc_stride=case["stride"], max_answer_len=case["max_answer"], handle_impossible_answer=case["no_answer"],
        )  # fmt: skip
        found = found if isinstance(found, list) else [found]
        case["found"] = [[one["answer"], one["score"], one["start"], one["end"]] for one in found]
        likeliest = places(pipelines[case["tokenizer"]], case)
        case["places"] = [likeliest.get(one["answer"].lower() or None, (0, 0, 0))[1:] for one in found]
    record = {"tokenizers": tokenizers, "cases": made}
    path = Path(__file__).with_name("qa.json")
    path.write_text(json.dumps(record, ensure_ascii=True, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
