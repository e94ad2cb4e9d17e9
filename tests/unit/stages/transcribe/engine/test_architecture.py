"""Folders of Whisper weights of every shape, and damaged ones: what is read from them, and what is loaded."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from faster_whisper import WhisperModel

from pipeline.wiring.weights import resolve_model
from stages.transcribe.engine.architecture import WeightsError, read_architecture
from stages.transcribe.engine.devices import CPU
from stages.transcribe.engine.loading import load_weights
from stages.transcribe.engine.protocol import Detection, Row, Transcription
from stages.transcribe.engine.sweep import SWEEP
from stages.transcribe.engine.whisper import Engine
from tests.support.models.whisper import SHAPES, Shape, write_whisper

SMALL = Shape(64, 2, 2)
SMALL_V3 = Shape(64, 2, 2, languages=100, n_mels=128)
DISTILLED = Shape(128, 4, 2)
SAID = msgspec.structs.replace(SWEEP, language="en")
Edit = Callable[[Path], object]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the real Whisper base."""
    return resolve_model("base", tmp_path_factory.mktemp("models")).path


@pytest.fixture(scope="module")
def write(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Shape], Path]:
    """Return the folder of a shape's weights, written once. Tests change copies."""
    folders: dict[Shape, Path] = {}

    def written(shape: Shape) -> Path:
        if shape not in folders:
            folders[shape] = write_whisper(tmp_path_factory.mktemp("weights"), shape, base=base)
        return folders[shape]

    return written


@pytest.fixture
def edited(write: Callable[[Shape], Path], tmp_path: Path) -> Callable[[Shape, Edit], Path]:
    """Return a copy of a shape's weights with an edit."""

    def made(shape: Shape, edit: Edit) -> Path:
        folder = Path(shutil.copytree(write(shape), tmp_path / "weights"))
        edit(folder)
        return folder

    return made


