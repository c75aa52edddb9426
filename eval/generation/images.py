"""Images of prompts × seeds, generated in batches on any number of processes, resumable, with a manifest.

Each image has its own generator, seeded by (key of the prompt, seed), so its noise depends neither on the number of
processes nor on the batch size. Only rounding depends on the batch size: some kernels sum in another order, which may
change the last bits of a continuous sampler.

Item i of prompts × seeds (all seeds of the first prompt first) belongs to process i % world. A folder contains

    images/<key and prompt>-<seed>.png
    manifest.json           {"header": …, "black": n, "images": [{"index", "key", "prompt", "seed", "file", "sha256",
                            "black"}, …]}, once all images are there
    manifest-<rank>.jsonl   the same header, then one line per image, while images are missing

Shapes: B images in a batch · H, W sides of an image
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

import t2i
from t2i.checks import shortened
from t2i.eval.distributed import shard, together
from t2i.eval.generation.manifest import REMEDY, check_entry, find_manifest
from t2i.eval.generation.manifest import digest as file_digest
from t2i.eval.generation.prompt import Prompt, entropy
from t2i.files import slug, write_whole
from t2i.processes import this_process
from t2i.weights import digest

Pipeline = Callable[..., object]

RESERVED = ("prompt", "generator", "output_type", "num_images_per_prompt", "return_dict")  # arguments set here
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # messages of CUDA, Linux, Windows


@dataclass(frozen=True)
class Item:
    """One image to generate: `index` in prompts × seeds."""

    index: int
    prompt: Prompt
    seed: int

    @property
    def file(self) -> str:
        """Path in the folder, composed of key, prompt and seed."""
        words = f"{slug(self.prompt.key)[:100]}-{slug(self.prompt.text)[:60]}".strip("-")
        return f"images/{words}-{self.seed}.png"

    def generator(self) -> torch.Generator:
        """A new generator, in the same initial state for the same (key, seed) everywhere."""
        noise = self.prompt.noise
        return seeded(self.seed, *noise) if noise else seeded(*entropy(self.seed, self.prompt.key))


# --- batches --------------------------------------------------------------------------------------------------------


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU, seeded by several non-negative integers through `numpy.random.SeedSequence`."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def check_options(pipeline: Pipeline, options: dict) -> None:
    """Raise ValueError for an option (or generators) that the pipeline does not accept, or that is set here.

    A pipeline with **kwargs is assumed to accept every name.
    """
    for option in options:
        if option in RESERVED:
            raise ValueError(f"{option} is set by the evaluation itself; leave it out of the options")
    for option in ("generator", *options):
        if not _takes(pipeline, option):
            raise ValueError(f"{type(pipeline).__name__} takes no {option}")


def call(pipeline: Pipeline, prompts: Sequence[str], generators: Sequence[torch.Generator], **options) -> list:
    """One RGB image (PIL) per prompt, from a pipeline with diffusers' call signature.

    Raises ValueError for a wrong number of images, and FloatingPointError, naming the prompt, for an image with NaN.
    """
    if _takes(pipeline, "output_type"):
        options["output_type"] = "np"  # floats: converted to eight bits, a NaN would be black or arbitrary
    images = pipeline(list(prompts), generator=list(generators), **options).images
    if len(images) != len(prompts):
        raise ValueError(f"the pipeline returned {len(images)} images for {len(prompts)} prompts")
    return [_to_rgb(image, prompt) for image, prompt in zip(images, prompts, strict=True)]


def generate_batches(
    pipeline: Pipeline, items: Sequence[Item], batch_size: int, **options
) -> Iterator[tuple[Sequence[Item], list[Image.Image]]]:
    """Batches of items and their images, in order. Out of memory halves the batch size; at size 1 it raises."""
    start = 0
    while start < len(items):
        batch = items[start : start + batch_size]
        try:  # new generators for each attempt: a used one would give another image
            texts = [item.prompt.text for item in batch]
            images = call(pipeline, texts, [item.generator() for item in batch], **options)
        except RuntimeError as error:  # including torch.OutOfMemoryError
            if not _is_out_of_memory(error) or len(batch) == 1:
                raise
            images = None
        if images is None:  # outside of `except`, whose traceback would keep the tensors alive
            batch_size = len(batch) // 2
            tqdm.write(f"out of memory: continuing with batches of {batch_size}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield batch, images
        start += len(batch)


def _takes(pipeline: Pipeline, argument: str) -> bool:
    parameters = inspect.signature(pipeline).parameters
    return argument in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _to_rgb(image: Image.Image | np.ndarray | torch.Tensor, prompt: str) -> Image.Image:
    """(H, W, 3) or (H, W, 1) in [0, 1], or a PIL image -> RGB."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise FloatingPointError(f"the image of {shortened(prompt)} has NaN or infinite pixels; generate in float32")
    pixels = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert("RGB")


