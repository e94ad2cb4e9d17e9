"""Speaker turns on one channel, estimated by clustering voice embeddings. See `diarization.Diarizer`.

Speech is cut into overlapping windows, each window's voice embedding is computed, and Ward's tree over them is cut into
as many voices as are clearly different. Measured on two calls of two speakers at 8 kHz: the means of two halves of one
speaker's windows have a cosine of 0.92 or more, those of two speakers 0.53 to 0.76.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.utterances import UNKNOWN_SPEAKER, SpeakerTurn
from stages.transcribe.engine.protocol import Audio
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.speakers.voices import Embeddings, Encoder

WINDOW_S: Final = 1.6
HOP_S: Final = 0.4
_MIN_VOICED_S: Final = 0.4
"""Less speech than this does not identify a voice."""
_SURE_S: Final = 1.2
"""Windows with less speech than this are not used to find the voices."""
MAX_VOICES: Final = 6
_MIN_WINDOWS: Final = 3
"""A group of fewer windows is no voice but, say, two speakers at once or a noise."""
_SAME_VOICE: Final = 0.85
"""Groups whose means have this cosine are one voice."""
_MAX_TREE: Final = 2_000
"""The most windows that the tree is built over, because its memory grows with their square. Of more windows as many
are taken at even distances."""
_MIN_LIKENESS: Final = 0.5
_MIN_LEAD: Final = 0.02
"""A stretch belongs to the most similar voice only if its likeness exceeds that of the next by this much."""


class _VoiceWindow(msgspec.Struct, frozen=True, eq=False):
    start_s: float
    end_s: float
    voiced_s: float


class VoiceEstimate:
    """The voices of one call. See `diarization.CallVoices`."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._windows: list[_VoiceWindow] = []
        self._embeddings: list[Embeddings] = []

    def add(self, audio: Audio, start_s: float, voiced: Sequence[tuple[float, float]]) -> None:
        """Add an utterance. `start_s` and `voiced` are seconds from the call's start."""
        if not voiced:
            return
        windows = [window for window in _windows(voiced) if window.voiced_s >= _MIN_VOICED_S]
        for length_s in sorted({round(window.end_s - window.start_s, 3) for window in windows}):
            alike = [window for window in windows if round(window.end_s - window.start_s, 3) == length_s]
            n_samples = int(length_s * SAMPLE_RATE_HZ)
            firsts = [max(0, round((window.start_s - start_s) * SAMPLE_RATE_HZ)) for window in alike]
            pieces = [audio[first : first + n_samples] for first in firsts]
            self._windows += alike
            self._embeddings.append(
                self._encoder.encode([np.pad(piece, (0, n_samples - len(piece))) for piece in pieces])
            )

    def close(self) -> None:
        self._windows, self._embeddings = [], []

    def turns(self) -> list[SpeakerTurn]:
        """Return the turns of `speaker_1`, `speaker_2`, …, numbered in the order of their first turns."""
        if not self._windows:
            return []
        embeddings = np.concatenate(self._embeddings)
        sure = np.array([window.voiced_s >= _SURE_S for window in self._windows])
        voices = find_voices(embeddings[sure] if sure.sum() >= 2 * _MIN_WINDOWS else embeddings)
        likeness = embeddings @ voices.T
        order = sorted(range(len(self._windows)), key=lambda index: self._windows[index].start_s)
        return _turns([self._windows[index] for index in order], likeness[order])


def find_voices(embeddings: Embeddings) -> Embeddings:
    """Return the mean embedding of each voice, shape (n_voices, n), each of length 1. There is at least one voice."""
    if len(embeddings) > _MAX_TREE:
        embeddings = embeddings[np.linspace(0, len(embeddings) - 1, _MAX_TREE).astype(int)]
    found = _means(embeddings, np.zeros(len(embeddings), int), 1)
    if len(embeddings) < 2 * _MIN_WINDOWS:
        return found
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(embeddings, method="ward")
    for n_groups in range(2, 2 * MAX_VOICES + 1):
        means = _means(embeddings, fcluster(tree, n_groups, criterion="maxclust"), _MIN_WINDOWS)
        likeness = means @ means.T
        alike = len(means) > 1 and float(likeness[~np.eye(len(means), dtype=bool)].max()) >= _SAME_VOICE
        if len(found) < len(means) <= MAX_VOICES and not alike:
            found = means
    return found


