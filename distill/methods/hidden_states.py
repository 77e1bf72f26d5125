"""Hidden-state matching (TinyBERT, Jiao et al. 2020, equation 8, without projection: equal widths)."""

from torch import Tensor


def hidden_states(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the real tokens: states (B, T, H) both, mask (B, T) of 0 and 1."""
    per_token = (student.float() - teacher.float()).pow(2).mean(-1)
    weight = mask.to(per_token.dtype)
    return (per_token * weight).sum() / weight.sum()
