"""Speaker embeddings of stretches of speech, computed with the weights that Resemblyzer ships.

The network is that of Wan, Wang, Papir and Lopez Moreno, "Generalized end-to-end loss for speaker verification",
ICASSP 2018: three LSTM layers over a mel spectrogram, the last state projected and scaled to length 1. Only the weights
are taken from the package: they are small, open and installable without a model hub, but the package's code requires
libraries that are not needed here.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stages.adapters.torch_loading import torch_imports
from stages.transcribe.engine.protocol import Audio, EngineError
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ

Embeddings = NDArray[np.float32]

_SIZE: Final = 256
_MELS: Final = 40
_FFT: Final = 400
_HOP: Final = 160
_LEVEL: Final = 10 ** (-30 / 20)
"""The root mean square of the audio that the network was trained on."""
_BATCH: Final = 32


class Encoder(Protocol):
    def encode(self, windows: Sequence[Audio]) -> Embeddings: ...


class DeferredEncoder:
    """An encoder that is loaded when it is used first. May be used from several threads at once.

    Most calls have a channel per speaker and need none, and with it comes torch: seconds of CPU and 300 MB.
    """

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load
        self._loading = threading.Lock()
        self._encoder: Encoder | None = None

    def encode(self, windows: Sequence[Audio]) -> Embeddings:
        """Raises what `load` raises, at every use until it succeeds."""
        with self._loading:
            if self._encoder is None:
                self._encoder = self._load()
        return self._encoder.encode(windows)


class VoiceEncoder:
    """May be used from several threads at once."""

    def __init__(self, weights: Path) -> None:
        """Raises EngineError for a file that does not hold the network's weights."""
        with torch_imports():
            import torch
            from torchaudio.transforms import MelSpectrogram

        self._torch = torch
        self._lstm = torch.nn.LSTM(_MELS, _SIZE, num_layers=3, batch_first=True)
        self._linear = torch.nn.Linear(_SIZE, _SIZE)
        self._mel = MelSpectrogram(
            SAMPLE_RATE_HZ, _FFT, hop_length=_HOP, n_mels=_MELS, norm="slaney", mel_scale="slaney"
        )
        try:
            state: dict[str, Any] = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
            for name, module in (("lstm", self._lstm), ("linear", self._linear)):
                module.load_state_dict(
                    {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
                )
        except Exception as error:  # unpickling a damaged file raises any error
            raise EngineError(f"{weights} holds no voice embedding: {type(error).__name__}: {error}") from error

    def encode(self, windows: Sequence[Audio]) -> Embeddings:
        """Return embeddings of shape (len(windows), 256), each of length 1. `windows` are of one length, at 16 kHz."""
        torch = self._torch
        with torch.inference_mode():
            embeddings = []
            for first in range(0, len(windows), _BATCH):
                audio = torch.from_numpy(np.stack(windows[first : first + _BATCH]).astype(np.float32))
                audio = audio * (_LEVEL / audio.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-6))
                _, (hidden, _) = self._lstm(self._mel(audio).transpose(1, 2))
                embeddings.append(torch.nn.functional.normalize(torch.relu(self._linear(hidden[-1])), dim=1))
            found: Embeddings = torch.cat(embeddings).numpy() if embeddings else np.zeros((0, _SIZE), np.float32)
            return found