def _means(embeddings: Embeddings, groups: NDArray[np.int_], min_members: int) -> Embeddings:
    """Return the mean of each group that has at least `min_members`, scaled to length 1."""
    members = [embeddings[groups == group] for group in np.unique(groups)]
    means = np.stack(
        [found.mean(axis=0) for found in members if len(found) >= min_members] or [embeddings.mean(axis=0)]
    )
    scaled: Embeddings = means / np.linalg.norm(means, axis=1, keepdims=True)
    return scaled


def _windows(voiced: Sequence[tuple[float, float]]) -> list[_VoiceWindow]:
    """Return windows over the stretch from the first to the last speech. The last window ends with it."""
    begin_s, end_s = voiced[0][0], voiced[-1][1]
    length_s = min(WINDOW_S, end_s - begin_s)
    steps = int(max(0.0, end_s - begin_s - length_s) / HOP_S + 1e-9)
    starts_s = [begin_s + HOP_S * step for step in range(steps + 1)]
    if end_s - length_s - starts_s[-1] > HOP_S / 2:
        starts_s.append(end_s - length_s)
    return [
        _VoiceWindow(
            start_s,
            start_s + length_s,
            sum(max(0.0, min(stop_s, start_s + length_s) - max(at_s, start_s)) for at_s, stop_s in voiced),
        )
        for start_s in starts_s
    ]


def _turns(windows: Sequence[_VoiceWindow], likeness: NDArray[np.float32]) -> list[SpeakerTurn]:
    """Assign each moment to the voice that the windows around it are most like. Nearer windows count more."""
    turns: list[SpeakerTurn] = []
    names: dict[int, str] = {}
    first = 0
    while first < len(windows):
        last = first
        while last + 1 < len(windows) and windows[last + 1].start_s < windows[last].end_s:
            last += 1
        run, scores = windows[first : last + 1], likeness[first : last + 1]
        begin_s, end_s = run[0].start_s, run[-1].end_s
        edges_s = np.linspace(begin_s, end_s, max(1, round((end_s - begin_s) / (HOP_S / 2))) + 1)
        middles_s = (edges_s[:-1] + edges_s[1:]) / 2
        centers_s = np.array([(window.start_s + window.end_s) / 2 for window in run])
        weights = np.maximum(0.0, 1 - np.abs(middles_s[:, None] - centers_s) / (WINDOW_S / 2)) + 1e-6
        alike = weights @ scores / weights.sum(axis=1, keepdims=True)
        for index, middle in enumerate(alike):
            name = UNKNOWN_SPEAKER
            ranked = np.argsort(-middle)
            lead = middle[ranked[0]] - middle[ranked[1]] if len(ranked) > 1 else 1.0
            if middle[ranked[0]] >= _MIN_LIKENESS and lead >= _MIN_LEAD:
                name = names.setdefault(int(ranked[0]), f"speaker_{len(names) + 1}")
            _extend(turns, SpeakerTurn(float(edges_s[index]), float(edges_s[index + 1]), name))
        first = last + 1
    return [SpeakerTurn(round(turn.start_s, 3), round(turn.end_s, 3), turn.speaker) for turn in turns]


def _extend(turns: list[SpeakerTurn], turn: SpeakerTurn) -> None:
    if turns and turns[-1].speaker == turn.speaker and turn.start_s - turns[-1].end_s < 1e-6:
        turn = SpeakerTurn(turns.pop().start_s, turn.end_s, turn.speaker)
    turns.append(turn)
