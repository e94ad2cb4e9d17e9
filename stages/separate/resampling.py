"""A streaming sample rate converter whose output does not depend on how the input is divided into blocks.

Polyphase FIR with a Kaiser-windowed sinc (Oppenheim and Schafer, "Discrete-Time Signal Processing", chapters 4 and 7).
Samples and coefficients are integers whose sums stay below 2**53, so float64 arithmetic is exact in any order. The same
input gives the same bytes with any block size, any BLAS and after any restart.
"""

import math
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stages.separate.codecs import Samples

_ZERO_CROSSINGS: Final = 16
_KAISER_BETA: Final = 8.0
_ROLL_OFF: Final = 0.94
_UNIT: Final = 1 << 18
_MAX_PHASES: Final = 1024


class ResamplerState(msgspec.Struct, frozen=True, array_like=True):
    """All that later output depends on: the last input samples, and the positions in input and output."""

    tail: bytes
    tail_start: int
    produced: int


class StreamingResampler:
    """Converts mono int16 from `source_hz` to `target_hz`, both integers.

    Output sample n is the signal at time n / `target_hz`. The timeline has no delay: an output only waits for the input
    half a filter ahead of it.
    """

    def __init__(self, source_hz: int, target_hz: int, state: ResamplerState | None = None) -> None:
        divisor = math.gcd(source_hz, target_hz)
        self._source_hz, self._target_hz = source_hz, target_hz
        self._up, self._down = target_hz // divisor, source_hz // divisor
        self._filters = _filters(self._up, self._down)
        self._half = self._filters.shape[1] // 2
        if state is None:
            self._tail: NDArray[np.float64] = np.zeros(self._half)
            self._tail_start = -self._half
            self._produced = 0
        else:
            self._tail = np.frombuffer(state.tail, "<i2").astype(np.float64)
            self._tail_start, self._produced = state.tail_start, state.produced

    def snapshot(self) -> ResamplerState:
        return ResamplerState(self._tail.astype("<i2").tobytes(), self._tail_start, self._produced)

    def push(self, samples: Samples) -> Samples:
        """Take samples, shape (n,), and return the output that they complete, shape (m,)."""
        signal = np.concatenate([self._tail, samples])
        end = self._tail_start + len(signal)
        # Output n needs the input up to floor(n * down / up) + half.
        ready = max(self._produced, ((end - self._half) * self._up - 1) // self._down + 1)
        outputs = self._convolve(signal, self._produced, ready)
        self._produced = ready
        keep_from = self._produced * self._down // self._up - self._half + 1
        self._tail = signal[max(0, keep_from - self._tail_start) :].copy()
        self._tail_start = end - len(self._tail)
        return outputs

    def finish(self) -> Samples:
        """Return the rest of the output when the input ends, so that both have the same duration."""
        n_inputs = self._tail_start + len(self._tail)
        left = -(-n_inputs * self._up // self._down) - self._produced
        return self.push(np.zeros(self._half + 1, np.int16))[: max(0, left)]

    def skip_silence(self, seconds: int) -> None:
        """Advance as if this many seconds of zeros had been pushed. Allowed only after zeros longer than the filter."""
        self._tail_start += seconds * self._source_hz
        self._produced += seconds * self._target_hz

    def _convolve(self, signal: NDArray[np.float64], first: int, last: int) -> Samples:
        n = np.arange(first, last, dtype=np.int64)
        starts = n * self._down // self._up - self._half + 1 - self._tail_start
        n_phases, n_taps = self._filters.shape
        windows = np.lib.stride_tricks.sliding_window_view(signal, n_taps) if len(signal) >= n_taps else None
        if windows is None or not len(n):
            return np.zeros(0, np.int16)
        if self._down == 1:
            sums = np.empty(len(n))
            for phase in range(min(self._up, len(n))):
                own = starts[phase :: self._up]
                taps = self._filters[(first + phase) % self._up]
                part = signal[own[0] : own[-1] + n_taps]
                sums[phase :: self._up] = np.convolve(part, taps[::-1], "valid")
        else:
            phases = (n * self._down % self._up) * n_phases // self._up
            sums = np.einsum("ij,ij->i", windows[starts], self._filters[phases])
        return np.clip(np.rint(sums / _UNIT), -32768, 32767).astype(np.int16)


@lru_cache(maxsize=8)
def _filters(up: int, down: int) -> NDArray[np.float64]:
    """Return the integer taps, shape (phases, taps); phase p interpolates p / phases after its middle sample."""
    n_phases = min(up, _MAX_PHASES)
    cutoff = _ROLL_OFF * min(1.0, up / down)
    half = math.ceil(_ZERO_CROSSINGS / min(1.0, up / down))
    offsets = np.arange(-half + 1, half + 1)[None, :] - np.arange(n_phases)[:, None] / n_phases
    window = np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - (offsets / half) ** 2))) / np.i0(_KAISER_BETA)
    taps = cutoff * np.sinc(cutoff * offsets) * window
    taps /= taps.sum(axis=1, keepdims=True)
    return np.asarray(np.rint(taps * _UNIT))
