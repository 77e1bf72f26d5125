"""Training throughput: attar's distillation against a hand-written minimal loop over the same batches.

python benchmarks/training.py --rounds 15

A student of three layers x 384 with random weights learns random targets of random words: soft targets and labels, 32
texts a step, one thread, bf16 matrix products on both sides where the processor has them. attar's side is a whole
`distill.distil` step, its setting up and its checks included. The other has what is written in `by_hand`: no schedule,
no clipping, no check, no checkpoint. Above 1 attar is slower. On a machine that does other work, seconds of the
processor say more than those of the clock.
"""

from __future__ import annotations

import argparse
import copy
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F

from attar.distill import distil
from attar.distill.encoder import Encoder, EncoderShape, LayerShape
from attar.distill.heads import HeadShape
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.supervision import Supervision
from attar.distill.teacher import Targets
from attar.distill.trainer import autocast, bucketed
from attar.runtime.bench.paired import Ratio, summarize
from attar.runtime.data import Examples
from attar.runtime.tasks.classification import TextClassification

LABELS = ("negative", "positive")
VOCAB, BATCH, RATE, TEMPERATURE, WEIGHT = 30522, 32, 1e-4, 2.0, 0.2


def learner() -> Student:
    """Three layers of MiniLM's sizes, with a vocabulary of numbers."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w1"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="w2 $A w3", pair="w2 $A w3 $B w3", special_tokens=[("w2", 2), ("w3", 3)]
    )
    layers = (LayerShape(12, 32, 1536),) * 3
    network = Encoder(EncoderShape(VOCAB, 384, 128, layers, (HeadShape("logits", len(LABELS)),), types=2))
    return Student(network, words.to_str().encode(), TextClassification(LABELS, 128))


def classroom(student: Student, steps: int, teacher: Path) -> tuple[Context, Supervision]:
    """Texts of 5 to 50 words, enough for that many steps, and what a teacher may have said of them.

    Of the teacher, whose folder is written, there is no more than how many layers it has.
    """
    (teacher / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 3}')
    rng, count = random.Random(0), steps * BATCH
    texts = tuple(" ".join(f"w{rng.randrange(4, VOCAB)}" for _ in range(rng.randint(5, 50))) for _ in range(count))
    train = Examples(texts, tuple(rng.choice(LABELS) for _ in texts), "random words")
    encoded = student.encode(texts)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in encoded.ids])]).astype(np.int64)
    said = np.random.default_rng(0).normal(size=(count, len(LABELS))).astype(np.float32)
    name = student.task.heads[0].name
    taught = Supervision(student, encoded, Targets(encoded, starts, {name: said}, {}, 3), list(range(count)))
    nothing = Examples((), None, "nothing")

    def unused(*_: object) -> Ratio:
        raise NotImplementedError  # distillation neither times nor scores

    context = Context(
        train, nothing, nothing, lambda *_: taught, unused, lambda _: 0.0, lambda _: (encoded, {}), teacher,
        lambda *_: None, lambda *_: [],
    )  # fmt: skip
    return context, taught


def by_hand(student: Student, taught: Supervision, labels: tuple[str, ...]) -> Callable[[], None]:
    """The same training in plain PyTorch."""
    rows = [torch.tensor(row) for row in taught.encoded.ids]
    batches = bucketed([len(row) for row in rows], BATCH, random.Random(0))
    (said,) = (torch.from_numpy(np.asarray(values)) for values in taught.targets.heads.values())
    classes = torch.tensor([LABELS.index(label) for label in labels])

    def loop() -> None:
        network = copy.deepcopy(student.encoder).train()
        network.words.requires_grad_(False)
        learning = [p for p in network.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.01, fused=True)
        for batch in reversed(batches):
            ids = torch.nn.utils.rnn.pad_sequence([rows[i] for i in batch], batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(rows[i]) for i in batch], batch_first=True)
            with autocast(True):
                (logits,) = network(ids, mask).heads.values()
                mine, theirs = (torch.log_softmax(x / TEMPERATURE, -1) for x in (logits, said[batch]))
                soft = F.kl_div(mine, theirs, log_target=True, reduction="batchmean") * TEMPERATURE**2
                loss = soft + WEIGHT * F.cross_entropy(logits, classes[batch])
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

    return loop


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def compare(
    student: Student, settings: distil.Settings, context: Context, taught: Supervision, rounds: int, steps: int
) -> list[tuple[float, float]]:
    """attar's time over that of the loop by hand, a round: by the clock, and of the processor."""
    sides = (lambda: distil.apply(student, settings, context), by_hand(student, taught, context.train.labels or ()))
    for side in sides:
        side()
    found = []
    for number in range(rounds):
        order = (0, 1) if number % 2 else (1, 0)
        times = {place: spent(sides[place]) for place in order}
        found.append((times[0][0] / times[1][0], times[0][1] / times[1][1]))
        seconds = [times[place][1] / steps for place in (0, 1)]
        print(f"round {number + 1}: {seconds[0]:.4f} s a step, by hand {seconds[1]:.4f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=12, help="of each side in a round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    student = learner()
    settings = distil.Settings(epochs=1, batch_size=BATCH, learning_rate=RATE)
    with tempfile.TemporaryDirectory() as teacher:
        context, taught = classroom(student, args.steps, Path(teacher))
        compared = compare(student, settings, context, taught, args.rounds, args.steps)
    for name, ratios in zip(("clock", "processor"), zip(*compared, strict=True), strict=True):
        ratio = summarize(ratios)
        print(f"attar / by hand, {name}: {ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}], {args.rounds} rounds")


if __name__ == "__main__":
    main()
