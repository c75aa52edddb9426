"""How mistakes at the command line are worded: what is nearest, what is given twice, and what the machine refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from t2i.arguments import parse
from t2i.checks import UsageError, nearest
from t2i.cli import main
from t2i.cli_errors import exit_on_bad_input
from t2i.eval.ask import Ask, Sweep
from t2i.pipelines.cli import Generate
from t2i.training.config import LoopConfig

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
    (Ask(), ["--allow-mixed", "--no-allow-mixed"], "--allow-mixed is given 2 times"),
    (Sweep(), ["--values", "1", "2", "--values", "3"], "--values is given 2 times"),
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
        (["eval", "fid", "--seed", str(2**64)], "--seed must be less than 2**64"),
        (["eval", "fid", "--guidance-scale", "-1"], "--guidance-scale must be at least 0"),
        (["report", "sweep", "--values", "1", "-3"], "--guidance-scale must be at least 0"),
        (["data", "toybox", "--out", "d", "--seed", "-1"], "--seed must be at least 0"),
        (["eval", "fid", "--pipeline", "runs/mistyped"], "there is no folder runs/mistyped"),
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


@pytest.mark.parametrize("option", ["--max-train-steps", "--train-batch-size"])
def test_a_number_that_a_part_of_a_recipe_refuses_is_named_as_its_option(option):
    with pytest.raises(SystemExit, match=f"^error: {option} must be at least 1, not 0$"):
        main(["train", "vqvae-toybox", option, "0"])
