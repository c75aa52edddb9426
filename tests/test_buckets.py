"""Aspect-ratio buckets: their shapes, the order of their batches, and runs on them."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import diffusion_parts as parts
import numpy as np
import pytest
from PIL import Image
from test_kl import losses
from test_kl import recipe as kl_recipe
from test_training import recipe

from t2i.data import open_source
from t2i.data.base import buckets_of, training_sample
from t2i.data.buckets import Buckets, bucket_shapes
from t2i.data.image_file import cropped
from t2i.data.loading import load_batches
from t2i.data.sampling import BucketOrder, NumberBatches, NumberedSamples
from t2i.training.cli import run
from t2i.training.config import DataConfig
from t2i.training.held_out import split_held_out
from t2i.training.recipes import RECIPES

SHAPES = ((16, 16), (12, 20), (14, 18), (20, 12), (18, 14))  # of 16×16 pixels, stride 2, ratio 2
SIZES = ((20, 12), (12, 20), (16, 16), (32, 30), (90, 20))  # widths and heights of images
NEAREST = {"20x12": (12, 20), "12x20": (20, 12), "16x16": (16, 16), "32x30": (16, 16), "90x20": (12, 20)}


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photos(folder: Path, num: int = 30, sizes=SIZES, scale: int = 1) -> str:
    """Noise of several sizes, each image with its size and number as caption."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(num):
        width, height = sizes[i % len(sizes)]
        pixels = rng.integers(0, 256, (height * scale, width * scale, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
        rows.append({"file_name": f"{i:03}.png", "text": f"{width}x{height} {i}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def opened(data: str, **options):
    return DataConfig(data, image_size=16, max_aspect_ratio=2.0, **options).open(seed=0, stride=2)


def keep(item: dict, rng: np.random.Generator) -> dict:
    return {"image": item["image"], "text": item["text"]}


# --- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "stride"), [(64, 8), (64, 16), (128, 16), (256, 8), (512, 64), (1024, 64), (1000, 8)])
def test_buckets_have_nearly_the_same_area(size, stride):
    shapes = bucket_shapes(size, stride, 4.0)
    assert shapes[0] == (size, size) and len(set(shapes)) == len(shapes) <= 40
    assert {(w, h) for h, w in shapes} == set(shapes)
    for h, w in shapes:
        assert 0.9 * size**2 <= h * w <= size**2 and h % stride == w % stride == 0 and max(h, w) <= 4 * min(h, w)


def test_buckets_of_1024_pixels_are_sdxls():
    assert {(832, 1216), (1344, 768), (896, 1152)} < set(bucket_shapes(1024, 64, 4.0))


def test_sizes_and_ratios_without_buckets_raise():
    with pytest.raises(ValueError, match=r"image_size must be a multiple of 16, .* not 72"):
        bucket_shapes(72, 16, 2.0)
    with pytest.raises(ValueError, match=r"max_aspect_ratio 1\.2 leaves only squares: .* give at least 1\.29"):
        bucket_shapes(64, 8, 1.2)
    assert len(bucket_shapes(64, 8, 1.29)) == 3


# --- the order ------------------------------------------------------------------------------------------------------


def buckets(sizes: list[int]) -> Buckets:
    of = np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)
    return Buckets(SHAPES, np.random.default_rng(0).permutation(of))


@pytest.mark.parametrize("batch", [1, 8, 150])
@pytest.mark.parametrize("sizes", [[37, 5, 1, 60, 0], [0, 0, 7, 0, 0], [5000, 0, 3, 0, 4000]])
def test_batches_are_of_one_bucket_and_use_every_image_equally_often(sizes, batch):
    of = buckets(sizes)
    order, steps, num, epochs = BucketOrder(of, batch, seed=3), 0, sum(sizes), 3 if sum(sizes) > 1000 else 40
    found = []
    for epochs_done in range(1, epochs + 1):
        ends = sum(epochs_done * n // batch for n in sizes)
        for step in range(steps, ends):
            images, shapes = zip(*(order.find(step * batch + i) for i in range(batch)), strict=True)
            assert len(set(of.of[list(images)].tolist())) == len(set(shapes)) == 1
            assert shapes[0] == SHAPES[of.of[images[0]]]
            found.append(images)
        steps = ends
        counts = np.bincount([i for images in found for i in images], minlength=num)
        for bucket, n in enumerate(sizes):  # all complete batches of as many epochs, spread over the bucket's images
            uses = epochs_done * n // batch * batch
            assert n == 0 or set(counts[of.of == bucket]) <= {uses // n, -(-uses // n)}
    fresh = BucketOrder(of, batch, seed=3)
    for number in np.random.default_rng(0).permutation(steps * batch)[:50].tolist():  # from the number alone
        assert fresh.find(number)[0] == found[number // batch][number % batch]
    other = BucketOrder(of, batch, seed=4)
    assert [other.find(i)[0] for i in range(50)] != [order.find(i)[0] for i in range(50)] or num < 10


def test_buckets_take_one_byte_an_image():
    of = np.random.default_rng(0).integers(0, 5, 10**7, dtype=np.uint8)
    tracemalloc.start()
    order = BucketOrder(Buckets(SHAPES, of), 64, seed=0)
    found = [order.find(n)[0] for n in (0, 10**7, 12_345_678_901)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(found)) == 3 and peak < 2**20


@pytest.mark.parametrize(("world", "batch", "passes"), [(2, 4, 1), (4, 2, 1), (2, 2, 2), (1, 2, 4)])
def test_processes_and_passes_divide_the_same_batches(tmp_path, world, batch, passes):
    samples = NumberedSamples(opened(photos(tmp_path / "a")), keep, 0, global_batch=8)
    whole = [[samples[n]["text"] for n in numbers] for numbers in NumberBatches(3, 9, 8, 1, 0, 1)]
    divided = [list(NumberBatches(3, 9, batch, passes, rank, world)) for rank in range(world)]
    for step, texts in enumerate(whole):
        passed = [divided[rank][step * passes + i] for i in range(passes) for rank in range(world)]
        assert [samples[n]["text"] for numbers in passed for n in numbers] == texts


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_cropped_to_the_nearest_bucket_and_all_are_used(tmp_path, capsys, workers):
    folder = photos(tmp_path / "a")
    source = opened(folder)
    assert "by aspect-ratio bucket: 16×16: 12, 20×12: 12, 12×20: 6" in capsys.readouterr().err
    samples = NumberedSamples(source, keep, 0, global_batch=4)
    counts, resumed = Counter(), []
    for batch in load_batches(samples, batch_sampler=NumberBatches(0, 45, 4, 1, 0, 1), num_workers=workers):
        for image, text in zip(batch["image"].numpy(), batch["text"], strict=True):
            size, number = text.split()
            with Image.open(Path(folder) / f"{number:0>3}.png") as file:
                assert image.shape[:2] == NEAREST[size] and np.array_equal(image, cropped(file, NEAREST[size]))
                assert size not in ("20x12", "12x20", "16x16") or np.array_equal(image, np.asarray(file))
        counts.update(batch["text"])
        resumed.append(batch["text"])
    assert len(counts) == 30 and set(counts.values()) == {6}  # 45·4 / 30: six epochs
    later = load_batches(samples, batch_sampler=NumberBatches(20, 45, 4, 1, 0, 1), num_workers=workers)
    assert [batch["text"] for batch in later] == resumed[20:]
    square = open_source(folder, 16)  # without random numbers, as for evaluation and previews
    assert all(np.array_equal(source[i]["image"], square[i]["image"]) for i in range(30))


def test_a_part_filtered_or_mixed_has_the_buckets_of_its_images(tmp_path):
    data = photos(tmp_path / "a")
    for source in (
        split_held_out(opened(data), 4)[0],
        opened(data, min_image_side=14),
        opened(data, min_caption_length=8),
        split_held_out(opened(f"{data}=2,toybox-v1=1"), 4)[0],
    ):
        found = buckets_of(source)
        assert found is not None and found.shapes == SHAPES and len(found.of) == len(source)
        for i in np.random.default_rng(0).integers(0, len(source), 40).tolist():
            item = training_sample(source, i, np.random.default_rng(0), shape := SHAPES[found.of[i]])
            assert item["image"].shape[:2] == shape == NEAREST.get(item["text"].split()[0], (16, 16))


def test_what_replaces_an_unreadable_image_has_its_shape(tmp_path):
    data = photos(tmp_path / "a")
    (Path(data) / "000.png").write_bytes((Path(data) / "000.png").read_bytes()[:60])  # the header is whole
    (Path(data) / "001.png").write_bytes(b"")
    source = opened(data, max_unreadable=0.5)
    samples = NumberedSamples(source, keep, 0, global_batch=4)
    for batch in load_batches(samples, batch_sampler=NumberBatches(0, 20, 4, 1, 0, 1)):
        assert len(batch["image"]) == 4
    found = buckets_of(source)
    assert found is not None and found.shapes[found.of[0]] == (12, 20) and found.of[1] == 0
    assert training_sample(source, 0, np.random.default_rng(0), (12, 20))["image"].shape == (12, 20, 3)


def test_images_that_exif_rotates_are_in_the_bucket_of_what_is_seen(tmp_path):
    data = Path(photos(tmp_path / "a", num=3))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for name, options in (("000.png", {}), ("002.png", {"exif": exif})):
        Image.new("RGB", (40, 24)).save(data / name, "jpeg", **options)
    found = buckets_of(opened(str(data)))
    assert found is not None and [found.shapes[k] for k in found.of] == [(12, 20), (20, 12), (20, 12)]


def test_random_crops_and_flips_are_within_the_bucket(tmp_path):
    data = photos(tmp_path / "a", num=1, sizes=((90, 20),))
    source = opened(data, crop="random", random_flip=True)
    images = [training_sample(source, 0, np.random.default_rng(i), (12, 20))["image"] for i in range(20)]
    assert len({image.tobytes() for image in images}) > 10 and {image.shape for image in images} == {(12, 20, 3)}


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vqvae-toybox", "clip-toybox", "t5-toybox"])
def test_models_of_a_square_grid_refuse_buckets(tmp_path, name):
    tiny = RECIPES[name]("tiny")
    data = DataConfig(photos(tmp_path / "a"), image_size=16, max_aspect_ratio=2.0)
    with pytest.raises(ValueError, match=r"^(all recipes but .* a square grid|only captions .*): leave out --max-a"):
        run(type(tiny)(data=data, loop=tiny.loop))


def test_buckets_without_effect_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"toybox-v1 are not read from files: leave out --max-aspect-ratio$"):
        opened("toybox-v1")
    with pytest.raises(ValueError, match=r"are square, or nearly so: leave out --max-aspect-ratio$"):
        opened(photos(tmp_path / "a", sizes=((16, 16), (21, 20))))
    with pytest.raises(ValueError, match=r"every image would be downloaded .* copy the shards to a disk, or leave out"):
        opened("https://example.org/{0..3}.tar")
    with pytest.raises(ValueError, match="max_aspect_ratio must be at least 1"):
        DataConfig(max_aspect_ratio=0.5)


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_resumed_autoencoder_is_one_that_never_stopped(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "parts"
    data = DataConfig(photos(tmp_path / "a", scale=4), max_aspect_ratio=2.0, crop="random")
    game = {"discriminator_weight": 0.5, "discriminator_channels": (8, 8)}

    def make(folder: Path, **loop):
        made = kl_recipe(folder, game, lr_scheduler="constant", **loop)
        return dataclasses.replace(made, data=data)

    run(make(whole))
    run(make(stopped, max_train_steps=4))
    run(make(stopped, resume="latest"))
    assert losses(whole) == losses(stopped)
    weights = [folder / "latest" / "state" / "model.safetensors" for folder in (whole, stopped)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    "model",
    [{"channels": (16, 16), "head_width": 8, "norm_groups": 8}, {"denoiser": "dit", "width": 32, "depth": 1}],
    ids=["unet", "dit"],
)
def test_latent_diffusion_trains_on_images_of_several_shapes(tmp_path, model):
    stages = parts.save_stages(tmp_path)
    data = DataConfig(photos(tmp_path / "a", num=45, scale=4), max_aspect_ratio=2.0)
    options = {"autoencoder": stages[0], "text_encoder": stages[1], "data": data, "max_train_steps": 3}
    made = recipe("ldm-toybox", tmp_path / "run", model, cache="none", train_batch_size=8, **options)
    task = made.task()
    samples = NumberedSamples(task.source, task.prepare, 0, global_batch=8)
    shapes = {(sample["images"].shape, sample["noise"].shape) for sample in (samples[8 * n] for n in range(20))}
    assert shapes >= {((48, 80, 3), (4, 6, 10)), ((80, 48, 3), (4, 10, 6)), ((64, 64, 3), (4, 8, 8))}
    assert len(losses(run(made).parent)) == 3
    cached = recipe("ldm-toybox", tmp_path / "other", model, cache=str(tmp_path / "latents"), **options)
    with pytest.raises(
        ValueError, match=r"latents are those of squares.* give --cache none, .* leave out --max-aspect"
    ):
        cached.task()


def test_lora_trains_on_images_of_several_shapes(tmp_path):
    parts.pipeline().save_pretrained(tmp_path / "base")
    made = RECIPES["lora"]("tiny")
    data = dataclasses.replace(made.data, data=photos(tmp_path / "a", scale=4), max_aspect_ratio=2.0)
    sizes = {"max_train_steps": 3, "train_batch_size": 4, "dataloader_num_workers": 0, "report_to": "none"}
    loop = dataclasses.replace(made.loop, output_dir=str(tmp_path / "run"), **sizes)
    own = {"pipeline": str(tmp_path / "base"), "validation_prompts": ("a cat",), "data": data, "loop": loop}
    folder = run(dataclasses.replace(made, **own))
    assert len(losses(folder.parent)) == 3
