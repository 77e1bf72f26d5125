"""Structured pruning: tensors get smaller, nothing is merely set to zero."""
