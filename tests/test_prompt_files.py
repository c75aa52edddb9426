"""Prompt files: encodings and formats, and invalid tables."""

from __future__ import annotations

import pytest

from t2i.eval.generation.prompts import open_prompts


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.csv"])
def test_prompts_of_other_encodings_name_their_file(tmp_path, name):
    for content, said in ((b"prompt\na caf\xe9\n", "line 2: byte 0xe9 is not UTF-8"), ("a".encode("utf-16"), "UTF-16")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.* {said}"):
            open_prompts(tmp_path / name)
    (tmp_path / "bom.txt").write_bytes("\ufeffa b\u2028c\r\n\nd".encode())
    assert [prompt.text for prompt in open_prompts(tmp_path / "bom.txt")] == ["a b\u2028c", "d"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", "prompt;category\na cat;x", "line 1: its columns are separated by semicolons"),
        ("p.csv", "prompt\tcategory\na cat\tx", "line 1: its columns are separated by tabs"),
        (
            "p.tsv",
            "prompt\tcategory\na cat\tx",
            "is not a format of prompts: save a .txt with one per line",
        ),
        ("P.JSON", '["a cat"]', "is not a format of prompts"),
        ("p.csv", "words\na cat", 'line 2 has no "prompt" and no "text", only: words'),
        ("p.jsonl", '{"prompt": null}', "line 1: 'prompt' is no text but null"),
        ("p.jsonl", '{"prompt": " "}', "line 1: 'prompt' is empty; write a prompt"),
    ],
)
def test_tables_of_prompts_that_are_none_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        open_prompts(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
