"""Long jobs: whole files on one machine (`answer_file`), and batches of columns under Ray or Spark (`Predictor`)."""

from attar.runtime.jobs.files import Progress, Settings, answer_file
from attar.runtime.jobs.predictor import Predictor

__all__ = ["Predictor", "Progress", "Settings", "answer_file"]
