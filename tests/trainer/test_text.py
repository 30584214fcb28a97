import pytest
import torch

from trainer.text import TextError, tokenize


def test_a_text_is_cleaned_lowered_and_put_between_start_and_end() -> None:
    tokens = tokenize(["Speech, Music", "  speech,\n MUSIC  ", "speech, &amp;amp; music"])
    assert tokens[0, :6].tolist() == [49406, 4902, 267, 1179, 49407, 0]
    assert torch.equal(tokens[0], tokens[1])
    assert tokens.shape == (3, 77)
    assert tokens[2, 3] == 261  # an ampersand, once it is unescaped twice


def test_an_empty_text_is_start_and_end() -> None:
    assert tokenize([""])[0, :3].tolist() == [49406, 49407, 0]


def test_signs_that_are_no_words_have_tokens_too() -> None:
    assert tokenize(["🎸🔥"])[0, 1:].argmax() > 1


def test_a_text_that_is_too_long_is_named_with_its_length() -> None:
    with pytest.raises(TextError, match=r"'dog dog.*…' has 102 tokens; expected at most 77"):
        tokenize(["cat", "dog " * 100])


def test_a_text_may_be_truncated_and_keeps_its_end() -> None:
    tokens = tokenize(["dog " * 100], truncate=True)[0]
    assert tokens[0] == 49406
    assert tokens[-1] == 49407
    assert tokens[1:-1].unique().numel() == 1


def test_what_is_no_string_is_refused() -> None:
    with pytest.raises(TextError, match="expected a string"):
        tokenize([None])  # type: ignore[list-item]  # the point of the test
