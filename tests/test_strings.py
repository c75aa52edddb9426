"""Strings in arrays are the strings that they were made from."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from t2i.strings import StringLists, Strings, offsets

SOME = ["", "a", "é", "日本", "\U0001f600", "\udce9 in a name that is no UTF-8", "a", "x" * 1000, ""]


def test_strings_are_a_sequence_of_what_they_were_made_from():
    strings = Strings(iter(SOME))
    assert list(strings) == SOME and len(strings) == len(SOME)
    assert [strings[i] for i in range(-len(SOME), 0)] == SOME
    assert strings[2:5] == SOME[2:5] and strings[::-2] == SOME[::-2] and strings[50:] == []
    assert "日本" in strings and strings.index("a") == 1 and strings.count("a") == 2
    for beyond in (len(SOME), -len(SOME) - 1):
        with pytest.raises(IndexError):
            strings[beyond]
    assert list(pickle.loads(pickle.dumps(strings))) == SOME
    assert list(Strings()) == []


def test_a_string_takes_four_bytes_besides_its_content():
    assert Strings("abc" for _ in range(1000)).nbytes == 3 * 1000 + 4 * 1001


def test_lists_are_a_sequence_of_what_they_were_made_from():
    several = [("a",), ("b", "c"), ("", ""), ("d",)]
    lists = StringLists(several)
    assert list(lists) == several and lists[-2] == ("", "") and lists[1:3] == several[1:3]
    assert list(lists.first) == ["a", "b", "", "d"] and list(lists.strings) == ["a", "b", "c", "", "", "d"]
    single = StringLists([("a",), ("b",)])
    assert single.first is single.strings and list(single) == [("a",), ("b",)]
    with pytest.raises(IndexError):
        lists[4]
    assert list(StringLists()) == []


def test_offsets_hold_more_than_four_gigabytes():
    assert offsets([2, 3]).dtype == np.uint32
    assert offsets([2**31, 2**31]).tolist() == [0, 2**31, 2**32]
