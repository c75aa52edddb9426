"""What an evaluation scores, what it generates for that, and which folders it refuses."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from launching import launched
from PIL import Image

from t2i.checks import UsageError
from t2i.data.sampling import NumberedSamples
from t2i.data.toybox_v1 import Toybox
from t2i.eval import cli
from t2i.eval.config import EvalConfig
from t2i.eval.distributed import device_of, together, usable_device
from t2i.eval.evaluate import evaluator
from t2i.eval.evaluators import PIPELINE
from t2i.eval.images.folders import image_files
from t2i.eval.images.training import training_data, what_trained
from t2i.eval.model_cache import open_for_eval
from t2i.eval.report import cli as reports
from t2i.eval.run import GENERATED, EvalRun
from t2i.files import read_json


@pytest.fixture
def folder(pipe, tmp_path) -> Path:
    pipe.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def config(target: Path, **options) -> EvalConfig:
    return EvalConfig(targets=(str(target),), **options)


def noise(i: int, height: int = 16, width: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8))


def images_in(folder: Path, n: int, **sides: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(n):
        noise(i, **sides).save(folder / f"{i:03}.png")
    return folder


def scores(out: Path) -> dict[str, dict]:
    return {score["name"]: score for score in read_json(out / "report.json")["scores"]}


# --- devices and processes ------------------------------------------------------------------------------------------


def test_each_of_several_processes_has_a_gpu_of_its_own():
    second = SimpleNamespace(num_processes=2, device=torch.device("cuda", 1))
    assert [device_of(name, second) for name in ("auto", "cuda", "cuda:0", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]
    alone = SimpleNamespace(num_processes=1, device=torch.device("cuda", 0))
    assert [device_of(name, alone) for name in ("auto", "cuda")] == ["auto", "cuda"]


def test_an_unavailable_device_raises_one_sentence():
    assert usable_device("cpu") == "cpu"
    assert usable_device("auto") in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="cannot use --device coda"):
        usable_device("coda")


@pytest.mark.parametrize("error", [FloatingPointError, torch.OutOfMemoryError, KeyError])
def test_together_raises_the_error_of_the_work(error):
    with pytest.raises(error, match="too much"):
        together(lambda: (_ for _ in ()).throw(error("too much")))
    together(lambda: None)


FAILING = """
import atexit
import sys
from pathlib import Path
import torch
from t2i.eval.distributed import together
from t2i.processes import this_process

@atexit.register  # before the first call of this_process, so it runs after what that registers
def connected():
    Path(sys.argv[1], f"{rank}.exit").write_text(str(torch.distributed.is_initialized()))

rank = this_process().process_index

class Odd(Exception):  # takes more than a message and is defined in this file only, so it cannot be sent
    def __init__(self, what, where):
        super().__init__(f"{what} on {where}")

def caught(error):
    def work():
        if rank == 1:
            raise error
    try:
        together(work)
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"