def _is_out_of_memory(error: RuntimeError) -> bool:
    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(words in message for words in NO_MEMORY)


# --- a folder of images -------------------------------------------------------------------------------------------


def generate(
    pipeline: Pipeline,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    out: Path,
    rank: int = 0,
    world: int = 1,
    batch_size: int = 32,
    name: str = "",
    **options,
) -> dict:
    """Generate this process's images that are missing in the folder `out` or differ from their recorded SHA-256.

    Args:
        pipeline: called as diffusers' pipelines are, with a generator for each image.
        seeds: non-negative integers; each prompt is generated with each seed.
        rank, world: index and number of processes. With one process, the manifest is merged at the end; with several,
            call `merge(out)` when all are done, or use `generate_on_all`.
        name: the pipeline's name in the manifest; default: its class.
        options: of the pipeline; options that are None are not passed on.

    Returns:
        The manifest (see the module): of all images for world 1, else of this process's.

    Raises ValueError for numbers out of range, keys that are not unique, options that the pipeline does not accept, and
    a folder generated with other settings; FloatingPointError for an image with NaN.
    """
    items = _items(prompts, seeds)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    mine = shard(items, rank, world)
    options = {key: value for key, value in options.items() if value is not None}
    check_options(pipeline, options)
    requested = {"prompts": _prompts_digest(prompts), "seeds": [int(seed) for seed in seeds]}
    header = describe(pipeline, name, options) | requested
    entries = _entries(out, list(_rows(out)), header)
    missing = [item for item in mine if file_digest(out / item.file) != entries.get(item.file, {}).get("sha256", "")]
    (out / "images").mkdir(parents=True, exist_ok=True)
    log = out / f"manifest-{rank}.jsonl"
    _start_log(log, header)
    there, silent = len(mine) - len(missing), rank != 0 or not missing
    with tqdm(total=len(mine), initial=there, unit=" images", desc=out.name, disable=silent) as bar:
        for batch, images in generate_batches(pipeline, missing, batch_size, **options):
            new = [_save(out, item, image) for item, image in zip(batch, images, strict=True)]
            entries |= {entry["file"]: entry for entry in new}
            _append(log, "".join(json.dumps(entry) + "\n" for entry in new))
            bar.update(len(batch))
    return merge(out) if world == 1 else _manifest(header, [entries[item.file] for item in mine])


def generate_on_all(
    pipeline: Pipeline, prompts: Sequence[Prompt], seeds: Sequence[int], out: Path, batch_size: int = 32, **options
) -> dict:
    """`generate` on every process of `accelerate launch` (or on this one); each returns the manifest of all images.

    Raises ValueError if several processes were launched that are not connected; and on all of them what `generate`
    raises on one.
    """
    state = this_process()
    rank, world = state.process_index, state.num_processes
    together(lambda: generate(pipeline, prompts, seeds, out, rank, world, batch_size, **options))
    together(lambda: merge(out) if world > 1 and state.is_main_process else None)
    return read_manifest(out)


