"""The sound that an engine decodes when it is loaded, to see that it works."""

from typing import Final

import numpy as np

from stages.transcribe.engine.protocol import Row
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ

_AT_S: Final = np.arange(SAMPLE_RATE_HZ, dtype=np.float32) / SAMPLE_RATE_HZ

SWEEP: Final = Row(
    audio=(0.3 * np.sin(2 * np.pi * (200 + 400 * _AT_S) * _AT_S)).astype(np.float32),
    voiced=[(0.0, 1.0)],
    language="en",
)
"""A second of a rising tone."""