errors = Odd("out of memory", "cuda:1"), RuntimeError("no kernel"), FileNotFoundError("no weights")
Path(sys.argv[1], f"{rank}.txt").write_text("\\n".join(map(caught, errors)))
"""


@pytest.mark.slow
def test_all_processes_raise_the_error_of_one(tmp_path):
    (tmp_path / "fail.py").write_text(FAILING)
    command, on_cpu = launched(2, str(tmp_path / "fail.py"), str(tmp_path)), os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=on_cpu)
    assert done.returncode == 0, done.stderr  # neither process waited for the other, nor was killed
    first, second = ((tmp_path / f"{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert second == ["Odd: out of memory on cuda:1", "RuntimeError: no kernel", "FileNotFoundError: no weights"]
    assert first == [f"RuntimeError: {second[0]}", f"RuntimeError: {second[1]}", "OSError: no weights"]
    still_connected = [(tmp_path / f"{rank}.exit").read_text() for rank in (0, 1)]
    assert still_connected == ["False"] * 2, "gloo's threads would abort a process that ends before them"


# --- what is generated ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric, folders", [("likelihood", []), ("lecture", ["lecture"]), ("bias", ["bias"])])
def test_only_the_images_of_the_given_metric_are_generated(folder, tmp_path, metric, folders):
    out = tmp_path / "out"
    args = [str(folder), "--num-images", "10", "--metrics", metric, "--out", str(out)]
    cli.main(args)
    assert not (out / "images").exists()
    assert [path.parent.name for path in out.glob("*/manifest.json")] == folders
    report = read_json(out / "report.json")
    assert report["settings"]["num_images"] == 10
    assert set(report["settings"]["weights_sha256"]) == {"prior", "image_tokenizer"}
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/images/*")}
    first = (out / "report.json").read_bytes()
    cli.main(args)
    assert times == {path: path.stat().st_mtime_ns for path in out.glob("*/images/*")}, "nothing is generated again"
    assert (out / "report.json").read_bytes() == first


def test_a_metric_whose_images_cannot_be_generated_is_left_out(folder, tmp_path):
    """But if the target's own images cannot be generated, the evaluation fails."""
    run = EvalRun(config(folder, num_images=18, out=str(tmp_path / "out")))
    with torch.no_grad():
        for parameter in run.pipeline.image_tokenizer.decoder.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="NaN"):
        evaluator("bias").evaluate(run)
    assert not run.generation_failed
    for metric in ("fid", "kid"):
        with pytest.raises(FloatingPointError, match="NaN"):
            evaluator(metric).evaluate(run)
    assert run.generation_failed


# --- near copies ----------------------------------------------------------------------------------------------------


def run(folder: Path, pipe, **recipe) -> Path:
    """A run as `t2i train` leaves it, after five steps of four samples."""
    checkpoint = folder / "checkpoint-5"
    pipe.save_pretrained(checkpoint)
    (folder / "latest").symlink_to("checkpoint-5")
    (folder / "recipe.json").write_text(json.dumps({"data": "toybox-v1", "seed": 3, "image_size": 16} | recipe))
    (checkpoint / "state").mkdir()
    (checkpoint / "state" / "progress.json").write_text(json.dumps({"steps": 5, "ema_steps": 5, "global_batch": 4}))
    return folder / "latest"


def test_near_copies_are_searched_among_the_samples_of_the_run(pipe, tmp_path):
    latest = run(tmp_path / "run", pipe)
    assert what_trained(str(latest)).samples == 20
    found = training_data(None, str(latest), side=16, num=3)
    assert "all 20 images" in found.note
    order = NumberedSamples(Toybox("train", 16, 3, 1_000_000), lambda item, rng: item, 3)
    seen = {order[i]["image"].tobytes() for i in range(20)}
    assert {make().tobytes() for make in found.images.values()} == seen
    assert not seen & {make().tobytes() for make in found.new.values()}
    few = training_data(None, str(latest), side=16, num=3, most=7)
    assert len(few.images) == 7 and {make().tobytes() for make in few.images.values()} < seen
    assert "7 of the 20 images" in few.note


def test_a_run_with_cached_latents_has_seen_only_the_cached_images(pipe, tmp_path):
    latest = run(tmp_path / "run", pipe, cache="runs/latents", cached_images=8)  # 20 samples: more than two epochs
    found = training_data(None, str(latest), side=16, num=3)
    assert "all 8 images" in found.note
    world = Toybox("train", 16, 3, 8)
    assert {make().tobytes() for make in found.images.values()} == {world[i]["image"].tobytes() for i in range(8)}


def test_unknown_training_data_must_be_given(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "copy")  # without its run's metadata
    assert "does not record which" in training_data(None, str(tmp_path / "copy"), side=16, num=3).note
    index = tmp_path / "copy" / "model_index.json"
    index.write_text(index.read_text().replace("DallePipeline", "StableDiffusionPipeline"))
    for foreign in ("owner/model", str(tmp_path / "copy"), ""):
        with pytest.raises(UsageError, match=r"training data of .* is unknown.*--training-data FOLDER"):
            training_data(None, foreign, side=16, num=3)
    latest = run(tmp_path / "run", pipe, data="photos")
    with pytest.raises(UsageError, match=r"trained on photos.*--training-data FOLDER"):
        training_data(None, str(latest), side=16, num=3)
    assert len(training_data("toybox-v1", "owner/model", side=16, num=3).images) == 30
    with pytest.raises(UsageError, match="is unknown"):
        args = [str(images_in(tmp_path / "a", 12)), "--extractor", "pixels"]
        cli.main([*args, "--metrics", "memorization", "--out", str(tmp_path / "out")])


