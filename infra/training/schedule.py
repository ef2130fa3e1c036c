"""What sequences a run is made of and how long they are, by how far it is."""

from __future__ import annotations

import math
from collections.abc import Mapping

MIXTURE = {
    "text": 0.28, "facts": 0.24, "paragraphs": 0.11, "gaps": 0.07, "sentences": 0.07, "summary": 0.07,
    "conversation": 0.06, "dialogue": 0.08, "note": 0.02,
}  # fmt: skip
"""Share of the sequences, by what is made of the text."""
LAST_MIXTURE = {
    "text": 0.27, "facts": 0.26, "paragraphs": 0.09, "gaps": 0.02, "sentences": 0.03, "summary": 0.07,
    "conversation": 0.09, "dialogue": 0.13, "note": 0.04,
}  # fmt: skip
"""The same from where sequences are as long as they get: more of what is learned last, and of what short ones teach."""
STAGES = ((0.45, 2048), (0.65, 4096), (1.0, 8192))
"""(end of the stage as a share of the run, longest sequence in tokens)."""
LONGEST_FROM = math.nextafter(STAGES[-2][0], 1)
"""Share of the run from which on sequences are as long as they get."""


def mixture(progress: float) -> Mapping[str, float]:
    """Shares of the sequences when this share of the run (0..1) is done."""
    return LAST_MIXTURE if progress >= LONGEST_FROM else MIXTURE


def longest(progress: float) -> int:
    """Tokens of the longest sequences when this share of the run (0..1) is done."""
    return next(tokens for end, tokens in STAGES if progress <= end)
