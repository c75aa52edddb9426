"""Error messages of the command line: nearest names, duplicate options, and refusals of the operating system."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors import SafetensorError

from t2i.arguments import _options, parse
from t2i.checks import UsageError, nearest, shortened
from t2i.cli import main
from t2i.cli_errors import ALIASES, exit_on_bad_input
from t2i.eval.config import EvalConfig, SweepConfig
from t2i.pipelines.commands.generate import Generate
from t2i.training.config import LoopConfig
from t2i.training.recipes import RECIPES as RECIPES_BY_NAME

RECIPES = ("clip-toybox", "kl-toybox", "ldm-toybox", "lora", "vqvae-toybox", "vae", "prior-toybox")


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("ldm", RECIPES, "ldm-toybox"),
        ("vqvae", RECIPES, "vqvae-toybox"),
        ("vae", RECIPES, "vae"),
        ("vqvae-toybix", RECIPES, "vqvae-toybox"),
        ("lr", ("lr-scheduler", "learning-rate", "lora"), "learning-rate"),
        ("genrate", ("generate", "edit"), "generate"),
        ("zzz", RECIPES, None),
        ("", RECIPES, None),
        ("x", (), None),
    ],
)
def test_the_nearest_name_is_found_by_initials_words_and_letters(name, known, near):
    assert nearest(name, known) == near


USAGE = [
    (LoopConfig(), ["--lr", "1"], "unknown option --lr: did you mean --learning-rate?"),
    (LoopConfig(), ["--batch_size=3"], "unknown option --batch-size: did you mean --train-batch-size?"),
    (LoopConfig(), ["--qqqq", "1"], "unknown option --qqqq: p --help lists the options"),
    (LoopConfig(), ["--max-train-steps", "ten"], "--max-train-steps must be a whole number, not 'ten'"),
    (LoopConfig(), ["--learning-rate", "fast"], "--learning-rate must be a number, not 'fast'"),
    (LoopConfig(), ["--optimizer", "adam"], "--optimizer 'adam': did you mean adamw?"),
    (LoopConfig(), ["runs/x"], "unexpected argument 'runs/x'"),
    (LoopConfig(), ["--seed", "1", "--seed=2"], "--seed is given 2 times"),
    (Generate(), ["x", "--num-inference-steps", "4.5"], "--num-inference-steps must be a whole number, not '4.5'"),
    (Generate(), ["x", "--lora", "a", "--lora", "b"], "--lora is given 2 times"),
    (Generate(), ["x", "--num-candidates", "2", "--best-of", "3"], "--num-candidates is given 2 times"),
    (Generate(), ["x", "--dtype", "float23"], "did you mean float32?"),
    (EvalConfig(), ["--allow-mixed", "--no-allow-mixed"], "--allow-mixed is given 2 times"),
    (SweepConfig(), ["--values", "1", "2", "--values", "3"], "--values is given 2 times"),
]


@pytest.mark.parametrize(("default", "args", "says"), USAGE, ids=lambda a: " ".join(a) if isinstance(a, list) else "")
def test_a_wrong_option_is_named_once_in_one_line(default, args, says):
    with pytest.raises(UsageError) as error:
        parse(default, args, "p")
    line = str(error.value)
    assert says in line and "\n" not in line and len(line) < 200
    assert line.count("nrecognized") == 0


def test_options_that_add_up_may_be_repeated_and_a_prompt_may_look_like_one():
    assert parse(Generate(), ["a", "--pipeline", "x", "--pipeline", "y"], "p").pipeline == ("x", "y")
    assert parse(Generate(), ["--", "--lora", "--lora"], "p").prompts == ("--lora", "--lora")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "o/a.png"),
            "error: no space left on the disk to write o/a.png",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "o/a.png"), "error: o/a.png: Permission denied"),
        (MemoryError(), "error: not enough memory"),
        (RuntimeError("[enforce] not enough memory: you tried to allocate 9 bytes"), "error: not enough memory"),
        (ValueError("two\n  lines"), "error: two lines"),
    ],
    ids=["disk", "permission", "memory", "torch's memory", "lines"],
)
def test_what_the_machine_refuses_is_one_line(error, says):
    with pytest.raises(SystemExit) as exit_, exit_on_bad_input():
        raise error
    assert str(exit_.value).startswith(says) and "\n" not in str(exit_.value)


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), RuntimeError("x"), AssertionError("x")], ids=repr)
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)), exit_on_bad_input():
        raise error


def test_a_full_disk_is_found_behind_a_librarys_own_error():
    with pytest.raises(SystemExit, match="no space left"), exit_on_bad_input():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("writer failed") from error


def test_a_full_disk_that_safetensors_finds_is_one_line():
    with pytest.raises(SystemExit, match="no space left"), exit_on_bad_input():
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError), exit_on_bad_input():
        raise SafetensorError("of our own making")


def test_a_closed_pipe_is_silent():
    command = [sys.executable, "-m", "t2i.cli", "--help"]
    reading, writing = os.pipe()
    os.close(reading)
    with contextlib.closing(os.fdopen(writing, "wb")) as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "" and done.returncode == 141


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "ldm"], "did you mean ldm-toybox?"),
        (["train", "vqvae-toybox", "--preset", "tiny", "--preset", "base"], "--preset is given more than once"),
        (["train", "vqvae-toybox", "--lr", "1"], "did you mean --learning-rate?"),
        (["train", "vqvae-toybox", "--seed", str(2**64)], "seed must be less than 2**64"),
        (["train", "vqvae-toybox", "--learning-rate", "nan"], "--learning-rate must be above 0 and finite"),
        (["eval", "x", "--seed", str(2**64)], "--seed must be less than 2**64"),
        (["eval", "x", "--guidance-scale", "-1"], "--guidance-scale must be at least 0"),
        (["report", "sweep", "x", "--values", "1", "-3"], "--guidance-scale must be at least 0"),
        (["data", "toybox", "--out", "d", "--seed", "-1"], "--seed must be at least 0"),
        (["eval", "runs/mistyped"], "there is no folder runs/mistyped"),
        (["train", "ldm-toybox", "--autoencoder", "kl"], "t2i train clip-toybox"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_every_command_refuses_before_it_works(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert says in str(exit_.value) and "\n" not in str(exit_.value)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("recipe", ["vqvae-toybox", "kl-toybox", "clip-toybox", "vae", "cyclegan", "multimodal-vae"])
def test_an_image_size_of_none_is_refused_by_name(recipe):
    with pytest.raises(SystemExit, match=r"^error: --image-size must be at least 1, not 0$"):
        main(["train", recipe, "--preset", "tiny", "--image-size", "0"])


def test_an_image_size_that_a_model_or_toybox_cannot_have_is_named_by_its_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: --image-size 65 is not divisible by the stride 8$"):
        main(["train", "kl-toybox", "--image-size", "65"])
    with pytest.raises(SystemExit, match="at least 16×16 pixels, not 8×8: give a larger --image-size"):
        main(["train", "kl-toybox", "--image-size", "8"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "args",
    [
        ["train", "kl-toybox", "--image-size"],
        ["train", "vae", "--image-size"],
        ["edit", "photo.png", "x", "--image-size"],
        ["compare", "--image-size"],
        ["data", "toybox", "--out", "o", "--size"],
    ],
    ids=lambda args: " ".join(args[:2]),
)
def test_an_image_that_no_memory_holds_is_refused_before_it_is_made(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("photo.png")
    with pytest.raises(SystemExit, match=rf"^error: {args[-1]} must be at most 16384, not 100000$"):
        main([*args, "100000"])


def test_image_size_zero_is_the_size_of_the_trained_pipeline():
    assert RECIPES_BY_NAME["lora"]().data.image_size == 0
    with pytest.raises(SystemExit, match=r"^error: --image-size must be at least 0, not -8$"):
        main(["train", "lora", "--image-size", "-8"])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--best-of", "0"], "--best-of must be at least 1, not 0"),
        (["--num-candidates", "0"], "--num-candidates must be at least 1, not 0"),
        (["--best-of", "two"], "--best-of must be a whole number, not 'two'"),
        (["--num-candidates", "two"], "--num-candidates must be a whole number, not 'two'"),
        (["--best-of", "1", "--best-of", "2"], "--best-of is given 2 times"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_an_option_is_called_as_it_was_typed(args, says):
    with pytest.raises(SystemExit, match=f"^error: {says}"):
        main(["generate", "x", *args])


def test_every_further_name_of_an_option_is_known_to_messages():
    names = _options(Generate())
    assert {alias: names[alias] for alias in ALIASES} == ALIASES


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["generate", "a cat", "a cat"], "the prompt 'a cat' is given twice: its images would be the same"),
        (["generate", *["a", "cat", "and", "a", "dog"]], 'for a single one, put it in quotes: "a cat and a dog"'),
        (["interpolate", "a", "a"], "the prompt 'a' is given twice: give two different ones"),
        (["interpolate", "a", "--seeds", "1", "1"], "--seeds 1 is given twice"),
        (["interpolate", "a", "b", "--seeds", "1", "1"], "--seeds 1 is given twice"),
        (["report", "sweep", "x", "--values", "1", "1", "2"], "--values 1.0 is given twice"),
        (["eval", "r", "r"], "the target 'r' is given twice"),
        (["eval", "r", "--metrics", "fid", "fid"], "--metrics fid is given twice"),
        (["report", "human", "--systems", "a", "b", "a"], "--systems a is given twice"),
        (["report", "human", "--answers", "a", "a", "--key", "k"], "--answers a is given twice"),
        (["compare", "--families", "vae", "vae"], "--families vae is given twice"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_what_is_given_twice_to_no_effect_is_refused(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert says in str(exit_.value)
    assert not list(tmp_path.iterdir())


def test_a_long_value_is_quoted_by_its_beginning():
    assert shortened("a" * 5000) == "'" + "a" * 60 + "…'"
    assert shortened("it's") == '"it\'s"' and shortened(None) == "None" and len(shortened(list(range(99)))) == 61
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "caf\udce9" + "x" * 5000])
    assert len(str(exit_.value)) < 200


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["generate", "x", "--seed", "9" * 5000], "--seed must be a whole number of fewer digits"),
        (["generate", "x", "--seed", "x" * 5000], "--seed must be a whole number, not 'xx"),
        (["generate", "x", "--pipeline", "x" * 5000], "File name too long"),
        (["generate", "x", "--scheduler", "x" * 5000], "unknown scheduler 'xx"),
        (["edit", "x" * 5000, "x"], "cannot be read: File name too long"),
        (["x" * 5000], "unknown command 'xx"),
        (["train", "vae", "--" + "x" * 5000], "unknown option --xx"),
        (["compare", "--budget", "x" * 5000], "--budget is a time such as"),
    ],
    ids=lambda a: " ".join(a)[:30] if isinstance(a, list) else "",
)
def test_a_value_of_any_length_gives_a_short_line(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert says in str(exit_.value) and len(str(exit_.value)) < 500


@pytest.mark.parametrize("option", ["--max-train-steps", "--train-batch-size"])
def test_a_number_that_a_part_of_a_recipe_refuses_is_named_as_its_option(option):
    with pytest.raises(SystemExit, match=f"^error: {option} must be at least 1, not 0$"):
        main(["train", "vqvae-toybox", option, "0"])
