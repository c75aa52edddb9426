"""Byte-pair tokenizers: what stands between quotation marks is spelt."""

from __future__ import annotations

import pytest

from t2i.data.toybox import Toybox
from t2i.text.bpe import train_bpe


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(Toybox(num=400).captions(400), 600)


def pieces(tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("word", ["Latent", "xQzzy", "I love generative models!", "Zebra 42", "a, b."])
def test_a_word_never_seen_is_spelt_and_comes_back(tokenizer, word):
    text = f'a street sign that reads "{word}" in the snow'
    found = pieces(tokenizer, text)
    start = found.index(' "') + 1
    assert found[start : start + len(word)] == list(word)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip() == text


def test_the_rest_is_lower_case_words(tokenizer):
    assert pieces(tokenizer, 'A Red CAT with the text "Red CAT"')[:3] == [" a", " red", " cat"]
    assert pieces(tokenizer, "A Red CAT") == [" a", " red", " cat"]


def test_an_open_quotation_mark_spells_nothing(tokenizer):
    assert pieces(tokenizer, 'a red cat that reads "Red cat')[:3] == [" a", " red", " cat"]
    assert " red" in pieces(tokenizer, 'a cat that reads "a Red cat')


@pytest.mark.parametrize(
    "text, quoted",
    [
        ('A Cat that reads "Hi There"!', "Hi There"),
        ('A "Hi There", A Cat', "Hi There"),
        ('"Hi"', "Hi"),
        ('a 5" Cat', ""),
    ],
)
def test_only_what_stands_between_two_marks_is_spelt(tokenizer, text, quoted):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert quoted in tokenizer.decode(ids)
    found = pieces(tokenizer, text)
    if "Cat" in text:
        assert " cat" in found
    assert all(letter in found for letter in quoted)


def test_capitals_of_other_latin_alphabets_are_lowered(tokenizer):
    assert pieces(tokenizer, "Éclair ŒUVRE") == pieces(tokenizer, "éclair œuvre")


def test_two_inscriptions_are_spelt_apart(tokenizer):
    found = pieces(tokenizer, 'a cup that reads "Hi" and a red book that reads "Ho"')
    assert found.count(" red") == 1 and {"H", "i", "o"} <= set(found)
