from benchmarks.speech.voice import sound_groups, word_groups


def test_words_that_are_written_as_one_get_no_time() -> None:
    groups = ["bˈæləns", "ʌvðə", "ɐkˈaʊnt"]
    alone = ["bˈæləns", "ʌv", "ðə", "ɐkˈaʊnt"]
    assert word_groups(groups, alone) == [0, None, None, 2]


def test_words_and_groups_that_agree_are_paired_in_order() -> None:
    assert word_groups(["ðæt", "ɪz", "ˈɔːl"], ["ðæt", "ɪz", "ˈɔːl"]) == [0, 1, 2]


def test_a_sentence_with_more_groups_than_words_gets_no_times() -> None:
    assert word_groups(["naɪn", "tiːn"], ["naɪntiːn"]) == [None]


def test_a_word_spans_its_first_to_its_last_sound_without_pauses() -> None:
    phonemes = [("^", 10), ("n", 20), ("oʊ", 30), (",", 40), (" ", 5), ("θ", 7), (".", 9), ("$", 3)]
    assert sound_groups(phonemes) == [("noʊ", (10, 60)), ("θ", (105, 112))]
