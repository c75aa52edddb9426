"""`t2i eval …` from the arguments to the files, on a tiny pipeline with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.checks import UsageError
from t2i.eval import cli, features
from t2i.eval.features.small import PixelExtractor
from t2i.eval.report import cli as report_cli
from t2i.eval.report import cli as reports
from t2i.eval.sections import SECTIONS


@pytest.fixture
def folder(pipe, tmp_path) -> Path:
    pipe.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def scores(out: Path) -> dict[str, dict]:
    return {score["name"]: score for score in json.loads((out / "report.json").read_text())["scores"]}


def test_the_overview_names_every_part():
    assert set(cli.PARTS) == {*SECTIONS, "all"}


def test_all_scores_what_it_can_and_says_what_it_left_out(folder, tmp_path, capsys):
    out = tmp_path / "report"
    args = ["all", "--pipeline", str(folder), "--num", "18", "--out", str(out)]
    cli.main(args)
    found = scores(out)
    for name in ("colour", "unseen combination", "FD[reader]", "KID[reader]", "precision[reader]"):
        assert name in found
    assert {"near copies[reader]", "near copies[pixels]", "prompts of the lecture"} <= found.keys()
    assert {"nats a code, zero_shot", "reconstruction: PSNR in dB"} <= found.keys()
    assert found["FD[reader]"]["ceiling"] < found["FD[reader]"]["value"]  # noise is further from toybox than toybox is
    assert "clip was left out" in capsys.readouterr().out
    assert (out / "report.html").stat().st_size > 10_000
    first = (out / "report.json").read_bytes()
    cli.main(args)  # the pictures are there; the same run gives the same bytes
    assert (out / "report.json").read_bytes() == first
    reports.main(["diff", str(out / "report.json"), str(out / "report.json")])
    assert "FD[reader]" in capsys.readouterr().out


def test_a_folder_of_pictures_is_scored_against_another(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, low in (("a", 0), ("b", 0), ("c", 128)):
        (tmp_path / name).mkdir()
        for i in range(60):
            Image.fromarray(rng.integers(low, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    distances = []
    for reference in "bc":
        out = tmp_path / f"to-{reference}"
        args = ["--pipeline", str(tmp_path / "a"), "--reference", str(tmp_path / reference), "--extractor", "random"]
        cli.main(["fid", *args, "--out", str(out)])
        distances.append(scores(out)["FD[random]"]["value"])
    assert distances[0] < distances[1] / 5
    npz, out = tmp_path / "c.npz", tmp_path / "to-statistics"
    reports.main(["statistics", str(tmp_path / "c"), "--extractor", "random", "--out", str(npz), "--keep-features"])
    args = ["--pipeline", str(tmp_path / "a"), "--reference", str(npz), "--extractor", "random"]
    cli.main(["fid", *args, "--out", str(out)])
    assert scores(out)["FD[random]"]["value"] == pytest.approx(distances[1], rel=1e-6)
    with pytest.raises(ValueError, match="dimensions"):
        cli.main(["fid", *args[:-1], "pixels", "--out", str(out)])
    with pytest.raises(UsageError, match="folder of pictures"):
        cli.main(["bias", "--pipeline", str(tmp_path / "a"), "--out", str(tmp_path / "x")])
    with pytest.raises(UsageError, match="does not say what its pictures show"):
        cli.main(["kid", "--pipeline", str(tmp_path / "a"), "--out", str(tmp_path / "x")])


def test_a_damaged_file_that_is_compared_is_named_first(tmp_path):
    (tmp_path / "r.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"r\.npz is damaged, .* make it again with `t2i report statistics`"):
        cli.main(["fid", "--reference", str(tmp_path / "r.npz"), "--num", "18", "--out", str(tmp_path / "out")])
    (tmp_path / "r.json").write_text('{"scores": 3}')
    with pytest.raises(ValueError, match=r"r\.json: this is not a report"):
        report_cli.main(["diff", str(tmp_path / "r.json"), str(tmp_path / "r.json")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["fid", "kid"])
def test_what_toybox_has_no_scenes_of_needs_a_reference_which_is_said_first(part, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat")
    with_captions = tmp_path / "pictures"
    with_captions.mkdir()
    Image.new("RGB", (16, 16)).save(with_captions / "a.png")
    (with_captions / "a.txt").write_text("a cat")
    out = tmp_path / "out"
    for option, given, says in (
        ("--pipeline", with_captions, "pictures does not say what its pictures show as scenes of toybox"),
        ("--prompts", tmp_path / "prompts.txt", "the prompts of .*prompts.txt are no scenes of toybox"),
    ):
        with pytest.raises(UsageError, match=f"{says}, the default of --reference: give real pictures"):
            cli.main([part, option, str(given), "--out", str(out)])
        assert not out.exists()


class Classes(PixelExtractor):
    """Pixels that are taken for logits."""

    def logits(self, values):
        return values


def test_an_extractor_that_knows_classes_gives_an_inception_score(folder, tmp_path, monkeypatch):
    args = ["fid", "--pipeline", str(folder), "--num", "18", "--extractor", "pixels", "--out", str(tmp_path / "out")]
    cli.main(args)
    assert not any(name.startswith("Inception") for name in scores(tmp_path / "out"))
    monkeypatch.setitem(features._ALONE, "pixels", Classes)
    cli.main(args)
    found = scores(tmp_path / "out")["Inception score[pixels]"]
    assert 1 <= found["low"] <= found["value"] <= found["high"] and found["ceiling"] > 1


def test_a_precision_is_told_and_its_pictures_are_not_taken_for_anothers(folder, tmp_path):
    args = ["all", "--pipeline", str(folder), "--num", "18", "--out", str(tmp_path / "out")]
    cli.main([*args, "--dtype", "bfloat16"])
    assert {"nats a code, train", "reconstruction: SSIM", "FD[reader]", "colour"} <= scores(tmp_path / "out").keys()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["dtype"] == "bfloat16"
    assert [note.split()[0] for note in report["notes"] if "left out" in note] == ["clip"]
    with pytest.raises(ValueError, match=r"made with other settings .*dtype"):
        cli.main(args)
    with pytest.raises(UsageError, match="dtype"):
        cli.main([*args, "--dtype", "float8"])


def test_copied_training_pictures_are_found(tmp_path):
    rng = np.random.default_rng(1)
    for name in ("trained", "drawn"):
        (tmp_path / name).mkdir()
    for i in range(100):
        image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        image.save(tmp_path / "trained" / f"{i}.png")
        if i < 30:
            image.save(tmp_path / "drawn" / f"copy-{i}.png")
    args = ["--pipeline", str(tmp_path / "drawn"), "--training", str(tmp_path / "trained"), "--extractor", "pixels"]
    cli.main(["memorization", *args, "--out", str(tmp_path / "out")])
    found = scores(tmp_path / "out")["near copies[pixels]"]
    assert found["value"] == 1
    assert found["ceiling"] < 0.2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fidd"], "did you mean fid"),
        (["all", "--num", "0"], "--num must be at least 1"),
        (["clip", "--out", "{tmp}", "--pipeline", "{pipe}"], "needs --clip"),
        (["fid", "--out", "{tmp}", "--pipeline", "{pipe}", "--num", "9"], "too few to compare"),
        (["fid", "--extractor", "incepton", "--out", "{tmp}", "--pipeline", "{pipe}", "--num", "9"], "inception"),
    ],
)
def test_bad_input_is_one_sentence(args, message, folder, tmp_path):
    args = [a.format(tmp=tmp_path / "out", pipe=folder) for a in args]
    with pytest.raises(ValueError, match=message):
        cli.main(args)
