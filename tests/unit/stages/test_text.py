from stages.text import sentences, word_spans


def test_sentences_end_at_marks_before_white_space() -> None:
    assert sentences("It costs 3.50. Right?  Yes…\nGood!") == ["It costs 3.50.", "Right?", "Yes…", "Good!"]


def test_full_width_marks_end_sentences_without_white_space() -> None:
    assert sentences("好的。谢谢！") == ["好的。", "谢谢！"]


def test_words_are_found_in_order_even_when_they_repeat() -> None:
    assert word_spans("no, no more", ["no", "no", "more"]) == [(0, 2), (4, 6), (7, 11)]


def test_a_word_that_is_not_in_the_text_gives_no_spans() -> None:
    assert word_spans("no more", ["more", "no"]) is None
