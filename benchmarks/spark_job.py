"""A job under a local Spark, which `mapInPandas` hands its batches to `Predictor`, and every answer is compared with
those of `answer_file` on the same rows. Spark needs Java.

pip install pyspark pandas "attar[cpu,parquet]"
python benchmarks/spark_job.py build/sentiment/bundle --rows 2000
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas
import pyspark
from jobs_rows import arguments, compare, one_machine
from pyspark.sql import SparkSession

from attar.runtime.jobs import Predictor

SCHEMA = "id long, text string, label string, score double, truncated boolean"


def main() -> None:
    args = arguments(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        source, wanted = one_machine(args.bundle, args.rows, Path(scratch))
        spark = SparkSession.builder.master(f"local[{args.workers}]").config("spark.ui.enabled", "false").getOrCreate()
        predict = Predictor(str(args.bundle), column="text", threads=1)

        def answered(frames: Iterator[pandas.DataFrame]) -> Iterator[pandas.DataFrame]:
            for frame in frames:
                yield pandas.DataFrame(predict({name: frame[name].to_numpy() for name in frame}))

        data = spark.read.parquet(str(source)).repartition(2 * args.workers)
        data.mapInPandas(answered, SCHEMA).write.parquet(f"{scratch}/spark")
        spark.stop()
        compare(f"Spark {pyspark.__version__}", Path(scratch, "spark"), wanted)


if __name__ == "__main__":
    main()