def test_full_and_centre_cropped_copies_are_near_copies(tmp_path):
    """Training images are 16 × 24; some generated ones are full copies, and some their centre squares."""
    trained, generated = images_in(tmp_path / "trained", 60, width=24), tmp_path / "generated"
    generated.mkdir()
    for i in range(12):
        copy = Image.open(trained / f"{i:03}.png")
        (copy if i % 2 else copy.crop((4, 0, 20, 16))).save(generated / f"{i:03}.png")
    args = [str(generated), "--training-data", str(trained), "--extractor", "pixels"]
    cli.main([*args, "--metrics", "memorization", "--out", str(tmp_path / "out")])
    found = scores(tmp_path / "out")["near copies[pixels]"]
    assert found["value"] == 1
    assert found["ceiling"] < 0.2
    assert found["details"]["training"]["n"] == 60
    assert "all 60 images of --training-data" in " ".join(read_json(tmp_path / "out" / "report.json")["notes"])


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_with_a_manifest_has_exactly_its_images(folder, tmp_path):
    out = tmp_path / "out"
    cli.main([str(folder), "--metrics", "kid", "--num-images", "18", "--extractor", "pixels", "--out", str(out)])
    noise(0).save(out / "images" / "stray.png")
    named = {entry["file"] for entry in read_json(out / "manifest.json")["images"]}
    assert {path.relative_to(out).as_posix() for path in image_files(out)} == named
    (out / "manifest.json").rename(out / "manifest-0.jsonl")
    with pytest.raises(FileNotFoundError, match="is incomplete"):
        image_files(out)


def test_output_folders_are_refused_as_sets_of_images(pipe, tmp_path):
    latest = run(tmp_path / "run", pipe)
    images_in(tmp_path / "run" / "samples", 3)
    with pytest.raises(UsageError, match=r"is a training run.*did you mean the pipeline .*run/latest\?"):
        image_files(tmp_path / "run")
    assert EvalRun(config(tmp_path / "run")).kind == PIPELINE  # as a pipeline it is its newest checkpoint
    with pytest.raises(UsageError, match="is a pipeline"):
        image_files(latest)
    args = [str(images_in(tmp_path / "a", 12)), "--extractor", "pixels"]
    cli.main([*args, "--metrics", "fid", "--reference", str(tmp_path / "a"), "--out", str(tmp_path / "report")])
    with pytest.raises(UsageError, match="is a report"):
        image_files(tmp_path / "report")
    (tmp_path / "report").rename(tmp_path / "a" / "report")
    with pytest.raises(UsageError, match=r"contains .*a/report, which is a report.*move it"):
        image_files(tmp_path / "a")
    with pytest.raises(UsageError, match="training run"):
        reports.main(["statistics", str(tmp_path / "run"), "--extractor", "pixels", "--out", str(tmp_path / "x.npz")])


def test_a_report_is_not_written_into_the_images_it_evaluates(tmp_path):
    a, b = images_in(tmp_path / "a", 12), images_in(tmp_path / "b", 12)
    for inside in (a, b):
        args = [str(a), "--metrics", "fid", "--reference", str(b), "--out", str(inside / "report")]
        with pytest.raises(UsageError, match=r"lies inside .*give another folder"):
            cli.main([*args, "--extractor", "pixels"])
    assert not (a / "report").exists()


def test_a_mistyped_folder_is_not_requested_from_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images_in(tmp_path / "data" / "photos", 1)
    for name, near in (("data/photo", "did you mean data/photos"), ("photos", "there is no folder photos")):
        with pytest.raises(FileNotFoundError, match=near) as caught:
            cli.main([name, "--metrics", "fid", "--out", str(tmp_path / "x")])
        assert "Hub says" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="did you mean toybox/dalle"):
        open_for_eval("toybox-dalle", "cpu")


