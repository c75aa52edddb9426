"""The commands as a user types them: from another folder, and with mistakes."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from diffusion_parts import pipeline
from PIL import Image

from t2i.cli import main
from t2i.diffusion.schedulers import SCHEDULERS
from t2i.eval.evaluators import EVALUATORS
from t2i.eval.generation.suites import SUITES
from t2i.pipelines import embedded
from t2i.training.recipes import RECIPES


@pytest.fixture
def saved(pipe, tmp_path) -> Path:
    pipe.save_pretrained(tmp_path / "system")
    return tmp_path / "system"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_generate_writes_a_grid_that_records_its_settings(saved, elsewhere, capsys):
    main(["generate", "a zebra teapot", "--pipeline", str(saved), "--num-images", "9", "--seed", "7", "--out", "t.png"])
    assert "t.png: 9 images in" in capsys.readouterr().out
    chunks = Image.open("t.png").text
    assert (chunks["prompt"], chunks["seed"], chunks["system"]) == ("a zebra teapot", "7", str(saved))
    assert chunks["version"].startswith("t2i ")


def test_any_image_can_be_generated_again_from_its_png_chunks(saved, elsewhere):
    ask = ["--pipeline", str(saved), "--guidance-scale", "2"]
    main(["generate", "a red cat", "a tree", "--num-images", "2", "--seed", "3", "--out", "many/", *ask])
    assert sorted(p.name for p in Path("many").iterdir()) == [
        "a-red-cat-3.png",
        "a-red-cat-4.png",
        "a-tree-3.png",
        "a-tree-4.png",
    ]
    result = Image.open("many/a-tree-4.png")
    made = result.text
    settings = [s for k, v in json.loads(made["settings"]).items() for s in (f"--{k.replace('_', '-')}", str(v))]
    again = ["generate", made["prompt"], "--seed", made["seed"], "--pipeline", made["system"], *settings]
    main([*again, "--num-images", "1", "--out", "again/"])
    assert Image.open("again/a-tree-4.png").tobytes() == result.tobytes()


def test_several_pipelines_share_one_grid(saved, elsewhere, capsys):
    both = ["--pipeline", str(saved), "--pipeline", "toybox/dalle", "--num-images", "2"]
    main(["generate", "a zebra teapot", *both, "--out", "both.png"])
    out = capsys.readouterr().out
    assert out.count("both.png") == 1 and "4 images, 2 of each pipeline" in out
    grid = Image.open("both.png")
    assert grid.text["system"] == f"{saved} | toybox/dalle" and grid.height > grid.width
    main(["generate", "a zebra teapot", *both, "--out", "both/"])
    main(["generate", "a zebra teapot", "--num-images", "2", "--out", "one/"])
    alone, beside = (Path(out) / "a-zebra-teapot-1.png" for out in ("one", "both/toybox-dalle"))
    assert Image.open(alone).tobytes() == Image.open(beside).tobytes()
    assert len(list(Path("both").rglob("*.png"))) == 4


def test_data_writes_images_with_captions(elsewhere):
    main(["data", "toybox", "--num", "5", "--out", "boxes", "--workers", "1"])
    lines = [json.loads(line) for line in Path("boxes/metadata.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    assert Image.open(Path("boxes") / lines[0]["file_name"]).size == (128, 128)


def test_help_is_there_for_every_command(capsys):
    for args in ([], ["--help"], ["train"], ["data"], ["train", "--help"]):
        main(args)
        assert "usage" in capsys.readouterr().out


MISTAKES = [
    (["genrate"], "did you mean generate?"),
    (["generate"], "give a prompt"),
    (["generate", "x", "--out", "x.gif"], "must end in .png"),
    (["generate", "x", "--num-images", "0"], "at least 1"),
    (["generate", "x", "--seed", "-1"], "at least 0"),
    (["generate", "x", "--num-imagse", "4"], "--num-images"),
    (["generate", "x", "--pipeline", "toybox/dale"], "toybox/dalle"),
    (["generate", "x", "--pipeline", "./nowhere"], "there is no pipeline"),
    (["data", "toybax"], "did you mean toybox?"),
    (["data", "toybox"], "--out"),
    (["data", "toybox", "--out", "d", "--split", "tran"], "train"),
    (["data", "toybox", "--out", "full"], "not an empty folder"),
    (["train", "vqvae-toybix"], "did you mean vqvae-toybox?"),
    (["train", "vqvae-toybox", "--preset", "tny"], "did you mean tiny?"),
    (["train", "vqvae-toybox", "--max-train-steps", "0"], "at least 1"),
    (["train", "vqvae-toybox", "--max-train-steps", "ten"], "--max-train-steps"),
    (["train", "vqvae-toybox", "--data", "./nowhere"], "there is no folder"),
    (["train", "vqvae-toybox", "--image-size", "30"], "not divisible"),
    (["train", "vqvae-toybox", "--resume", "latest"], "nothing to resume"),
    (["train", "prior-toybox", "--tokenizer", "./nowhere"], "t2i train vqvae-toybox"),
    (["eval", "toybox/dalle", "--metrics", "compositonal"], "did you mean compositional?"),
    (["eval", "toybox/dalle", "--num-images", "0"], "at least 1"),
    (["eval", "./nowhere", "--out", "o"], "there is no folder ./nowhere"),
]


@pytest.mark.parametrize(("args", "says"), MISTAKES, ids=lambda a: " ".join(a) if isinstance(a, list) else "")
def test_mistakes_end_in_one_clear_line(args, says, elsewhere):
    (elsewhere / "full").mkdir()
    (elsewhere / "full" / "file").touch()
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        main(args)
    line = str(exit_.value)
    assert line.startswith("error: ")
    assert says in line
    assert "\n" not in line
    assert sorted(elsewhere.rglob("*")) == before  # and nothing was written


def test_the_installed_command_exits_with_an_error_and_no_traceback(elsewhere):
    command = [str(Path(sys.executable).parent / "t2i"), "genrate"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_half_precision_generates_nearly_the_same_images_and_is_recorded(tmp_path):
    generated = {}
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / f"{dtype}.png"
        how = ["--pipeline", "toybox/ldm", "--num-images", "1", "--num-inference-steps", "4", "--dtype", dtype]
        main(["generate", "a red apple", *how, "--out", str(out)])
        with Image.open(out) as image:
            assert json.loads(image.info["settings"])["dtype"] == dtype
            generated[dtype] = np.asarray(image.convert("RGB"), np.float32)
    difference = np.abs(generated["float32"] - generated["bfloat16"])
    assert 0 < difference.mean() < 4


def test_list_names_what_exists(capsys):
    main(["list", "recipes", "metrics", "weights", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [row["recipe"] for row in found["recipes"]] == list(RECIPES)
    assert [row["metric"] for row in found["metrics"]] == list(EVALUATORS)
    assert set(embedded()) <= {row["weights"] for row in found["weights"]}
    main(["list"])
    text = capsys.readouterr().out
    assert all(f"\n{name} " in text for name in (*SCHEDULERS, *SUITES, "lecture-v1", "clip:NAME_OR_FOLDER"))
    with pytest.raises(SystemExit, match=r"did you mean schedulers\?"):
        main(["list", "schedlers"])


def test_generate_takes_height_and_width(elsewhere):
    pipeline().save_pretrained("ldm")
    ask = ["generate", "a red cat", "--pipeline", "ldm", "--num-images", "1", "--num-inference-steps", "1"]
    main([*ask, "--height", "64", "--width", "96", "--out", "wide/"])
    (file,) = Path("wide").iterdir()
    assert Image.open(file).size == (96, 64)
    assert json.loads(Image.open(file).text["settings"])["width"] == 96
    with pytest.raises(SystemExit, match="--height must be at least 1"):
        main([*ask, "--height", "0"])


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["t2i", "gen"], {"generate"}),
        (["t2i", "train", "prior-"], {"prior-toybox"}),
        (["t2i", "train", "prior-toybox", "--text-v"], {"--text-vocab-size"}),
        (["t2i", "generate", "a cat", "--num-c"], {"--num-candidates"}),
        (["t2i", "data", "filter", "photos", "--min-s"], {"--min-score"}),
        (["t2i", "eval", "tokenizers", "--lp"], {"--lpips"}),
        (["t2i", "generate", "a"], set()),
    ],
)
def test_a_shell_completes_commands_recipes_and_options(typed, completed, completion):
    words = " ".join(f"'{word}'" for word in typed)
    ask = f"source {completion}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _t2i; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == completed, done.stderr


@pytest.fixture(scope="module")
def completion(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "t2i"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(["completion", "bash"])
    file.write_text(printed.getvalue())
    return file
