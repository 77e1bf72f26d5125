"""attar: the smallest, fastest student that keeps its teacher's promise."""

from attar.runtime import Classification, Model, load
from attar.runtime.errors import AttarError
from attar.runtime.version import __version__

__all__ = ["AttarError", "Classification", "Model", "__version__", "load"]
