"""A run's checkpoints under failures of disks, data, processes and users."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from test_training import losses, vqvae_recipe

from t2i.data.toybox_v1 import export
from t2i.files import replaced, reserve, write_whole, writing
from t2i.manifest import MANIFEST, damage, newest_whole, verify, write_manifest
from t2i.models import load_pretrained
from t2i.tokenizers.auto import open_image_tokenizer
from t2i.tokenizers.vqvae import VQVAE
from t2i.training.averages import AveragedWeights
from t2i.training.budget import Budget
from t2i.training.checkpoints import Checkpoints
from t2i.training.cli import main, run
from t2i.training.config import FittedRecipe, defaults_of, flatten
from t2i.training.finite import OVERFLOWS, FiniteSteps, NonFiniteLoss
from t2i.training.loop import train
from t2i.training.recipes import RECIPES
from t2i.training.recipes.dalle.tokenizers import TokenizerTask, VQGANRecipe
from t2i.training.state import load_random, save_random
from t2i.training.task import Evaluation

STATE_FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors", "random-0.json", "progress.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with checkpoint-2 and checkpoint-4."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(vqvae_recipe(folder, max_train_steps=4, checkpointing_steps=2))
    return folder


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def resume(folder: Path, name: str = "latest", steps: int = 6, **options) -> Path:
    return run(vqvae_recipe(folder, max_train_steps=steps, checkpointing_steps=2, resume=name, **options))


def cut(path: Path) -> None:
    os.truncate(path, 40)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
def test_a_damaged_checkpoint_is_refused_and_the_newest_whole_one_named(copy, harm: Callable[[Path], None]):
    before = contents(copy)
    for name in STATE_FILES:
        file = copy / "checkpoint-4" / "state" / name
        kept = file.read_bytes()
        harm(file)
        with pytest.raises(ValueError, match=rf"checkpoint-4 is damaged: state/{name} .*--resume \S*/checkpoint-2$"):
            resume(copy)
        file.write_bytes(kept)
    assert contents(copy) == before  # nothing was modified, and no lock is left


def test_a_run_goes_on_from_its_newest_whole_checkpoint_as_if_the_damaged_one_had_not_been(copy, trained, tmp_path):
    cut(copy / "checkpoint-4" / "state" / "model.safetensors")
    with pytest.raises(ValueError, match="checkpoint-2 is not the newest"):  # as long as the later one is intact
        resume(Path(shutil.copytree(trained, tmp_path / "whole", symlinks=True)), str(tmp_path / "whole/checkpoint-2"))
    resume(copy, str(copy / "checkpoint-2"))
    run(vqvae_recipe(tmp_path / "straight", max_train_steps=4, checkpointing_steps=2))
    resume(tmp_path / "straight")
    assert losses(copy) == losses(tmp_path / "straight")
    assert (copy / "damaged-checkpoint-4").is_dir() and (copy / "latest").resolve().name == "checkpoint-6"
    assert newest_whole(copy, resuming=True) == copy / "checkpoint-6"


def test_where_no_checkpoint_is_whole_that_is_said(copy):
    for n in (2, 4):
        (copy / f"checkpoint-{n}" / "state" / "random-0.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4 is damaged: .*is missing; no checkpoint of .* is intact"):
        resume(copy)


def test_what_the_manifest_cannot_mean_is_damage(copy):
    folder = copy / "checkpoint-4"
    manifest = json.loads((folder / MANIFEST).read_text())
    assert set(manifest["files"]) == set(contents(folder)) - {MANIFEST}
    for content, says in (
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"files": {"a": 1}}', "cannot be read"),
        ('{"files": {"../x": {"size": 1, "sha256": ""}}}', "lies outside"),
    ):
        (folder / MANIFEST).write_text(content)
        assert says in damage(folder, resuming=True)
    (folder / MANIFEST).unlink()
    assert damage(folder, resuming=True) == "manifest.json is missing" and damage(folder) is None


def test_a_file_that_was_added_to_the_state_is_damage(copy):
    shutil.copy(
        copy / "checkpoint-2" / "state" / "ema.safetensors", copy / "checkpoint-4" / "state" / "more.safetensors"
    )
    assert damage(copy / "checkpoint-4") is None, "its weights open"
    with pytest.raises(ValueError, match=r"checkpoint-4 is damaged: state/more\.safetensors was added after it was"):
        resume(copy)


def test_flipped_bytes_are_noticed_on_opening(copy):
    verify(copy / "latest")
    flip(copy / "checkpoint-4" / "state" / "optimizer.safetensors")  # read only on resume
    verify(copy / "latest")
    flip(copy / "checkpoint-4" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"checkpoint-4 is damaged: diffusion_pytorch_model.*checkpoint-2: open that"):
        verify(copy / "latest")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit to set")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(copy, asynchronous):
    """Two cases: while the state is written, perhaps by a thread, and while the model is."""
    import resource

    before, limits = contents(copy / "checkpoint-4"), resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = sorted({len(content) for content in before.values()})
    for room in (largest[-1] - 1000, largest[-2] - 1000):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
            with pytest.raises(OSError, match=r"checkpoint-6 could not be written: .*; \S*checkpoint-4 is unaffected$"):
                resume(copy, steps=7, async_save=asynchronous)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert contents(copy / "checkpoint-4") == before and not list(copy.glob(".*"))
        assert (copy / "latest").resolve().name == "checkpoint-4"
    resume(copy)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device"), "No space left"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "No space left"),
        (RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing"), "only a part"),
    ],
)
def test_full_disks_are_said_in_one_way(error, says):
    with pytest.raises(OSError, match=rf"^run/x could not be written: .*{says}.*; free some space"), writing("run/x"):
        raise error
    for other in (RuntimeError("shapes differ"), FileNotFoundError(2, "no such file"), SafetensorError("no header")):
        with pytest.raises(type(other), match=str(other.args[-1])), writing("run/x"):
            raise other


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").mkdir()  # no file can replace it
    with pytest.raises(OSError):
        write_whole(tmp_path / "file", "text")
    with pytest.raises(ZeroDivisionError), replaced(tmp_path / "file") as part:
        (part / "half").write_text("")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and not list((tmp_path / "file").iterdir())
    assert reserve(tmp_path / "array.npy", "float32", (3, 2)).shape == (3, 2)


def test_processes_may_write_the_same_file(tmp_path):
    code = "import sys; from pathlib import Path; from t2i.files import write_whole; sys.stdin.readline()\n"
    code += "for _ in range(500): write_whole(Path(sys.argv[1]), 'whole' * 20_000, durable=False)"
    start = [sys.executable, "-c", code, str(tmp_path / "file")]
    both = [subprocess.Popen(start, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.close()
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "file").read_text() == "whole" * 20_000
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_leavings_of_a_kill_go_when_the_run_goes_on(copy):
    for name in (".checkpoint-6.part", ".best.part"):
        (copy / name).mkdir()
    (copy / ".metrics.part").write_text("")
    (copy / "best").mkdir()
    (copy / "best").rename(copy / ".best.before")  # between the two renames of `replaced`
    resume(copy, steps=5)
    assert not list(copy.glob(".*")) and (copy / "best").is_dir()


# --- the same run ---------------------------------------------------------------------------------------------------


def test_a_run_is_not_resumed_with_other_images(tmp_path):
    folder = export(tmp_path / "boxes", 6)
    data = dataclasses.replace(RECIPES["vqvae-toybox"]("tiny").data, data=str(folder))
    run(vqvae_recipe(tmp_path / "run", data=data, max_train_steps=1))
    run(vqvae_recipe(tmp_path / "run", data=data, max_train_steps=2, resume="latest"))
    picture = sorted(folder.glob("*.png"))[3]
    Image.new("RGB", (64, 64), "teal").save(picture)
    with pytest.raises(ValueError, match=rf"the data {folder} have changed since .*/run was started: images or"):
        run(vqvae_recipe(tmp_path / "run", data=data, max_train_steps=3, resume="latest"))


def test_a_run_is_not_resumed_as_another_recipe(tmp_path):
    sizes = ["--preset", "tiny", "--train-batch-size", "2", "--dataloader-num-workers", "0", "--report-to", "none"]
    where = ["--output-dir", str(tmp_path / "run"), "--max-train-steps"]
    main(["nice", *sizes, *where, "1"])
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"] == "nice"
    with pytest.raises(ValueError, match=r"is a run of nice, not of characters: resume with t2i train nice --resume"):
        main(["characters", *sizes, *where, "2", "--resume", "latest"])


def test_a_run_with_options_of_another_version_is_not_resumed(copy):
    file = copy / "recipe.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"start_from": None}))
    with pytest.raises(ValueError, match=r"another version of t2i, whose options .* \(start_from\); resume with that"):
        resume(copy)


def test_a_run_is_resumed_by_a_version_that_has_more_options_if_these_are_at_their_defaults(copy):
    file = copy / "recipe.json"
    older = json.loads(file.read_text())
    assert older.pop("max_grad_norm") == 1.0 and older.pop("codebook_size") == 64  # by default 1024
    file.write_text(json.dumps(older | {"codebook_size": 64}))
    assert resume(copy).name == "checkpoint-6"
    file.write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"started with another recipe \(codebook_size: 1024 -> 64\)"):
        resume(copy, steps=8)


def test_best_is_not_lost_to_a_worse_model_where_no_link_is(tmp_path):
    """For example on a system without symbolic links."""
    run(nice(tmp_path / "run", max_train_steps=2))
    latest, scores = tmp_path / "run" / "latest", tmp_path / "run" / "checkpoint-2" / "scores.json"
    latest.unlink()
    history = json.loads(scores.read_text()) | {"history": [-1e9]}  # so good that no later one is better
    scores.write_text(json.dumps(history))
    write_manifest(scores.parent)
    best = contents(tmp_path / "run" / "best")
    run(nice(tmp_path / "run", max_train_steps=4, resume="latest"))
    assert contents(tmp_path / "run" / "best") == best
    flip(tmp_path / "run" / "best" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="best is damaged"):
        load_pretrained(tmp_path / "run")


def test_a_complete_run_says_so(copy, capsys):
    assert resume(copy, steps=4) == copy / "checkpoint-4"
    assert "run is complete: 4 of 4 steps; to train on, give a larger --max-train-steps" in capsys.readouterr().out
    assert resume(copy, steps=2) == copy / "checkpoint-4"
    said = "run is complete: 4 steps, more than --max-train-steps 2; to train on, give a larger --max-train-steps"
    assert said in capsys.readouterr().out
    resume(copy, steps=5)
    said = capsys.readouterr().out
    assert f"done after 5 of 5 steps; wrote {copy}/checkpoint-5" in said
    assert f"next: t2i train prior-toybox --tokenizer {copy}/latest" in said


# --- steps that go wrong --------------------------------------------------------------------------------------------


class Poisoned(TokenizerTask):
    """The third step has a finite loss and gradient, and leaves a non-finite weight."""

    where, calls = "weight", 0

    def loss(self, images):
        self.calls += 1
        if self.calls == 3:
            broken = self.model.quantizer.codebook if self.where == "buffer" else next(self.model.parameters())
            losses = super().loss(images)
            broken.data[(0,) * broken.ndim] = float("inf")
            return losses
        return super().loss(images)


@pytest.mark.parametrize("where", ["weight", "buffer"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, where):
    asked = vqvae_recipe(tmp_path / "run", max_train_steps=6, checkpointing_steps=1)
    task = Poisoned(asked)
    task.where = where
    with pytest.raises(NonFiniteLoss, match=r"after step 3 .* has non-finite values.*last checkpoint, .*point-2, w"):
        train(task, asked.loop, {})
    assert (tmp_path / "run" / "latest").resolve().name == "checkpoint-2"
    assert all(x.isfinite().all() for x in VQVAE.from_pretrained(tmp_path / "run" / "latest").state_dict().values())
    assert not list((tmp_path / "run").glob(".*"))


class Faulty(TokenizerTask):
    """The losses of these steps are NaN."""

    steps, calls = (), 0

    def loss(self, images):
        self.calls += 1
        losses = super().loss(images)
        return {name: x * float("nan") for name, x in losses.items()} if self.calls in self.steps else losses


def faulty(folder: Path, *steps: int, **options) -> dict[int, dict]:
    """Train with NaN in these steps; returns the lines of the log by step."""
    asked = vqvae_recipe(folder, checkpointing_steps=1, checkpoints_total_limit=9, **options)
    task = Faulty(asked)
    task.steps = steps
    train(task, asked.loop, {})
    return {line["step"]: line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}


def test_a_step_whose_loss_is_not_finite_is_skipped_and_counted(tmp_path, capsys):
    lines = faulty(tmp_path / "run", 3, 4)
    assert "warning: step 3 is skipped: the loss is nan" in capsys.readouterr().err
    assert lines[4]["skipped_steps"] == 2 and "loss" not in lines[4] and "skipped_steps" not in lines[5]
    # A checkpoint that falls due at a skipped step is made after the next good one.
    assert [p.name for p in sorted((tmp_path / "run").glob("checkpoint-*"))] == [
        f"checkpoint-{n}" for n in (1, 2, 5, 6)
    ]
    progress = json.loads((tmp_path / "run" / "latest" / "state" / "progress.json").read_text())
    assert (progress["steps"], progress["skipped"], progress["ema_steps"]) == (6, 2, 4)


def test_a_skipped_step_changes_no_weights(tmp_path):
    faulty(tmp_path / "run", 3, max_train_steps=3)  # the last step saves, whatever its loss
    saved = [tmp_path / "run" / f"checkpoint-{n}" / "state" for n in (2, 3)]
    for name in ("model", "ema", "optimizer"):
        before, after = (load_file(state / f"{name}.safetensors") for state in saved)
        trained = [key for key in before if "quantizer" not in key]  # its buffers follow every batch
        assert trained and all(torch.equal(before[key], after[key]) for key in trained)


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"at step 6 the loss is nan .*, as in the 2 before it; .*checkpoint-3, w"):
        faulty(tmp_path / "run", 2, 4, 5, 6, max_skipped_steps=3, max_train_steps=9)
    assert damage(tmp_path / "run" / "checkpoint-3", resuming=True) is None


class Unshowable(TokenizerTask):
    def preview(self) -> Image.Image:
        torch.rand(3)
        raise RuntimeError("no font")


def test_overflowing_gradients_of_fp16_are_skipped_in_silence_but_not_for_ever(tmp_path, capsys):
    config = nice(tmp_path / "run").loop
    accelerator, model = Accelerator(), torch.nn.Linear(1, 1)
    accelerator.scaler = torch.amp.GradScaler("cpu")
    with Checkpoints(tmp_path / "run", 1, 8, accelerator) as checkpoints:
        finite = FiniteSteps(2, budget := Budget(config), accelerator, checkpoints)
        for step in range(1, OVERFLOWS):
            scalars = {"loss": 1.0, "grad_norm": math.inf}
            assert not finite.allows(scalars, model)
            assert scalars == {"loss": 1.0, "skipped_steps": step} and budget.skipped == step
        assert capsys.readouterr().err == ""
        with pytest.raises(NonFiniteLoss, match=f"as in the {OVERFLOWS - 1} before it"):
            finite.allows({"loss": 1.0, "grad_norm": math.inf}, model)
        assert finite.allows({"loss": 1.0, "grad_norm": 2.0}, model) and finite.skipped_in_a_row == 0


def test_a_preview_that_fails_costs_a_warning(tmp_path, capsys, monkeypatch):
    """And random numbers in the preview do not change the run."""
    asked = vqvae_recipe(tmp_path / "run", max_train_steps=4, checkpointing_steps=2)
    monkeypatch.setattr("t2i.training.log.plot_curves", lambda *_: 1 / 0)
    train(Unshowable(asked), asked.loop, {})
    said = capsys.readouterr().err
    assert "warning: step 2 has no preview; training continues (RuntimeError: no font)" in said
    assert "warning: step 4 has no curves; training continues (ZeroDivisionError: " in said
    monkeypatch.undo()
    run(vqvae_recipe(tmp_path / "shown", max_train_steps=4, checkpointing_steps=2))
    weights = [tmp_path / name / "checkpoint-4" / "state" / "model.safetensors" for name in ("run", "shown")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


# --- evaluations ----------------------------------------------------------------------------------------------------


class Unscorable(TokenizerTask):
    def evaluate(self) -> Evaluation:
        torch.rand(3)
        raise RuntimeError("no reference")


def test_an_evaluation_that_fails_costs_a_warning_and_no_checkpoint(tmp_path, capsys):
    asked = vqvae_recipe(tmp_path / "run", max_train_steps=4, checkpointing_steps=2)
    train(Unscorable(asked), asked.loop, {})
    assert "warning: step 2 has no scores; training continues (RuntimeError: no reference)" in capsys.readouterr().err
    run(vqvae_recipe(tmp_path / "scored", max_train_steps=4, checkpointing_steps=2))
    for step in (2, 4):
        weights = [tmp_path / run / f"checkpoint-{step}" / "state" / "model.safetensors" for run in ("run", "scored")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        assert damage(tmp_path / "run" / f"checkpoint-{step}", resuming=True) is None


def nice(folder: Path, **loop):
    tiny = RECIPES["nice"]("tiny")
    sizes = {"max_train_steps": 6, "train_batch_size": 8, "checkpointing_steps": 2, "dataloader_num_workers": 0}
    loop = dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **sizes | loop)
    return dataclasses.replace(tiny, loop=loop, data=dataclasses.replace(tiny.data, scored=20))


def test_a_run_that_ends_while_a_checkpoint_is_evaluated_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    """Even with a limit of one checkpoint, so that no earlier one stores the previous scores."""
    run(nice(tmp_path / "whole"))
    asked = nice(tmp_path / "parts", checkpoints_total_limit=1)
    task, calls = asked.task(), iter((False, True))
    evaluate = task.evaluate
    monkeypatch.setattr(task, "evaluate", lambda: ctrl_c() if next(calls) else evaluate())
    with pytest.raises(KeyboardInterrupt):
        train(task, asked.loop, flatten(asked))
    assert not (tmp_path / "parts" / "checkpoint-4" / "scores.json").exists()
    run(dataclasses.replace(asked, loop=dataclasses.replace(asked.loop, resume="latest")))
    for name in ("checkpoint-6/scores.json", "best/scores.json", "best/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(json.loads((tmp_path / "parts" / "latest" / "scores.json").read_text())["history"]) == 3


def ctrl_c():
    raise KeyboardInterrupt


def test_averages_follow_the_weights_and_come_back(tmp_path):
    moving, still = (torch.nn.Parameter(torch.full((3,), x)) for x in (1.0, 5.0))
    still.requires_grad_(False)
    averages, expected = AveragedWeights([moving, still], 0.9), 1.0
    for step in range(1, 40):
        moving.data += 1
        averages.step()
        decay = min(0.9, 1 - step**-0.75)
        expected = decay * expected + (1 - decay) * float(moving.detach()[0])
    with averages.applied():
        assert moving.tolist() == pytest.approx([expected] * 3)
    assert moving.tolist() == [40.0] * 3 and still.tolist() == [5.0] * 3


# --- what is written ------------------------------------------------------------------------------------------------


def test_no_file_of_a_run_is_a_pickle_and_a_pickled_state_is_refused(copy):
    for path in (p for p in copy.rglob("*") if p.is_file()):
        assert path.suffix in {".safetensors", ".json", ".jsonl", ".png"}, path
        assert not path.read_bytes().startswith((b"\x80", b"PK")), path  # a pickle; torch.save's archive
    state = copy / "checkpoint-4" / "state"
    (state / "random-0.json").rename(state / "random_states_0.pkl")
    write_manifest(copy / "checkpoint-4")
    with pytest.raises(ValueError, match=r"checkpoint-4 is of an earlier version of t2i, whose state is pickled; resu"):
        resume(copy)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.mkdir, (str(self.sentinel),)


BY_OTHERS = ("pytorch_model.bin", "diffusion_pytorch_model.bin", "model.ckpt", "config.pkl", "state/optimizer.bin")
BY_OTHERS += ("state/scaler.pt", "state/random_states_0.pkl", "state/.metadata", "state/__0_0.distcp")


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [False, True])
def test_no_pickle_in_a_checkpoint_is_ever_run_whatever_its_name(copy, tmp_path, zipped):
    sentinel, bomb = tmp_path / "sentinel", tmp_path / "bomb"
    if zipped:
        torch.save(Payload(sentinel), bomb)
    else:
        bomb.write_bytes(pickle.dumps(Payload(sentinel)))
    own = [path.relative_to(copy / "checkpoint-4") for path in (copy / "checkpoint-4").rglob("*") if path.is_file()]
    for i, name in enumerate([*own, *BY_OTHERS]):
        run_folder = Path(shutil.copytree(copy, tmp_path / str(i), symlinks=True))
        checkpoint = run_folder / "checkpoint-4"
        shutil.copy(bomb, checkpoint / name)
        if name != Path("manifest.json"):
            write_manifest(checkpoint)  # as someone would who wants it to be opened
        for work in (lambda: resume(run_folder), lambda: open_image_tokenizer(run_folder)):  # noqa: B023 - called at once
            with contextlib.suppress(Exception):
                work()
            assert not sentinel.exists(), name
    with pytest.raises(FileExistsError):  # the payload works
        sentinel.mkdir()
        torch.load(bomb, weights_only=False) if zipped else pickle.loads(bomb.read_bytes())


def test_random_numbers_go_on_where_they_were_saved(tmp_path):
    torch.randn(3)
    save_random(tmp_path, Accelerator())
    expected = torch.randn(3)
    assert not torch.equal(torch.randn(3), expected)
    load_random(tmp_path, Accelerator())
    assert torch.equal(torch.randn(3), expected)


def test_defaults_are_those_of_the_options_that_a_recipe_has():
    """Also where its model is not the one that its class has by default, and where a part has defaults of its own."""
    for name, make in RECIPES.items():
        if not isinstance(recipe := make("tiny"), FittedRecipe):
            assert defaults_of(recipe).keys() <= flatten(recipe).keys(), name
    assert (
        defaults_of(RECIPES["vqgan-toybox"]("tiny"))["perceptual_weight"] == VQGANRecipe().perceptual.perceptual_weight
    )
