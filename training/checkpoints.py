"""Checkpoints: `checkpoint-N/` is loadable by `from_pretrained`, and `checkpoint-N/state/` resumes the run.

A checkpoint is written under a temporary name, followed by its manifest (see `t2i.manifest`), and then renamed, with an
fsync between the steps: a folder named `checkpoint-N` was once complete, and later damage is detected. `latest` is a
symbolic link to the newest one.

An asynchronous save (`--async-save`) is the same in two parts. In the step, the task writes the model, and the state's
tensors are copied to CPU memory; a thread of the main process writes them, flushes and hashes all files, and renames.

`state/` holds progress.json, random-RANK.json for each process, and the tensors in safetensors (see `state.py`).
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from t2i.files import read_json, sync, write_json, writing
from t2i.manifest import STATE, checkpoints, damage, newest_whole, write_manifest
from t2i.processes import wait_for_main
from t2i.runs import RECIPE_FILE
from t2i.training.averages import AveragedWeights, averaged
from t2i.training.background import Background
from t2i.training.budget import Budget
from t2i.training.evaluation import history_of
from t2i.training.lock import RunLock
from t2i.training.sharding import is_sharded
from t2i.training.state import copied_tensors, load_random, load_tensors, save_random, save_tensors, write_tensors
from t2i.training.task import Task

T = TypeVar("T")

DATA = "data_sha256"  # key of recipe.json: the data's fingerprint
MAY_CHANGE = {  # options that may differ when a run is resumed
    "output_dir",
    "max_train_steps",
    "max_train_time",
    "learning_rate",
    "mixed_precision",
    "gradient_checkpointing",
    "compile",
    "dataloader_num_workers",
    "max_skipped_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "async_save",
    "report_to",
    "resume",
    "tokenizer",
    "validation_prompts",
    "train_batch_size",  # these two may change if the global batch size stays the same
    "gradient_accumulation_steps",
}


@dataclass(frozen=True)
class Progress:
    """Progress of a run: its steps, their seconds, the number of skipped ones, and the evaluation losses."""

    steps: int = 0
    seconds: float = 0.0
    skipped: int = 0
    history: list[float] = field(default_factory=list)


class Checkpoints:
    """The checkpoints in a run folder, at most `limit`; as a context manager, it locks the folder to other runs.

    It ends when no checkpoint is being written any more, but for KeyboardInterrupt, after which the thread unlocks.

    Args:
        asynchronous: whether a thread finishes the checkpoints; not for sharded models.

    Attributes:
        background: what finishes them, one after another.
    """

    def __init__(self, run: Path, limit: int, global_batch: int, accelerator: Accelerator, asynchronous: bool = False):
        self.run, self.limit, self.global_batch, self.accelerator = run, limit, global_batch, accelerator
        self.background = Background(asynchronous)
        self._lock = RunLock(run)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc) -> None:
        if not self.accelerator.is_main_process:
            return
        if kind is KeyboardInterrupt and self.background.busy:
            self.background.do(self._lock.release)
            return
        self.background.join()
        self._lock.release()

    def all(self) -> list[Path]:
        """All checkpoints, oldest first."""
        return checkpoints(self.run)

    def newest(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        return next(reversed(self.all()), None)

    def open(self, resume: str | None, recipe: dict, defaults: Mapping[str, Any]) -> Path | None:
        """Create and lock the run folder, or check that it can be resumed; returns the checkpoint to resume from.

        Args:
            defaults: of options, which a run that was started before they existed is taken to have had.

        Raises:
            FileExistsError: a new run in a folder with checkpoints, or in one where another process is training.
            FileNotFoundError: there is nothing to resume.
            ValueError: the checkpoint is damaged (the message names the newest intact one) or is not the newest intact
                one of this run, or the run was started with a different recipe or different data.
        """
        origin = [self._on_all(lambda: self._open(resume, recipe, defaults), main=True)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(origin)
        return origin[0]

    def _open(self, resume: str | None, recipe: dict, defaults: Mapping[str, Any]) -> Path | None:
        if resume is None:
            self.run.mkdir(parents=True, exist_ok=True)
        elif self.newest() is None:
            raise FileNotFoundError(
                f"there is nothing to resume in {self.run}: leave out --resume, or give its --output-dir"
            )
        self._lock.take()
        if resume is None and (newest := self.newest()):
            raise FileExistsError(
                f"{self.run} already contains {newest.name}: resume with --resume latest, or give another --output-dir"
            )
        origin = None
        if resume is not None:
            origin = self._origin(resume)
            self._compare(recipe, defaults)
        self._tidy()
        if origin is None:
            write_json(self.run / RECIPE_FILE, recipe)
        else:
            self._set_aside_after(origin)
        return origin

    def _origin(self, resume: str) -> Path:
        """The checkpoint that `resume` names, if it is the newest intact one."""
        newest = resume == "latest" or Path(resume).resolve() == self.run.resolve()
        named = self.newest() if newest else Path(resume)
        if named is None or not named.is_dir():
            raise FileNotFoundError(f"there is nothing to resume in {resume}")
        origin = next((c for c in self.all() if c.resolve() == named.resolve()), None)
        if origin is None:
            raise ValueError(f"{resume} is no checkpoint of {self.run}; give one of that run, or --resume latest")
        if what := damage(origin, resuming=True):
            other = newest_whole(self.run, resuming=True)
            remedy = (
                f"the newest intact checkpoint is {other}: resume from it with --resume {shlex.quote(str(other))}"
                if other
                else f"no checkpoint of {self.run} is intact: start again with another --output-dir"
            )
            raise ValueError(f"{origin} is damaged: {what}; {remedy}")
        if whole := [c.name for c in self._after(origin) if damage(c, resuming=True) is None]:
            raise ValueError(
                f"{origin} is not the newest checkpoint of {self.run}, which is {whole[-1]}; "
                "remove the later ones first"
            )
        return origin

    def _after(self, origin: Path) -> list[Path]:
        """The checkpoints later than `origin`."""
        checkpoints = self.all()
        return checkpoints[checkpoints.index(origin) + 1 :]

    def _compare(self, recipe: dict, defaults: Mapping[str, Any]) -> None:
        """Raise ValueError unless the run was started with this recipe and this data."""
        before = json.loads(json.dumps(dict(defaults))) | read_json(self.run / RECIPE_FILE)
        now = json.loads(json.dumps(recipe))  # tuples become lists, as in the stored file
        changed = {k for k in now if k in before and before[k] != now[k]} - MAY_CHANGE
        if "recipe" in changed:
            raise ValueError(
                f"{self.run} is a run of {before['recipe']}, not of {now['recipe']}: resume with "
                f"t2i train {before['recipe']} --resume latest, or choose another --output-dir"
            )
        if options := [f"{k}: {before[k]} -> {now[k]}" for k in now if k in changed - {DATA}]:
            raise ValueError(f"{self.run} was started with another recipe ({'; '.join(options)}); start a new run")
        if unknown := sorted((before.keys() ^ now.keys()) - {"recipe"}):
            raise ValueError(
                f"{self.run} was started by another version of t2i, whose options differ from this one's "
                f"({', '.join(unknown)}); resume with that version, or start a new run with another --output-dir"
            )
        if changed:
            raise ValueError(
                f"the data {now.get('data', '')} have changed since {self.run} was started: images or captions "
                "were changed, added or removed; restore them, or start a new run with another --output-dir"
            )

    def _tidy(self) -> None:
        """Remove incomplete files left by a killed run."""
        for path in self.run.glob(".*.part*"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in self.run.glob(".*.before"):  # see t2i.files.replaced
            if (final := self.run / path.name.removeprefix(".").removesuffix(".before")).exists():
                shutil.rmtree(path)
            else:
                path.rename(final)

    def _set_aside_after(self, origin: Path) -> None:
        """Rename later, damaged checkpoints, and point `latest` to the origin."""
        for later in self._after(origin):
            aside = self.run / f"damaged-{later.name}"
            shutil.rmtree(aside, ignore_errors=True)
            later.rename(aside)
            print(f"{later} is damaged; renamed to {aside}")
        self._point_latest(origin)

    def load(self, origin: Path, model: nn.Module, optimizer: Optimizer, averages: AveragedWeights) -> Progress:
        """Restore model, optimizer, averaged weights and random states; returns the progress of the run.

        Raises ValueError if the global batch differs, or if the state was written by a version that pickled it.
        """
        state = origin / STATE
        progress = read_json(state / "progress.json")
        if progress["global_batch"] != self.global_batch:
            raise ValueError(
                f"the run was started with a global batch of {progress['global_batch']}, not {self.global_batch}: "
                "set --train-batch-size and --gradient-accumulation-steps so that processes × both equal it"
            )
        if not (state / "random-0.json").is_file():
            raise ValueError(
                f"{origin} is of an earlier version of t2i, whose state is pickled; resume with that version, or start "
                "a new run (its weights open as they are)"
            )
        if (processes := progress["processes"]) != self.accelerator.num_processes:
            self.accelerator.print(
                f"saved by {processes} processes, resumed by {self.accelerator.num_processes}: random numbers within "
                "the model, as for dropout, differ from here on"
            )
        load_tensors(state, model, optimizer, averages)
        load_random(state, self.accelerator)
        if self.accelerator.scaler is not None and progress["scaler"] is not None:  # None: saved with another precision
            self.accelerator.scaler.load_state_dict(progress["scaler"])
        averages.steps = progress["ema_steps"]
        history = history_of(origin, progress["history"])
        return Progress(progress["steps"], progress["seconds"], progress["skipped"], history)

    def save(
        self, task: Task, optimizer: Optimizer, budget: Budget, averages: AveragedWeights, history: list[float]
    ) -> Path:
        """Write checkpoint-STEP, the task's model with averaged weights and the training state; returns its folder.

        All processes must call this. Raises OSError if the disk is full; earlier checkpoints are unaffected. If
        asynchronous, it waits for the previous checkpoint and raises its error, and returns before the folder is there.
        """
        self.wait()
        final = self.run / f"checkpoint-{budget.step}"
        part = self.run / f".{final.name}.part"
        state = part / STATE
        progress = self._progress(budget, averages, history)
        with self._unfinished(part, final):
            with averaged(task.model, averages):
                self._on_all(lambda: self._write_model(part, task), main=True)
            if self.background.asynchronous:
                tensors = self._on_all(lambda: copied_tensors(task.model, optimizer, averages), main=True)
            else:
                write = partial(save_tensors, state, task.model, optimizer, averages)
                tensors = self._on_all(write, main=not is_sharded(task.model))
            self._on_all(lambda: save_random(state, self.accelerator))
        # From here on only this piece of work removes `part`: what interrupts the wait for a thread must not.
        finish = self._unfinished(part, final)(partial(self._finish, part, final, tensors, progress))
        self._on_all(lambda: self.background.do(finish), main=True)
        return final

    def wait(self) -> None:
        """Wait until no checkpoint is being written; all processes must call this. Raises as `save`."""
        if self.background.asynchronous:
            self._on_all(self.background.wait, main=True)

    @contextmanager
    def _unfinished(self, part: Path, final: Path) -> Iterator[None]:
        """Context manager and decorator: an error removes `part`, and names what a full disk leaves unaffected."""
        try:
            with writing(final):
                yield
        except BaseException as error:
            if self.accelerator.is_main_process:
                shutil.rmtree(part, ignore_errors=True)
            if isinstance(error, OSError) and (kept := self.newest()):
                raise OSError(f"{error}; {kept} is unaffected") from error
            raise

    def _write_model(self, part: Path, task: Task) -> None:
        shutil.rmtree(part, ignore_errors=True)
        (part / STATE).mkdir(parents=True)
        task.model.eval()
        task.save(part)
        task.model.train()

    def _progress(self, budget: Budget, averages: AveragedWeights, history: list[float]) -> dict:
        """The content of progress.json."""
        scaler = self.accelerator.scaler
        return {
            "steps": budget.step,
            "seconds": budget.seconds,
            "skipped": budget.skipped,
            "ema_steps": averages.steps,
            "global_batch": self.global_batch,
            "processes": self.accelerator.num_processes,
            "scaler": None if scaler is None else scaler.state_dict(),
            "history": history,
        }

    def _finish(self, part: Path, final: Path, tensors: Mapping[str, Tensor] | None, progress: dict) -> None:
        """Write the rest of the checkpoint and its manifest, rename it, and remove the oldest checkpoints.

        Called on the main process alone, perhaps in a thread.

        Args:
            tensors: those of the state, if they are not written yet.
        """
        if tensors is not None:
            write_tensors(part / STATE, tensors)
        write_json(part / STATE / "progress.json", progress)
        write_manifest(part)
        part.rename(final)
        sync(self.run)
        self._point_latest(final)
        for old in self.all()[: -self.limit]:
            removed = self.run / f".{old.name}.removed.part"
            old.rename(removed)  # at once: a kill must not leave a checkpoint that lacks files
            shutil.rmtree(removed)

    def _point_latest(self, target: Path) -> None:
        link = self.run / ".latest.part"
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(target.name)
        except OSError:  # symbolic links unsupported or not permitted
            return
        link.replace(self.run / "latest")
        sync(self.run)

    def _on_all(self, work: Callable[[], T], main: bool = False) -> T | None:
        """Run `work`, if `main` on the main process only, however long it takes there.

        If it fails on one process, all raise, so that none hangs.
        """
        result = error = None
        try:
            result = work() if self.accelerator.is_main_process or not main else None
        except Exception as raised:
            error = raised
        if main:
            wait_for_main()
        if self.accelerator.num_processes > 1:
            error = next((e for e in gather_object([error]) if e is not None), None)
        if error is not None:
            raise error
        return result
