"""A diarization pipeline of pyannote.audio in a directory: its own classes with untrained weights.

The segmentation finds one speaker in every frame. The embedding's weights are random, which is enough to distinguish
two tones.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.transcribe.engine.windows import SAMPLE_RATE_HZ

_CHUNK_S = 1.0


def write_pipeline(folder: Path) -> Path:
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import XVectorMFCC
    from pyannote.audio.models.segmentation.debug import SimpleSegmentationModel

    torch.manual_seed(1)
    segmentation = SimpleSegmentationModel()
    segmentation.specifications = Specifications(
        problem=Problem.MULTI_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=_CHUNK_S,
        classes=["speaker#1", "speaker#2"],
        permutation_invariant=True,
    )
    segmentation.build()
    with torch.no_grad():
        segmentation.classifier.weight.zero_()
        segmentation.classifier.bias.copy_(torch.tensor([5.0, -5.0]))
    embedding = XVectorMFCC(dimension=16)
    embedding.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=_CHUNK_S, classes=["a", "b"]
    )
    embedding.build()
    for name, model in (("segmentation", segmentation), ("embedding", embedding)):
        _save(folder / name, model)
    plda = folder / "plda"
    plda.mkdir()
    np.savez(plda / "xvec_transform.npz", mean1=np.zeros(16), mean2=np.zeros(16), lda=np.eye(16))
    np.savez(plda / "plda.npz", mu=np.zeros(16), tr=np.eye(16), psi=np.arange(1.0, 17.0))
    (folder / "config.yaml").write_text(
        """
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params:
    segmentation: $model/segmentation
    embedding: $model/embedding
    plda: $model/plda
    clustering: AgglomerativeClustering
params:
  segmentation: {threshold: 0.5, min_duration_off: 0.0}
  clustering: {method: centroid, min_cluster_size: 12, threshold: 0.05}
"""
    )
    return folder


def _save(folder: Path, model: Any) -> None:
    import torch

    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.0.0",
    }
    model.on_save_checkpoint(checkpoint)
    folder.mkdir(parents=True)
    torch.save(checkpoint, folder / "pytorch_model.bin")


def tone(hz: float, seconds: float) -> NDArray[np.float32]:
    """Return a voice that the pipeline recognizes: float32, 16 kHz."""
    times = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    found: NDArray[np.float32] = (0.3 * np.sin(2 * np.pi * hz * times)).astype(np.float32)
    return found
