"""The likeliest token of a row of logits, and how likely it is: what every step asks of all of them."""

from __future__ import annotations

import torch
from torch import Tensor


def likeliest_tokens(logits_SV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The token with the highest logit in each row, of equal ones the lowest.

    Args:
        logits_SV: any floating dtype, left as they are.

    Returns:
        [S] int64 these tokens, any where a logit is NaN; [S] float32 their logits; and [S] float32 the logarithm of the
        sum of all exponentials, 0 where every logit is -inf and NaN where one is NaN or +inf.
    """
    logits = logits_SV.float()
    token = logits.argmax(dim=-1)
    total = logits.logsumexp(dim=-1)
    total = total.masked_fill(total == torch.inf, torch.nan).masked_fill(total == -torch.inf, 0.0)
    return token, logits.gather(1, token[:, None])[:, 0], total