def test_options_without_effect_on_a_folder_of_images_are_noted(tmp_path):
    a = images_in(tmp_path / "a", 12)
    args = [str(a), "--metrics", "fid", "--reference", str(a), "--extractor", "random", "--num-images", "7"]
    args += ["--top-k", "3"]
    cli.main([*args, "--dtype", "float16", "--device", "auto", "--out", str(tmp_path / "out")])
    notes = " ".join(read_json(tmp_path / "out" / "report.json")["notes"])
    assert "--num-images, --dtype, --top-k had no effect" in notes
    assert (
        "12 generated and 12 real images for 512 feature dimensions" in notes
    )  # a distance of rank-deficient covariances
    with pytest.raises(ValueError, match="cannot use --device coda"):
        cli.main([*args, "--device", "coda", "--out", str(tmp_path / "out")])
    reports.main(["statistics", str(a), "--extractor", "pixels", "--device", "auto", "--out", str(tmp_path / "a.npz")])


# --- damaged images -----------------------------------------------------------------------------------------------


def test_damaged_images_are_skipped_counted_and_named(folder, tmp_path):
    generated, out = tmp_path / "generated", tmp_path / "out"
    given = config(folder, prompts="toybox-v1/colour", num_images=34, out=str(generated), extractor="random")
    EvalRun(given).files  # noqa: B018 - generates
    reference = images_in(tmp_path / "reference", 14)
    (reference / "003.png").write_bytes(b"no image")
    run = EvalRun(replace(given, reference=str(reference), training_data=str(reference)))
    for file in run.files[:2]:
        file.write_bytes(file.read_bytes()[:60])
    results = [evaluator(name).evaluate(run) for name in ("compositional", "fid", "memorization")]
    scored = {score.name: score for result in results for score in result.scores}
    for name in ("colour", "FD[random]", "near copies[pixels]"):
        assert (scored[name].n, scored[name].skipped) == (32, 2)
    notes = " ".join(note for result in results for note in result.notes)
    assert f"skipped: images/{run.files[0].name}: " in notes
    assert "skipped of the reference: 003.png" in notes
    assert "skipped of the training images: 003.png" in notes
    assert os.fspath(tmp_path) not in notes
    npz = tmp_path / "reference.npz"
    reports.main(["statistics", str(reference), "--extractor", "pixels", "--keep-features", "--out", str(npz)])
    args = [str(generated), "--metrics", "kid", "--reference", str(npz), "--extractor", "pixels", "--out", str(out)]
    cli.main(args)
    assert len(read_json(out / "report.json")["galleries"][0]["images"]) == 32
    assert any("skipped of the reference: 003.png" in note for note in read_json(out / "report.json")["notes"])


# --- sweeps and differences -----------------------------------------------------------------------------------------


def test_the_runs_of_a_sweep_share_models_and_references(folder, tmp_path):
    first = EvalRun(config(folder, num_images=18, out=str(tmp_path / "a"), top_k=3))
    second = EvalRun(config(folder, num_images=18, out=str(tmp_path / "b"), top_k=5), first.models)
    assert first.pipeline is second.pipeline
    assert first.reference("pixels") is second.reference("pixels")
    assert first.real("pixels") is second.real("pixels")
    assert first.features(GENERATED, "pixels") is not second.features(GENERATED, "pixels")


def test_scores_of_different_training_images_are_not_compared(folder, tmp_path, capsys):
    generated, files = tmp_path / "generated", []
    EvalRun(config(folder, num_images=18, out=str(generated))).files  # noqa: B018 - generates
    for name, n in (("a", 30), ("b", 40)):
        args = [str(generated), "--training-data", str(images_in(tmp_path / name, n)), "--extractor", "pixels"]
        cli.main([*args, "--metrics", "memorization", "--out", str(tmp_path / f"report-{name}")])
        files.append(str(tmp_path / f"report-{name}" / "report.json"))
    capsys.readouterr()
    reports.main(["diff", *files])
    assert "not comparable: training.sha256" in capsys.readouterr().out
