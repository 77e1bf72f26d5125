"""A recipe run end to end: steps, cache, resume, report."""
