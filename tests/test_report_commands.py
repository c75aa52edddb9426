"""`t2i report …` from the arguments to the files, on a tiny pipeline with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from t2i.eval.report import cli


@pytest.fixture
def folder(pipe, tmp_path) -> Path:
    pipe.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_sweep_plots_scores_over_the_option(folder, tmp_path):
    args = [str(folder), "--num-images", "18", "--over", "num_candidates", "--values", "1", "2"]
    cli.main(["sweep", *args, "--out", str(tmp_path / "sweep")])
    report = json.loads((tmp_path / "sweep" / "report.json").read_text())
    share, distance = report["curves"]
    assert [point[0] for point in share["series"]["colour"]] == [1, 2]
    assert len(distance["series"]["FD[toybox-v1]"]) == 2
    assert report["settings"]["num_candidates"] == [1.0, 2.0]


def test_a_human_page_of_two_systems_can_be_tallied(folder, tmp_path, capsys):
    other = tmp_path / "other"
    other.symlink_to(folder)
    systems = ["--systems", str(folder), str(other)]
    cli.main(["human", *systems, "--num-prompts", "3", "--dtype", "bfloat16", "--out", str(tmp_path / "human")])
    for manifest in (tmp_path / "human").glob("system-*/manifest.json"):
        assert json.loads(manifest.read_text())["header"]["dtype"] == "bfloat16"
    key = json.loads((tmp_path / "human" / "key.json").read_text())
    choices = [{"question": q, "choice": "left"} for q in key["questions"]]
    answers = {"page": key["page"], "rater": "r", "answers": choices}
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    options = ["--answers", str(tmp_path / "answers.json"), "--key", str(tmp_path / "human" / "key.json")]
    cli.main(["human", *options, "--out", str(tmp_path / "tally")])
    assert (tmp_path / "tally" / "report.html").is_file()
    assert str(folder) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["dif"], "did you mean diff"),
        (["human", "--systems", "a"], "two systems"),
        (["human", "--answers", "a.json"], "--key"),
        (["human", "--num-prompts", "0"], "--num-prompts must be at least 1"),
        (["diff", "one.json"], "two files"),
        (["sweep", "x", "--values", "1"], "two different"),
        (["sweep"], "give one target"),
        (["sweep", "x", "--metrics", "fid"], "unexpected argument '--metrics'"),
        (["sweep", "x", "--likelihood-samples", "3"], "unexpected argument '--likelihood-samples'"),
        (["statistics", "photos", "--out", "photos.txt"], "give a folder and a file"),
    ],
)
def test_bad_input_raises_one_sentence(args, message):
    with pytest.raises(ValueError, match=message):
        cli.main(args)
