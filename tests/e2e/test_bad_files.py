"""Recordings that nobody wants, through `callstream transcribe`: a clear line, or what there is; no invented word."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.calls import bad, media
from tests.calls.wording import holds, word_errors
from tests.support.processes.deployment import SAMPLE, Deployment

SCRIPT: dict[str, Any] = json.loads((SAMPLE.parent / "script.json").read_text())
SHORT_S = 9.5
"""The sample call's first two turns."""
MIX_S = 22.8
"""Its first six turns: more speech than it takes to see that two channels are one."""

pytestmark = pytest.mark.slow


def transcribed(running: Deployment, path: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The document that the command writes, and what it says on standard error."""
    [document], stderr = all_transcribed(running, [path], *options)
    return document, stderr


def all_transcribed(running: Deployment, paths: list[Path], *options: str) -> tuple[list[dict[str, Any]], str]:
    """The documents of several files in one command, which is many seconds shorter."""
    out = paths[0].parent / "{stem}.out.json"
    done = running.run("transcribe", *map(str, paths), "--out", str(out), *options)
    assert "Traceback" not in done.stderr
    documents = [json.loads(Path(str(out).replace("{stem}", path.stem)).read_text()) for path in paths]
    assert {document["status"] for document in documents} == {"completed"}
    return documents, done.stderr


def refused(running: Deployment, *arguments: str) -> str:
    """The one line that the command says while it exits 2."""
    done = running.run(*arguments, check=False)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    [line] = done.stderr.splitlines()
    return line


def said(document: dict[str, Any]) -> str:
    return " ".join(turn["text"] for turn in document["turns"])


def script_until(seconds: float) -> str:
    """What the sample call's script says in its first seconds, in the order of speaking."""
    lines = sorted(SCRIPT["lines"], key=lambda line: float(line["start_s"]))
    return " ".join(line["text"] for line in lines if line["end_s"] < seconds)


def sample(seconds: float = SHORT_S) -> tuple[bad.Pcm, int]:
    pcm, rate_hz = bad.read_wav(SAMPLE)
    return pcm[: int(seconds * rate_hz)], rate_hz


# -- refused ---------------------------------------------------------------------------------------------------------


def naming_a_file(path: Path) -> Path:
    """An ffconcat text under an audio file's name, and the file that it names."""
    (path.parent / "other.wav").write_bytes(SAMPLE.read_bytes())
    path.write_text("ffconcat version 1.0\nfile other.wav\n", encoding="utf-8")
    return path


def naming_a_socket(path: Path) -> Path:
    path.write_text(
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 15004 RTP/AVP 0\r\n",
        encoding="utf-8",
    )
    return path


def absurd_rate(path: Path) -> Path:
    path.write_bytes(media.wav_of_rate(2_147_483_647))
    return path


UNUSABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zero bytes": (bad.zero_bytes, "the file is empty"),
    "text": (bad.not_audio, "not a readable audio file"),
    "random bytes": (bad.random_bytes, "not a readable audio file"),
    "text that names a file": (naming_a_file, "not a readable audio file"),
    "text that names a socket": (naming_a_socket, "not a readable audio file"),
    "absurd rate": (absurd_rate, "not a readable audio file (Cannot allocate memory)|2147483647 Hz is above 192000 Hz"),
    "header without samples": (bad.header_only, "holds no audio"),
    "no channels": (bad.no_channels, "it has 0 channels, 1 to 8 can be used"),
    "a header that breaks off": (
        lambda path: bad.truncated(path, SAMPLE, kept=20 / SAMPLE.stat().st_size),
        "not a readable audio file",
    ),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_without_audio_is_refused_by_name(running: Deployment, tmp_path: Path, kind: str) -> None:
    write, reason = UNUSABLE[kind]
    line = refused(running, "transcribe", str(write(tmp_path / "recording.wav")))
    assert line.startswith("callstream: recording.wav: ")
    assert any(each in line for each in reason.split("|"))


def test_a_file_that_does_not_exist_is_refused_by_name(running: Deployment, tmp_path: Path) -> None:
    line = refused(running, "transcribe", str(tmp_path / "nowhere.wav"))
    assert line == "callstream: nowhere.wav: No such file or directory"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--out", "call.docx"], "the suffix must be one of"),
        (["--out", "nowhere/call.txt"], "the folder nowhere does not exist"),
        (["--roles", "left=,=right;9=x"], "--roles"),
        (["--call", "line\nbreak"], "control character"),
        (["--call", "one", str(SAMPLE)], "goes with one file"),
        (["--out", "{stem}.txt", str(SAMPLE)], "two of the files have the same name"),
        (["--tenant", "no spaces"], "tenant 'no spaces'"),
        (["--language", "klingon!"], "--language 'klingon!'"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_an_option_that_cannot_be_used_is_refused(running: Deployment, options: list[str], complaint: str) -> None:
    assert complaint in refused(running, "transcribe", str(SAMPLE), *options)


def test_of_several_files_the_good_ones_are_transcribed(running: Deployment, tmp_path: Path) -> None:
    pcm, rate_hz = sample(5.0)
    good = [bad.write_wav(tmp_path / f"{name}.wav", [pcm], rate_hz=rate_hz, channels=2) for name in ("a", "z")]
    broken = bad.zero_bytes(tmp_path / "broken.wav")
    files = [str(good[0]), str(broken), str(good[1])]
    done = running.run("transcribe", *files, "--out", str(tmp_path / "{stem}.txt"), check=False)
    assert done.returncode == 1
    assert "callstream: broken.wav: the file is empty" in done.stderr
    assert done.stderr.splitlines()[-1] == "callstream: 1 of 3 files failed"
    assert "Traceback" not in done.stderr
    for path in good:
        assert "Thank you for calling" in path.with_suffix(".txt").read_text()
    assert not broken.with_suffix(".txt").exists()


# -- what there is is transcribed ------------------------------------------------------------------------------------


def test_of_a_truncated_file_what_there_is_is_transcribed_and_it_says_so(running: Deployment, tmp_path: Path) -> None:
    path = bad.truncated(tmp_path / "cut.wav", SAMPLE, kept=12 / 62)
    document, stderr = transcribed(running, path)
    assert "cut.wav: the file breaks off after" in stderr
    assert holds(said(document), "Northwind")
    whole_s = bad.read_wav(SAMPLE)[0].shape[0] / 8000
    assert document["duration_s"] == pytest.approx(whole_s * 12 / 62, abs=0.2)


def test_joined_files_of_two_rates_are_transcribed_to_the_end(running: Deployment, tmp_path: Path) -> None:
    pcm, rate_hz = sample()
    part = bad.encoded(tmp_path / "part.mp3", pcm[:, :1], rate_hz=rate_hz)
    path = tmp_path / "joined.mp3"
    path.write_bytes(media.encoded("mp3", "libmp3lame", rate_hz=44_100, hz=0.0) + part.read_bytes())
    document, stderr = transcribed(running, path)
    assert "joined.mp3: damaged at 2.0 s (" in stderr
    assert document["duration_s"] == pytest.approx(2.0 + SHORT_S, abs=0.3)
    assert holds(said(document), "Northwind")


@pytest.fixture(scope="module")
def compressed(running: Deployment, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], str]:
    """The documents by the ending of the file, and what was said on the way."""
    folder = tmp_path_factory.mktemp("compressed")
    pcm, rate_hz = sample()
    paths = [bad.encoded(folder / f"{ending[1:]}{ending}", pcm, rate_hz=rate_hz) for ending in bad.CODECS]
    documents, stderr = all_transcribed(running, paths)
    return dict(zip(bad.CODECS, documents, strict=True)), stderr


@pytest.mark.parametrize("ending", sorted(bad.CODECS))
def test_a_compressed_file_gives_the_words_of_the_call(
    compressed: tuple[dict[str, dict[str, Any]], str], ending: str
) -> None:
    documents, stderr = compressed
    document = documents[ending]
    assert "breaks off" not in stderr
    assert document["duration_s"] == pytest.approx(SHORT_S, abs=0.15)
    assert [turn["channel"] for turn in document["turns"]] == [0, 1]
    errors, words = word_errors(script_until(SHORT_S), said(document))
    assert errors <= 0.1 * words, said(document)


def test_a_mono_mix_keeps_one_channel_and_its_words(running: Deployment, tmp_path: Path) -> None:
    pcm, rate_hz = sample()
    mix = bad.write_wav(tmp_path / "mix.wav", [pcm.sum(axis=1, keepdims=True).clip(-32768, 32767)], rate_hz=rate_hz)
    document, _ = transcribed(running, mix)
    assert [channel["index"] for channel in document["channels"]] == [0]
    errors, words = word_errors(script_until(SHORT_S), said(document))
    assert errors <= 0.1 * words, said(document)


def test_the_same_mix_on_both_channels_is_one_call_and_not_two(running: Deployment, tmp_path: Path) -> None:
    pcm, rate_hz = sample(MIX_S)
    mix = pcm.sum(axis=1, keepdims=True).clip(-32768, 32767)
    path = bad.write_wav(tmp_path / "twice.wav", [np.hstack([mix, -mix])], rate_hz=rate_hz, channels=2)
    document, _ = transcribed(running, path)
    assert document["one_channel"] == 0
    assert {turn["channel"] for turn in document["turns"]} == {0}
    errors, words = word_errors(script_until(MIX_S), said(document))
    assert errors <= 0.2 * words, said(document)


def test_clipped_speech_keeps_most_of_its_words(running: Deployment, tmp_path: Path) -> None:
    pcm, rate_hz = sample()
    path = bad.write_wav(tmp_path / "clipped.wav", [bad.clipped(pcm, gain_db=20)], rate_hz=rate_hz, channels=2)
    document, _ = transcribed(running, path)
    errors, words = word_errors(script_until(SHORT_S), said(document))
    assert errors <= 0.25 * words, said(document)


# -- no speech, no words ---------------------------------------------------------------------------------------------

WITHOUT_SPEECH: dict[str, Callable[[Path], Path]] = {
    "silence": lambda path: bad.write_wav(path, [bad.silence(6.0)]),
    "line noise": lambda path: bad.write_wav(path, [bad.noise(6.0)]),
    "loud noise": lambda path: bad.write_wav(path, [bad.noise(6.0, level_db=-12.0)]),
    "DTMF": lambda path: bad.write_wav(path, [bad.dtmf("0123456789*#" * 3)]),
    "ringback": lambda path: bad.write_wav(path, [bad.ringback(2)]),
    "one sample": lambda path: bad.write_wav(path, [np.ones((1, 1), np.int16)]),
    "192 kHz": bad.at_192_khz,
    "8 channels": bad.eight_channels,
}


@pytest.fixture(scope="module")
def quiet(running: Deployment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The documents of the calls without speech, by their kind."""
    folder = tmp_path_factory.mktemp("quiet")
    paths = [write(folder / f"{kind}.wav") for kind, write in WITHOUT_SPEECH.items()]
    documents, _ = all_transcribed(running, paths)
    return dict(zip(WITHOUT_SPEECH, documents, strict=True))


@pytest.mark.parametrize("kind", WITHOUT_SPEECH)
def test_nobody_is_heard_where_nobody_speaks(quiet: dict[str, dict[str, Any]], kind: str) -> None:
    document = quiet[kind]
    assert document["turns"] == []
    channels = 8 if kind == "8 channels" else 1
    assert [channel["index"] for channel in document["channels"]] == list(range(channels))
    assert len(document["metrics"]["channels"]) == channels
    assert document["summary"] is not None


# -- names -----------------------------------------------------------------------------------------------------------


def test_a_call_id_with_odd_characters_and_a_tenant_find_the_call_again(running: Deployment, tmp_path: Path) -> None:
    call_id = "a/b c é 'x' > *"
    pcm, rate_hz = sample(5.0)
    path = bad.write_wav(tmp_path / "odd name é.wav", [pcm], rate_hz=rate_hz, channels=2)
    document, _ = transcribed(running, path, "--call", call_id, "--tenant", "acme.eu")
    assert (document["call_id"], document["tenant"]) == (call_id, "acme.eu")
    shown = json.loads(running.run("show", call_id, "--tenant", "acme.eu", "--json").stdout)
    assert shown["turns"] == document["turns"]
    assert running.run("show", call_id, check=False).returncode == 2
    again = refused(running, "transcribe", str(path), "--call", call_id, "--tenant", "acme.eu")
    assert "completed already" in again
