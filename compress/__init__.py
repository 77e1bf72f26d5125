"""Smaller and faster: pruning, low-rank factorization, quantization plans, and the gate."""
