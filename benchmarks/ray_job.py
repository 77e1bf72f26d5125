"""A job under a local Ray: Ray Data maps batches of a Parquet file with `Predictor`, and every answer is compared with
those of `answer_file` on the same rows.

pip install ray "attar[cpu,parquet]"
python benchmarks/ray_job.py build/sentiment/bundle --rows 2000
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import ray
from jobs_rows import arguments, compare, one_machine

from attar.runtime.jobs import Predictor


def main() -> None:
    args = arguments(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        source, wanted = one_machine(args.bundle, args.rows, Path(scratch))
        ray.init(num_cpus=args.workers, include_dashboard=False, log_to_driver=False)
        predict = Predictor(str(args.bundle), column="text", threads=1)
        data = ray.data.read_parquet(str(source))
        data.map_batches(predict, batch_format="numpy", batch_size=256).write_parquet(f"{scratch}/ray")
        compare(f"Ray {ray.__version__}", Path(scratch, "ray"), wanted)
        ray.shutdown()


if __name__ == "__main__":
    main()
