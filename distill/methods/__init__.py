"""One file a distillation loss: pure functions, shapes stated."""
