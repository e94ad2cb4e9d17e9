from pathlib import Path

import pytest

from benchmarks.support import labelled
from benchmarks.support.labelled import KINDS, SUPPORTED, Judged, labelled_calls, rates
from stages.summarize.check.support import Support, SupportCheck


def test_no_call_is_in_two_splits_and_each_has_every_label() -> None:
    splits = {split: labelled_calls(split) for split in ("dev", "test", "fresh")}
    names = [call.name for calls in splits.values() for call in calls]
    assert sorted(names) == sorted(call.name for call in labelled_calls())
    for calls in splits.values():
        labels = [label for call in calls for label, _ in call.claims]
        assert set(labels) == {SUPPORTED, *KINDS}
        assert 0.4 < labels.count(SUPPORTED) / len(labels) < 0.6


def test_no_claim_is_made_twice_of_a_call() -> None:
    for call in labelled_calls():
        texts = [claim.text for _, claim in call.claims]
        assert len(texts) == len(set(texts)), call.name


@pytest.mark.parametrize("claim", ['["suported", [1], "A."]', '["supported", [2], "A."]', '["invented", [], "A."]'])
def test_a_label_or_a_line_that_does_not_exist_is_refused(
    claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.toml").write_text(f'split = "dev"\nlines = [["agent", "Hello."]]\nclaims = [{claim}]\n')
    monkeypatch.setattr(labelled, "CLAIMS", tmp_path)
    with pytest.raises(ValueError, match=r"a\.toml"):
        labelled_calls()


def test_rates_of_both_answers() -> None:
    def judged(label: str, supported: bool) -> Judged:
        answer = Support(supported=supported, reason=None, detail="", score=0.0, signals=())
        return Judged("a", label, "A.", answer)

    figures = rates([judged(SUPPORTED, True)] * 3 + [judged(SUPPORTED, False), judged("invented", True)])
    assert figures["supported"] == {"precision": 0.75, "recall": 0.75, "f1": 0.75}
    assert figures["unsupported"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert figures["right"]["supported"] == [3, 4]
    assert figures["right"]["invented"] == [0, 1]


def test_figures_come_for_each_check() -> None:
    calls = labelled_calls("fresh")[:1]
    figures = labelled.measured(calls, {"words": None})["words"]
    assert figures["claims"] == len(calls[0].claims) == len(labelled.judge(SupportCheck(), calls[0]))