def merge(out: Path) -> dict:
    """Write manifest.json from the processes' logs, and remove the logs.

    Raises ValueError if images are missing, or differ from their SHA-256.
    """
    rows = list(_rows(out))
    if (header := next((row["header"] for row in rows if "header" in row), None)) is None:
        raise FileNotFoundError(f"{out} has no manifest; generate its images first")
    entries = _entries(out, rows, header)
    try:
        count = header["prompts"]["num"] * len(header["seeds"])
    except (KeyError, TypeError):
        raise ValueError(f"the manifest of {out} lacks its numbers of prompts and seeds; {REMEDY}") from None
    intact = [e for e in entries.values() if file_digest(out / e["file"]) == e["sha256"]]
    if len(intact) != count:
        raise ValueError(f"{out} has {len(intact)} of {count} images; run the same command again to finish it")
    manifest = _manifest(header, intact)
    write_whole(out / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    for log in out.glob("manifest-*.jsonl"):
        log.unlink()
    return manifest


def read_manifest(out: Path) -> dict:
    """The manifest of a complete folder; FileNotFoundError if it is incomplete, ValueError if it is damaged."""
    if (manifest := find_manifest(out)) is None:
        raise FileNotFoundError(f"{out} has no manifest.json; run the same command again to finish it")
    return manifest


def describe(pipeline: Pipeline, name: str, options: dict) -> dict:
    """Everything that determines the images besides prompts and seeds: pipeline, weights, scheduler, options, versions.

    Plain data for JSON; other values are converted to strings.
    """
    parameters = inspect.signature(pipeline).parameters
    defaults = {key: p.default for key, p in parameters.items() if isinstance(p.default, (bool, int, float, str))}
    parts = getattr(pipeline, "components", {})
    weights = {key: digest(part) for key, part in parts.items() if isinstance(part, nn.Module)}
    scheduler = parts.get("scheduler")
    header = {
        "pipeline": name or type(pipeline).__name__,
        "class": type(pipeline).__name__,
        "weights_sha256": weights,
        "scheduler": scheduler and {"class": type(scheduler).__name__} | _settings(scheduler.config),
        "num_inference_steps": options.get("num_inference_steps", defaults.get("num_inference_steps")),
        "guidance_scale": options.get("guidance_scale", defaults.get("guidance_scale")),
        "options": options,
        "dtype": _dtype(pipeline),
        "device": getattr(getattr(pipeline, "device", None), "type", None),
        "versions": {"t2i": t2i.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
    }
    return json.loads(json.dumps(header, default=str))  # as it will be read back


def _dtype(pipeline) -> str:
    """As of --dtype; "None" without one."""
    return "int8" if getattr(pipeline, "uses_int8", False) else str(getattr(pipeline, "dtype", None)).split(".")[-1]


def _settings(config: dict) -> dict:
    """The config without diffusers' internal entries, such as a list whose order differs between processes; infinite
    bounds, which some schedulers have, as strings."""
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in public.items()}


def _items(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Item]:
    if not prompts or not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError("give at least one prompt, and at least one seed; seeds are different numbers from 0 up")
    items = [Item(i, prompt, int(seed)) for i, (prompt, seed) in enumerate(product(prompts, seeds))]
    if len({item.file for item in items}) < len(items):
        raise ValueError("two prompts have the same key; keys must be unique")
    return items


def _prompts_digest(prompts: Sequence[Prompt]) -> dict:
    text = json.dumps([[prompt.key, prompt.text] for prompt in prompts])
    return {"num": len(prompts), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _save(out: Path, item: Item, image: Image.Image) -> dict:
    """Write the image and return its manifest entry."""
    image.save(file := io.BytesIO(), format="PNG")
    content = file.getvalue()
    write_whole(out / item.file, content, durable=False)  # a damaged image is detected, and generated again
    return {
        "index": item.index,
        "key": item.prompt.key,
        "prompt": item.prompt.text,
        "seed": item.seed,
        "file": item.file,
        "sha256": hashlib.sha256(content).hexdigest(),
        "black": image.getextrema() == ((0, 0),) * 3,
    }


def _manifest(header: dict, entries: Sequence[dict]) -> dict:
    images = sorted(entries, key=lambda entry: entry["index"])
    return {"header": header, "black": sum(entry["black"] for entry in images), "images": images}


def _start_log(log: Path, header: dict) -> None:
    """Start a log with its header, or continue one left by a kill, whose last line may be truncated, on a new line."""
    if not log.exists():
        write_whole(log, json.dumps({"header": header}) + "\n")
    elif not log.read_bytes().endswith(b"\n"):
        _append(log, "\n")


def _append(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(text)


def _rows(out: Path) -> Iterator[dict]:
    """The contents of manifest.json and then of all processes' logs, as {"header": …} and entries."""
    if (manifest := find_manifest(out)) is not None:
        yield {"header": manifest["header"]}
        yield from manifest["images"]
    for log in sorted(out.glob("manifest-*.jsonl")):
        for line in log.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
                if "header" not in row:
                    check_entry(row, str(log))
            except (ValueError, TypeError):  # truncated by a kill: its image is generated again
                continue
            yield row


def _entries(out: Path, rows: Sequence[dict], header: dict) -> dict[str, dict]:
    """{file: entry} of a folder's rows. Raises ValueError unless it was generated with the settings in `header`."""
    for other in (row["header"] for row in rows if "header" in row):
        if odd := [key for key in {**header, **other} if header.get(key) != other.get(key)]:
            raise ValueError(
                f"{out} was generated with other settings ({', '.join(odd)}); give another folder, or remove this one"
            )
    entries: dict[str, dict] = {}
    for row in rows:
        # Two processes may have recorded a file if their number changed between runs: the entry that matches counts.
        if "file" in row and (row["file"] not in entries or file_digest(out / row["file"]) == row["sha256"]):
            entries[row["file"]] = row
    return entries
