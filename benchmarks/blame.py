"""Are planted outliers named, and healed? Random encoders in which k random layers are given an outlier channel.

python benchmarks/blame.py [plants, 40]

One input channel of a matrix is made 50 to 200 times as large by the matrix before it, and its column as much smaller:
in fp32 nothing changes, but one int8 scale no longer fits all channels. Counted is how many of the planted layers are
among the first k that blame names, in both directions: one layer alone in int8, as compress/blame.py has it, and all
but one. Then the healer has to bring the answers back to within 2 points of those in fp32. The cost of a repair is
counted, not timed (fp32 takes twice as long as int8, matrix by matrix), so that every run gives the same numbers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from attar.compress import blame, heal
from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.static import calibrate, shared
from attar.distill.encoder import Encoder, EncoderShape, LayerShape
from attar.distill.heads import HeadShape
from attar.distill.step import Context
from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.pipeline.data import NOTHING
from attar.pipeline.steps import dev_outputs, points
from attar.runtime.bench.paired import Ratio
from attar.runtime.data import Examples
from attar.runtime.tasks.classification import TextClassification

WORDS = 400
HIDDEN, HEADS, NEURONS, CLASSES = 48, 4, 96, 6
MARGIN = 2.0


@dataclass(frozen=True)
class Case:
    """A quantized student, the names of the layers that got an outlier, and texts with its own answers in fp32."""

    student: Student
    planted: tuple[str, ...]
    dev: Examples


def random_student(seed: int, layers: int) -> Student:
    """An encoder with weights of the size that training makes, biases too; its feed-forward parts use ReLU.

    Its words differ more than random ones do, and its answer is of all of them: texts get answers as clear as training
    makes them, and int8 without outliers loses next to nothing.
    """
    layer = LayerShape(HEADS, HIDDEN // HEADS, NEURONS)
    head = HeadShape("logits", CLASSES, reads="mean")
    shape = EncoderShape(WORDS + 4, HIDDEN, 32, (layer,) * layers, (head,), activation="relu")
    generator, encoder = torch.Generator().manual_seed(seed), Encoder(shape)
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            value.normal_(0.0, 0.15, generator=generator)
            if "norm" in name and name.endswith("weight"):
                value.add_(1.0)
        encoder.words.weight.mul_(10)
    labels = tuple(f"class {i}" for i in range(CLASSES))
    return Student(encoder.eval(), vocabulary(), TextClassification(labels, 32))


def vocabulary() -> bytes:
    """A tokenizer of made-up words, one piece each."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(WORDS))]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str().encode()


def plant(student: Student, layers: list[int], random: np.random.Generator) -> Student:
    """The same function in fp32, with an outlier channel in each of the layers: after the values, or after the ReLU."""
    result = student.copy()
    with torch.no_grad():
        for index in layers:
            layer = result.transformer.layers[index]
            before, behind = ((layer.value, layer.output), (layer.ffn_in, layer.ffn_out))[random.integers(2)]
            # The channel that says most, so that it matters how it is rounded; a dead one would do no harm.
            channel = int(behind.weight.square().sum(0).argmax())
            factor = float(random.uniform(50, 200))
            before.weight[channel] *= factor
            before.bias[channel] *= factor
            behind.weight[:, channel] /= factor
    return result


def case(seed: int) -> Case:
    """3 to 6 layers, of which 1 to 3 are planted; every second case with static scales, the others per token."""
    random = np.random.default_rng(seed)
    count = int(random.integers(3, 7))
    planted = sorted(random.choice(count, int(random.integers(1, 4)), replace=False).tolist())
    student = plant(random_student(seed, count), planted, random)
    texts = tuple(" ".join(f"w{w}" for w in random.integers(0, WORDS, random.integers(2, 9))) for _ in range(200))
    with torch.no_grad():  # random weights say the same of nearly all texts: here every class is said of some
        student.encoder.heads["logits"].classifier.bias -= student.logits(texts).mean(0)
    # The half with the clearest answers: trained models are seldom in doubt.
    sure = student.logits(texts).topk(2).values.diff().flatten()
    texts = tuple(texts[i] for i in sure.argsort()[:100].tolist())
    own = tuple(answer.label for answer in student.answer(texts))
    scales = shared(calibrate(student, texts[:32])) if seed % 2 else {}
    dev = Examples(texts, own, "the student's own answers in fp32")
    return Case(replace(student, plan=QuantPlan(scales).to_json()), tuple(f"layers.{i}" for i in planted), dev)


def context(dev: Examples) -> Context:
    """What the healer needs of a step's context."""

    def nothing(*_: object) -> None:
        return None

    return Context(
        dev, NOTHING, dev, nothing, speedup, lambda s: points(in_memory(s, threads=1), dev),
        lambda s: dev_outputs(s, dev), Path(), nothing, nothing,
    )  # type: ignore[arg-type]  # fmt: skip  # nothing is taught here


def speedup(before: Student, after: Student) -> Ratio:
    """How many times faster the second is, if fp32 takes twice as long as int8."""
    ratio = time(before) / time(after)
    return Ratio(ratio, ratio, ratio, 1)


def time(student: Student) -> int:
    """Multiplications, those in fp32 counted twice."""
    plan = QuantPlan.from_json(student.plan)
    sizes = {n.removesuffix(".weight"): v.numel() for n, v in student.encoder.state_dict().items() if v.ndim == 2}
    return sum(size * (1 if plan and n not in plan.full else 2) for n, size in sizes.items() if n.startswith("layers"))


def named_by_healing(student: Student, run: blame.Run) -> list[str]:
    """The other direction: layers by how near the outputs come where they alone are put back into fp32."""
    reference = run(replace(student, plan=None))[1]
    parts = {k: v for k, v in blame.layers(student).items() if k != blame.WORDS}
    left = {
        name: blame.distance(student.task, run(blame.without(student, own))[1], reference)
        for name, own in parts.items()
    }
    return sorted(left, key=left.__getitem__)


def main() -> None:
    plants = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    total, hits, other, inside, before, after, fixed = 0, 0, 0, 0, [], [], 0
    for seed in range(plants):
        found = case(seed)
        work, k = context(found.dev), len(found.planted)
        first = [part.name for part in blame.blame(found.student, work.outputs)[0] if part.name != blame.WORDS][:k]
        total, hits = total + k, hits + len(set(first) & set(found.planted))
        other += len(set(named_by_healing(found.student, work.outputs)[:k]) & set(found.planted))
        healed = heal.apply(found.student, heal.Settings(MARGIN), work)
        facts = healed.lineage[-1]
        inside += facts["inside"]
        fixed += len(facts["repaired"])
        before.append(100 - work.score(found.student))
        after.append(facts["loss_points"])
        print(f"{seed:3}: planted {', '.join(found.planted)}; named {', '.join(first)}; loss {before[-1]:.1f} -> "
              f"{after[-1]:.1f} by {facts['repaired'] or 'nothing'}", flush=True)  # fmt: skip
    print(f"{plants} students, {total} planted layers: {100 * hits / total:.1f} % among the first k named, alone in "
          f"int8; {100 * other / total:.1f} % by putting one back into fp32")  # fmt: skip
    print(f"healed to within {MARGIN} points: {inside} of {plants}, by {fixed / plants:.1f} repairs each; mean loss "
          f"{np.mean(before):.1f} -> {np.mean(after):.1f}, largest {max(before):.1f} -> {max(after):.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
