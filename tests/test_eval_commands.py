"""`t2i eval …` from the arguments to the files, on a tiny pipeline with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.checks import UsageError
from t2i.eval import cli, features
from t2i.eval.evaluate import evaluator
from t2i.eval.evaluators import EVALUATORS
from t2i.eval.features.small import PixelExtractor
from t2i.eval.generation.prompts import BASIC
from t2i.eval.report import Report
from t2i.eval.report import cli as reports


@pytest.fixture
def folder(pipe, tmp_path) -> Path:
    pipe.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def scores(out: Path) -> dict[str, dict]:
    return {score["name"]: score for score in json.loads((out / "report.json").read_text())["scores"]}


def test_every_metric_is_listed_and_has_a_module(capsys):
    cli.main([])
    listed = capsys.readouterr().out
    for name in EVALUATORS:
        assert f"\n  {name} " in listed
        assert callable(evaluator(name).evaluate)


def test_default_metrics_are_those_of_the_target_and_omissions_are_reported(folder, tmp_path, capsys):
    out = tmp_path / "report"
    args = [str(folder), "--num-images", "18", "--out", str(out)]
    cli.main(args)
    found = scores(out)
    for name in ("colour", "held-out combination", "FD[toybox-v1]", "KID[toybox-v1]", "precision[toybox-v1]"):
        assert name in found
    assert {"near copies[toybox-v1]", "near copies[pixels]", "prompts of the lecture"} <= found.keys()
    assert {"nats/token, zero_shot", "reconstruction: PSNR in dB"} <= found.keys()
    assert (
        found["FD[toybox-v1]"]["ceiling"] < found["FD[toybox-v1]"]["value"]
    )  # noise is further from toybox than toybox is
    assert "clip_score was left out" in capsys.readouterr().out
    assert (out / "report.html").stat().st_size > 10_000
    first = (out / "report.json").read_bytes()
    cli.main(args)  # the images exist; the same run gives the same bytes
    assert (out / "report.json").read_bytes() == first
    reports.main(["diff", str(out / "report.json"), str(out / "report.json")])
    assert "FD[toybox-v1]" in capsys.readouterr().out


def test_a_folder_of_images_is_scored_against_another(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, low in (("a", 0), ("b", 0), ("c", 128)):
        (tmp_path / name).mkdir()
        for i in range(60):
            Image.fromarray(rng.integers(low, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    distances = []
    for reference in "bc":
        out = tmp_path / f"to-{reference}"
        args = [
            str(tmp_path / "a"),
            "--metrics",
            "fid",
            "--reference",
            str(tmp_path / reference),
            "--extractor",
            "random",
        ]
        cli.main([*args, "--out", str(out)])
        distances.append(scores(out)["FD[random]"]["value"])
    assert distances[0] < distances[1] / 5
    npz, out = tmp_path / "c.npz", tmp_path / "to-statistics"
    reports.main(["statistics", str(tmp_path / "c"), "--extractor", "random", "--out", str(npz), "--keep-features"])
    args = [str(tmp_path / "a"), "--metrics", "fid", "--reference", str(npz), "--extractor", "random"]
    cli.main([*args, "--out", str(out)])
    assert scores(out)["FD[random]"]["value"] == pytest.approx(distances[1], rel=1e-6)
    with pytest.raises(ValueError, match="dimensions"):
        cli.main([*args[:-1], "pixels", "--out", str(out)])
    with pytest.raises(UsageError, match="folder of images"):
        cli.main([str(tmp_path / "a"), "--metrics", "bias", "--out", str(tmp_path / "x")])
    with pytest.raises(UsageError, match="not an unconditional model"):
        cli.main([str(tmp_path / "a"), "--metrics", "unconditional", "--out", str(tmp_path / "x")])
    with pytest.raises(UsageError, match="folder of images, so there are no toybox scenes"):
        cli.main([str(tmp_path / "a"), "--metrics", "kid", "--out", str(tmp_path / "x")])


def test_a_damaged_reference_or_report_is_named_before_any_work(tmp_path):
    (tmp_path / "r.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"r\.npz is damaged, .* create it again with `t2i report statistics`"):
        args = ["toybox/dalle", "--metrics", "fid", "--reference", str(tmp_path / "r.npz"), "--num-images", "18"]
        cli.main([*args, "--out", str(tmp_path / "out")])
    (tmp_path / "r.json").write_text('{"scores": 3}')
    with pytest.raises(ValueError, match=r"r\.json: this is not a report"):
        reports.main(["diff", str(tmp_path / "r.json"), str(tmp_path / "r.json")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("metric", ["fid", "kid", "two_sample"])
def test_prompts_without_scenes_need_a_reference_before_any_work(metric, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat")
    with_captions = tmp_path / "captioned"
    with_captions.mkdir()
    Image.new("RGB", (16, 16)).save(with_captions / "a.png")
    (with_captions / "a.txt").write_text("a cat")
    out = tmp_path / "out"
    for args, cause in (
        ([str(with_captions)], "captioned is a folder of images"),
        (["toybox/dalle", "--prompts", str(tmp_path / "prompts.txt")], "txt has other prompts than toybox's"),
    ):
        with pytest.raises(UsageError, match=f"{cause}, so there are no toybox scenes .*: give real images with"):
            cli.main([*args, "--metrics", metric, "--out", str(out)])
        assert not out.exists()


class Classes(PixelExtractor):
    """Pixels interpreted as logits."""

    def logits(self, values):
        return values


def test_an_extractor_with_class_logits_gives_an_inception_score(folder, tmp_path, monkeypatch):
    args = [
        str(folder),
        "--metrics",
        "fid",
        "--num-images",
        "18",
        "--extractor",
        "pixels",
        "--out",
        str(tmp_path / "out"),
    ]
    cli.main(args)
    assert not any(name.startswith("Inception") for name in scores(tmp_path / "out"))
    monkeypatch.setitem(features._ALONE, "pixels", Classes)
    cli.main(args)
    found = scores(tmp_path / "out")["Inception score[pixels]"]
    assert 1 <= found["low"] <= found["value"] <= found["high"] and found["ceiling"] > 1


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_images_of_one_dtype_are_not_reused_for_another(folder, tmp_path, dtype):
    args = [str(folder), "--num-images", "18", "--out", str(tmp_path / "out")]
    cli.main([*args, "--dtype", dtype])
    assert {"nats/token, train", "reconstruction: SSIM", "FD[toybox-v1]", "colour"} <= scores(tmp_path / "out").keys()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["dtype"] == dtype
    assert [note.split()[0] for note in report["notes"] if "left out" in note] == ["clip_score"]
    with pytest.raises(ValueError, match=r"generated with other settings .*dtype"):
        cli.main(args)
    with pytest.raises(UsageError, match="dtype"):
        cli.main([*args, "--dtype", "float8"])


def test_copied_training_images_are_near_copies(tmp_path):
    rng = np.random.default_rng(1)
    for name in ("trained", "generated"):
        (tmp_path / name).mkdir()
    for i in range(100):
        image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        image.save(tmp_path / "trained" / f"{i}.png")
        if i < 30:
            image.save(tmp_path / "generated" / f"copy-{i}.png")
    args = [str(tmp_path / "generated"), "--training-data", str(tmp_path / "trained"), "--extractor", "pixels"]
    cli.main([*args, "--metrics", "memorization", "--out", str(tmp_path / "out")])
    found = scores(tmp_path / "out")["near copies[pixels]"]
    assert found["value"] == 1
    assert found["ceiling"] < 0.2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["x", "--metrics", "fidd"], "did you mean fid"),
        (["--metrics", "fid"], "give a target"),
        (["x", "--num-images", "0"], "--num-images must be at least 1"),
        (["x", "--num-images", "many"], "many"),
        (["x", "--batch-size", "-1"], "--batch-size must be at least 1"),
        (["x", "--seed", "-1"], "--seed must be at least 0"),
        (["x", "--nmu", "3"], "--nmu"),
        (["x", "--out", __file__], "is a file"),
        (
            ["{pipe}", "--metrics", "compositional", "--out", "{tmp}", "--classifier", "/nowhere"],
            "toybox-v1-classifier",
        ),
        (["{pipe}", "--metrics", "clip_score", "--out", "{tmp}"], "needs --clip"),
        (["{pipe}", "toybox/dalle", "--out", "{tmp}"], "one by one"),
        (["{pipe}", "--metrics", "fid", "--out", "{tmp}", "--num-images", "9"], "too few to compare"),
        (["{pipe}", "--metrics", "fid", "--extractor", "incepton", "--out", "{tmp}"], "inception"),
    ],
)
def test_bad_input_raises_one_sentence(args, message, folder, tmp_path):
    args = [a.format(tmp=tmp_path / "out", pipe=folder) for a in args]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        cli.main(args)
    assert "\n" not in str(caught.value)


def test_several_metrics_score_the_same_images_as_each_alone(folder, tmp_path):
    args = [str(folder), "--num-images", "18", "--out", str(tmp_path / "out"), "--metrics"]
    cli.main([*args, "compositional", "fid", "kid"])
    together, files = scores(tmp_path / "out"), list((tmp_path / "out" / "images").iterdir())
    times = {path: path.stat().st_mtime_ns for path in files}
    for metric in ("compositional", "fid", "kid"):
        cli.main([*args, metric])
        alone = scores(tmp_path / "out")
        assert alone and all(together[name] == score for name, score in alone.items())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").iterdir()} == times


def test_the_basic_suite_is_scored_by_category_with_tables(folder, tmp_path):
    args = [str(folder), "--metrics", "compositional", "--prompts", "basic", "--num-images", "8"]
    cli.main([*args, "--guidance-scale", "1", "--dtype", "bfloat16", "--out", str(tmp_path / "out")])
    found = scores(tmp_path / "out")
    assert [found[name]["n"] for name in BASIC] == [2] * 4
    assert all(found[name]["low"] <= found[name]["value"] <= found[name]["high"] for name in BASIC)
    assert found["all facts, real images"]["n"] == found["all facts, real images through the tokenizer"]["n"] == 8
    report = Report.load(tmp_path / "out" / "report.json")
    assert (report.settings["guidance_scale"], report.settings["dtype"]) == (1.0, "bfloat16")
    tables = {table.title: table for table in report.tables}
    assert [row[0] for row in tables["Facts that are right"].rows] == list(BASIC)
    assert sum(row[1] for row in tables["Kinds, worst first"].rows) == 2 * 4 + 2  # with relations, both things count
    assert any(gallery.title == "relation: the worst" for gallery in report.galleries)


@pytest.mark.parametrize(
    ("earlier", "present"),
    [
        ("fid --pipeline X --reference R --num 20", "X --metrics fid --reference R --num-images 20"),
        ("all --num 9 --pipeline X", "X --num-images 9"),
        ("kid --pipeline X --extractor reader", "X --metrics kid --extractor toybox-v1"),
        ("all --pipeline X --reference toybox --prompts lecture", "X --reference renders --prompts lecture-v1"),
        ("clip --reader C --pipeline X", "X --metrics clip_score --classifier C"),
        ("binding --pipeline X --num 500", "X --metrics compositional --prompts basic --num-images 2000"),
    ],
)
def test_the_earlier_syntax_is_accepted_with_a_note(earlier, present, capsys):
    assert cli._in_present_syntax(earlier.split()) == present.split()
    assert f"t2i eval {present}" in capsys.readouterr().err
    assert cli._in_present_syntax(present.split()) == present.split()
    assert not capsys.readouterr().err
