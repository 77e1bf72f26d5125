"""What every test shares: no network, few threads, and the same hypothesis examples on every run."""

import os

from hypothesis import settings

# Read when transformers, tokenizers, torch and matplotlib are first imported, which is after this file.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

settings.register_profile("attar", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("attar")
