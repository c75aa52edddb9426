"""Checkpoints: `checkpoint-N/` is what `from_pretrained` opens, and `checkpoint-N/state/` is what resumes the run.

A checkpoint is written under a temporary name and renamed, so that a folder called `checkpoint-N` is always whole.
`latest` is a link to the newest one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from t2i.files import write_json
from t2i.training.budget import Budget
from t2i.training.config import RECIPE_FILE

SCALER = "scaler.pt"  # accelerate's name for the state of float16's gradient scaler
MAY_CHANGE = {  # what a resumed run may be told anew; anything else would make it another run
    "output_dir",
    "max_train_steps",
    "max_train_time",
    "learning_rate",
    "mixed_precision",
    "gradient_checkpointing",
    "compile",
    "dataloader_num_workers",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "report_to",
    "resume",
    "tokenizer",
    "validation_prompts",
    "train_batch_size",  # the product of these two and the number of processes is compared on its own
    "gradient_accumulation_steps",
}


class Checkpoints:
    """The checkpoints of one run folder, at most `limit` of them."""

    def __init__(self, run: Path, limit: int, global_batch: int, accelerator: Accelerator):
        self.run, self.limit, self.global_batch, self.accelerator = run, limit, global_batch, accelerator

    def all(self) -> list[Path]:
        """Every whole checkpoint, oldest first."""
        found = [p for p in self.run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
        return sorted(found, key=lambda p: int(p.name.split("-")[1]))

    def newest(self) -> Path | None:
        return self.all()[-1] if self.all() else None

    def open(self, resume: str | None, recipe: dict) -> Path | None:
        """Make the run folder, or check that it may be resumed; return the checkpoint to go on from, if any.

        Raises FileExistsError for a new run where checkpoints are, FileNotFoundError when there is nothing to resume,
        ValueError when the checkpoint is not the newest of this run or the run was started with another recipe.
        """
        self.accelerator.wait_for_everyone()
        if resume is None:
            if self.all():
                raise FileExistsError(
                    f"{self.run} holds {self.newest().name}: go on with --resume latest, or choose another --output-dir"
                )
            if self.accelerator.is_main_process:
                self.run.mkdir(parents=True, exist_ok=True)
                for part in self.run.glob(".checkpoint-*.part"):  # what a crash left
                    shutil.rmtree(part)
                write_json(self.run / RECIPE_FILE, recipe)
            self.accelerator.wait_for_everyone()
            return None
        origin = self.newest() if resume == "latest" else Path(resume)
        if origin is None or not (origin / "state").is_dir() or self.newest() is None:
            raise FileNotFoundError(f"there is nothing to resume in {self.run if origin is None else origin}")
        if origin.resolve() != self.newest().resolve():
            raise ValueError(
                f"{origin} is not the newest checkpoint of {self.run}, which is {self.newest().name}; "
                "remove the later ones first"
            )
        before = json.loads((self.run / RECIPE_FILE).read_text())
        now = json.loads(json.dumps(recipe))  # tuples become lists, as in the file
        # An option that was not there yet when the run began has, by default, no effect.
        changed = [f"{k}: {before[k]} -> {now[k]}" for k in now if k in before and before[k] != now[k]]
        changed = [c for c in changed if c.split(":")[0] not in MAY_CHANGE]
        if changed:
            raise ValueError(f"{self.run} was started with another recipe ({'; '.join(changed)}); start a new run")
        return origin

    def load(self, origin: Path, ema: EMAModel) -> tuple[int, float]:
        """Bring back model, optimiser, random states and averaged weights; return the steps and seconds behind them."""
        progress = json.loads((origin / "state" / "progress.json").read_text())
        if progress["global_batch"] != self.global_batch:
            raise ValueError(
                f"the run was started with a global batch of {progress['global_batch']}, not {self.global_batch}: "
                "set --train-batch-size and --gradient-accumulation-steps so that processes × both make it again"
            )
        scaler = self.accelerator.scaler
        if not (origin / "state" / SCALER).is_file():  # begun in another precision: the scale of float16 starts anew
            self.accelerator.scaler = None
        self.accelerator.load_state(str(origin / "state"))
        self.accelerator.scaler = scaler
        averaged = load_file(origin / "state" / "ema.safetensors")
        with torch.no_grad():
            for i, shadow in enumerate(ema.shadow_params):
                shadow.copy_(averaged[str(i)])
        ema.optimization_step = progress["ema_steps"]
        return progress["steps"], progress.get("seconds", 0.0)  # older checkpoints did not count them

    def save(
        self, budget: Budget, save_model: Callable[[Path], None], ema: EMAModel, restore: Callable[[], None]
    ) -> None:
        """Write checkpoint-STEP. The model holds the averaged weights; `restore` puts the trained ones back."""
        step = budget.step
        part = self.run / f".checkpoint-{step}.part"
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            save_model(part)
        restore()
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(part / "state"))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shadows = {str(i): p.detach().cpu().contiguous() for i, p in enumerate(ema.shadow_params)}
            save_file(shadows, part / "state" / "ema.safetensors")
            write_json(
                part / "state" / "progress.json",
                {
                    "steps": step,
                    "seconds": budget.seconds,
                    "ema_steps": ema.optimization_step,
                    "global_batch": self.global_batch,
                },
            )
            final = self.run / f"checkpoint-{step}"
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
            self._point_latest(final)
            for old in self.all()[: -self.limit]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _point_latest(self, target: Path) -> None:
        link = self.run / ".latest.part"
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(target.name)
        except OSError:  # a system without links, or without leave to make them: the folder's own name will do
            return
        link.replace(self.run / "latest")