def configured(**values: Any) -> Edit:
    """Return an edit that sets values in `config.json`, and removes those that are None."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps({name: one for name, one in config.items() if one is not None}))

    return edit


def transcribed(folder: Path, row: Row = SAID) -> Transcription:
    [done] = Engine(folder, name="mine", beam_size=1).transcribe_batch([row])
    return done


def test_the_real_base_model_is_recognised_by_its_shape(base: Path) -> None:
    read = read_architecture(base)
    assert (read.shape, read.encoder_layers, read.decoder_layers, read.width, read.heads) == ("base", 6, 6, 512, 8)
    assert (read.n_mels, read.multilingual, len(read.languages), read.n_parameters) == (80, True, 99, 72_603_136)
    assert (len(read.alignment_heads), read.heads_doubt) == (8, "")
    assert "en" in read.languages
    assert "yue" not in read.languages


@pytest.mark.parametrize(("name", "n_languages"), [("tiny", 99), ("tiny.en", 1)])
def test_a_published_shape_has_its_name_whatever_the_folder_is_called(
    name: str, n_languages: int, write: Callable[[Shape], Path]
) -> None:
    read = read_architecture(write(SHAPES[name]))
    assert (read.shape, len(read.languages)) == (name, n_languages)
    assert Engine(write(SHAPES[name]), name="mine", beam_size=1).languages == read.languages


@pytest.mark.parametrize(
    ("width", "encoder_layers", "decoder_layers", "n_mels", "shape"),
    [
        (768, 12, 12, 80, "small"),
        (768, 12, 4, 80, "distil-small"),
        (1024, 24, 24, 80, "medium"),
        (1024, 24, 2, 80, "distil-medium"),
        (1280, 32, 32, 80, "large-v2"),
        (1280, 32, 32, 128, "large-v3"),
        (1280, 32, 4, 128, "large-v3-turbo"),
        (1280, 32, 2, 128, "distil-large-v3"),
        (1280, 32, 2, 80, "distil-large-v2"),
        (640, 32, 2, 80, "32+2 layers of 640"),
    ],
)
def test_the_large_shapes_have_names(
    width: int, encoder_layers: int, decoder_layers: int, n_mels: int, shape: str, base: Path
) -> None:
    read = read_architecture(base)
    layers = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
    assert msgspec.structs.replace(read, width=width, n_mels=n_mels, **layers).shape == shape


def test_a_row_takes_the_memory_that_its_shape_needs(base: Path) -> None:
    read = read_architecture(base)
    large = msgspec.structs.replace(read, width=1280, encoder_layers=32, decoder_layers=32, heads=20)
    turbo = msgspec.structs.replace(large, decoder_layers=4)
    assert 0.22e9 < large.row_bytes(5) < 0.36e9
    assert read.row_bytes(5) < turbo.row_bytes(5) < large.row_bytes(1) < large.row_bytes(5)


@pytest.mark.parametrize("shape", [SMALL, SMALL_V3, DISTILLED, Shape(64, 2, 2, languages=1)])
def test_every_shape_is_loaded_and_decoded_with_its_own_mel_bands_and_languages(
    shape: Shape, write: Callable[[Shape], Path]
) -> None:
    loaded = Engine(write(shape), name="mine", beam_size=1)
    [done] = loaded.transcribe_batch([SAID])
    assert done.text
    assert len(loaded.languages) == shape.languages
    assert loaded.max_batch == 1
    assert loaded.window_s(SAID) == 30


def test_a_model_with_128_mel_bands_needs_no_preprocessor_config(edited: Callable[[Shape, Edit], Path]) -> None:
    folder = edited(SMALL_V3, lambda folder: (folder / "preprocessor_config.json").unlink())
    assert transcribed(folder).text


def test_whisperx_is_told_the_mel_bands_of_the_weights(edited: Callable[[Shape, Edit], Path]) -> None:
    """Its pipeline takes them from `feat_kwargs`, and 80 without."""
    folder = edited(SMALL_V3, lambda folder: (folder / "preprocessor_config.json").unlink())
    loaded = load_weights(WhisperModel, folder, device=CPU, compute_type="auto", workers=1)
    assert loaded.model.feat_kwargs["feature_size"] == 128


@pytest.mark.parametrize("heads", [None, [], "all", [[3, 0], [5, 1]], [[1, 2]], [[1, 0], [5, 1]], [[-1, 0]]])
def test_alignment_heads_that_the_decoder_lacks_are_replaced_by_those_of_its_upper_half(
    heads: Any, edited: Callable[[Shape, Edit], Path]
) -> None:
    read = read_architecture(edited(DISTILLED, configured(alignment_heads=heads)))
    assert (read.alignment_heads, bool(read.heads_doubt)) == (((1, 0), (1, 1)), True)


def test_a_distilled_model_with_the_alignment_heads_of_its_teacher_times_words_and_says_once_by_which(
    edited: Callable[[Shape, Edit], Path],
) -> None:
    """In a process of its own: CTranslate2 ends the process for heads that the decoder lacks."""
    folder = edited(DISTILLED, configured(alignment_heads=[[3, 0], [5, 1]]))
    code = (
        "import sys, pathlib\n"
        "from tests.unit.stages.transcribe.engine.test_architecture import transcribed\n"
        "done = transcribed(pathlib.Path(sys.argv[1]))\n"
        "assert done.words and ' '.join(word.text for word in done.words).split() == done.text.split()\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("words are timed less exactly") == 1


@pytest.mark.parametrize("named", [None, [], [50_259, 50_362]])
def test_languages_are_detected_whatever_tokens_the_config_names_for_them(
    named: Sequence[int] | None, edited: Callable[[Shape, Edit], Path]
) -> None:
    """50362 is no language, but `nospeech`, which some converters add."""
    detected: dict[str, float] = {}

    def choose(found: Detection) -> str:
        detected.update(found)
        return "en"

    transcribed(edited(SMALL, configured(lang_ids=named)), msgspec.structs.replace(SWEEP, language=choose))
    assert len(detected) == 99
    assert "nospeech" not in detected


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda folder: os.truncate(folder / "model.bin", 3_000_000), "cut short"),
        (lambda folder: os.truncate(folder / "model.bin", 20), "cut short"),
        (lambda folder: (folder / "model.bin").write_bytes(b"PK\3\4 and more of it"), "not in CTranslate2's format"),
        (lambda folder: (folder / "model.bin").write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        (lambda folder: (folder / "model.bin").unlink(), "has no model.bin"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (configured(suppress_ids=None), "has no suppress_ids"),
        (lambda folder: (folder / "vocabulary.json").unlink(), "no vocabulary.json"),
        (lambda folder: (folder / "vocabulary.json").write_text('["a", "b"]'), "2 tokens, its weights 51865"),
        (lambda folder: (folder / "vocabulary.json").write_text("["), "vocabulary.json is damaged"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json is damaged"),
    ],
)
def test_a_damaged_folder_is_an_error_of_one_line_that_names_it_and_what_is_wrong(
    edit: Edit, says: str, edited: Callable[[Shape, Edit], Path]
) -> None:
    folder = edited(SMALL, edit)
    with pytest.raises(WeightsError) as caught:
        Engine(folder, name="base")
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_no_whisper_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\6\0\0\0\x10\0TransformerSpec\0\7\0\0\0\0\0\0\0")
    with pytest.raises(WeightsError, match="'TransformerSpec', no Whisper model"):
        read_architecture(tmp_path)


def test_the_tokenizer_of_another_model_is_refused(
    write: Callable[[Shape], Path], edited: Callable[[Shape, Edit], Path]
) -> None:
    """That of large-v2 with the weights of large-v3 names the task by another token, and the text is another."""
    others = write(SMALL) / "tokenizer.json"
    folder = edited(SMALL_V3, lambda folder: shutil.copy(others, folder / "tokenizer.json"))
    with pytest.raises(WeightsError, match=r"of another model \(<\|translate\|> is 50358, not 50359\)"):
        Engine(folder, name="mine")


def test_weights_of_another_shape_do_not_get_the_windows_of_their_name(
    base: Path, write: Callable[[Shape], Path]
) -> None:
    row = msgspec.structs.replace(SAID, audio=SAID.audio[:16_000])
    assert Engine(write(SMALL), name="base").window_s(row) == 30
    assert Engine(base, name="./my-fine-tuned-base").window_s(row) == 30
    assert Engine(base, name="base").window_s(row) < 30
