"""A channel's own levels, followed frame by frame: its background, its speech, and what is loud between them.

A line may be 26 dB too soft, or carry noise that a fixed threshold would take for speech. So levels are compared with
the channel's own. They are followed slowly and by counts of frames, so a replay follows them alike.
"""

from typing import Final

import msgspec

BUCKET_FRAMES: Final = 32
"""About a second."""

_BUCKETS: Final = 8
_SUSTAINED: Final = 3
"""96 ms: a shorter sound is a click, a shorter silence a lost packet."""
_LEAST_DB: Final = -80.0
_FIRST_FLOOR_DB: Final = -65.0
_ABOVE_FLOOR_DB: Final = 4.0
"""So little, because the look of the sound tells noise from a voice (`sound`). With 20 dB, 1.1 % of the words of human
speech 10 dB above street noise, or after an automatic gain that raises the noise in each pause, were in no utterance;
with 4 dB none, and no more of half an hour of sounds without speech was taken for it."""
_BELOW_SPEECH_DB: Final = 22.0
_ACTIVE_DB: Final = 12.0
_FADE_DB: Final = 0.1
"""3 dB a second of sound: after something loud the measure is soft speech again in seconds."""

_NOMINAL_DB: Final = -18.0
_GAIN_STEP_DB: Final = 6
_GAIN_SLACK_DB: Final = 11.0
_SOFT_FRAMES: Final = 32
_LOUDEST_FLOOR_DB: Final = -50.0
_GAINS_DB: Final = (-12, 24)


class LoudnessState(msgspec.Struct, array_like=True):
    """`frame` counts the frames of the current second, `quietest` has a number per second, the last one first.

    `speech_db` is None until something was above the floor; `soft` counts frames with sound that ask for more gain.
    """

    frame: int = 0
    quietest: list[float] = msgspec.field(default_factory=lambda: [_FIRST_FLOOR_DB] * _BUCKETS)
    quietest_now: float = 0.0
    last: list[float] = msgspec.field(default_factory=lambda: [_LEAST_DB] * (_SUSTAINED - 1))
    speech_db: float | None = None
    gain_db: int = 0
    soft: int = 0


class Loudness:
    """The levels of one channel, as of the last frame. `state` is changed in place.

    The floor is the second lowest of eight numbers, each the quietest 96 ms of a second. So pauses inside speech set
    it, and neither a dropped packet nor a second without a pause does; it follows a louder background after seven
    seconds. The level of speech is that of the loudest 96 ms, and fades while there is sound.
    """

    def __init__(self, state: LoudnessState | None = None) -> None:
        self.state = state or LoudnessState()

    @property
    def floor_db(self) -> float:
        return max(_LEAST_DB, sorted(self.state.quietest)[1])

    def push(self, level_db: float) -> bool:
        """Take the next frame. Returns whether it is loud: above the floor, and not far below speech."""
        state = self.state
        floor_db = self.floor_db
        around = [*state.last, level_db]
        state.last = around[1:]
        self._follow_floor(max(around))
        if level_db > floor_db + _ACTIVE_DB:
            sustained_db = min(around)
            if state.speech_db is not None:
                state.speech_db = max(state.speech_db - _FADE_DB, sustained_db, floor_db + _ACTIVE_DB)
                self._follow_gain(state.speech_db, floor_db)
            elif sustained_db > floor_db + _ACTIVE_DB:
                state.speech_db = sustained_db
        speech_db = _LEAST_DB if state.speech_db is None else state.speech_db
        return level_db > floor_db + _ABOVE_FLOOR_DB and level_db > speech_db - _BELOW_SPEECH_DB

    def _follow_floor(self, loudest_db: float) -> None:
        state = self.state
        state.quietest_now = min(state.quietest_now, loudest_db)
        state.frame += 1
        if state.frame == BUCKET_FRAMES:
            state.quietest = [state.quietest_now, *state.quietest[:-1]]
            state.frame, state.quietest_now = 0, 0.0

    def _follow_gain(self, speech_db: float, floor_db: float) -> None:
        """Move the gain only when it is far off, a model hears worse while it changes: down at once, up after a second
        of sound.
        """
        state = self.state
        wanted = min(_NOMINAL_DB - speech_db, max(0.0, _LOUDEST_FLOOR_DB - floor_db))
        state.soft = state.soft + 1 if wanted > state.gain_db + _GAIN_SLACK_DB else 0
        if state.soft >= _SOFT_FRAMES or wanted < state.gain_db - _GAIN_SLACK_DB:
            step = _GAIN_STEP_DB * round(wanted / _GAIN_STEP_DB)
            state.gain_db, state.soft = min(max(step, _GAINS_DB[0]), _GAINS_DB[1]), 0
