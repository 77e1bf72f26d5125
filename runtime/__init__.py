"""What is deployed: bundle, engine, tasks, server, benchmark. numpy, tokenizers and one engine; never torch."""

from attar.runtime.bundle import Bundle, Manifest
from attar.runtime.model import Model, load
from attar.runtime.tasks.classification import Classification

__all__ = ["Bundle", "Classification", "Manifest", "Model", "load"]
