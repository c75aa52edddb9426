"""The reader of toybox pictures, and the scores that are made with it. Nothing here needs trained weights."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from t2i.checks import UsageError
from t2i.data.toybox import ATTRIBUTES, HELD_OUT, KINDS, RELATIONS, Scene, Thing, Toybox
from t2i.data.toybox.reader import LAYOUTS, Reader, Reading, load_reader, targets
from t2i.eval import binding, cli
from t2i.images import to_tensor
from t2i.tokenizers.kl import KLTokenizer
from t2i.tokenizers.vqvae import VQVAE
from t2i.training.config import LoopConfig
from t2i.training.recipes.reader import ReaderModelConfig, ReaderRecipe, ReaderStage, reader_toybox, spoil

NUM = 4
TURNED = {"on top of": "below", "below": "on top of", "left of": "right of", "right of": "left of"}


def stack_targets(scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`targets` of several scenes as tensors (B,), (B, 2), (B, 2)."""
    layout, kinds, attributes = zip(*map(targets, scenes), strict=True)
    return torch.tensor(layout), torch.tensor(kinds), torch.tensor(attributes)


def tiny_reader(seed: int = 0) -> Reader:
    torch.manual_seed(seed)
    return Reader(channels=(16, 32, 48), blocks=(0, 0, 1))


def pictures(scenes: list[Scene]) -> torch.Tensor:
    return to_tensor(torch.from_numpy(np.stack([np.array(s.render(64)) for s in scenes])))


@pytest.fixture(scope="module")
def asked() -> list[Scene]:
    return [scene for category in binding.CATEGORIES for scene in binding.scenes(category, NUM, seed=0)]


@pytest.fixture(scope="module")
def fitted(asked: list[Scene]) -> tuple[Reader, list[float]]:
    """A reader that knows the pictures of `asked` by heart, and its losses on the way there."""
    reader, images, truth = tiny_reader(), pictures(asked), stack_targets(asked)
    optimizer, losses = torch.optim.AdamW(reader.parameters(), 4e-3), []
    for _ in range(80):
        out = reader.loss(images, *truth)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out["loss"].item())
    return reader.eval(), losses


class Renders:
    """A foreign pipeline that never fails: it draws the scene whose caption it is given, each once."""

    def __init__(self, scenes: list[Scene], size: int = 64):
        self.scenes, self.size, self.seeds = list(scenes), size, []

    def __call__(self, prompt, generator=None, output_type="pil", guidance_scale=1.0):
        self.seeds += [g.initial_seed() for g in generator]
        images = []
        for text in prompt:
            scene = next(s for s in self.scenes if s.caption() == text)
            self.scenes.remove(scene)
            images.append(scene.render(self.size))
        return SimpleNamespace(images=images)


class AlwaysTheSame:
    def __call__(self, prompt, generator=None, output_type="pil"):
        return SimpleNamespace(images=[Image.new("RGB", (64, 64), (90, 140, 60))] * len(prompt))


# --- readings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_reads_the_same_from_both_sides(relation: str):
    cat, car = Thing("cat", "red"), Thing("car", "blue")
    assert Reading.of(Scene((cat, car), relation)) == Reading.of(Scene((car, cat), TURNED[relation]))
    assert Reading.of(Scene((cat, car), relation)) != Reading.of(Scene((car, cat), relation))


def test_the_upper_and_the_left_thing_come_first():
    cat, car = Thing("cat", "red"), Thing("car", "blue")
    first = (("cat", "red"), ("car", "blue"))
    assert Reading.of(Scene((cat, car), "on top of")) == Reading("stacked", first)
    assert Reading.of(Scene((car, cat), "right of")) == Reading("side by side", first)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_several_of_a_kind_are_one_thing_twice(count: int):
    reading = Reading.of(Scene((Thing("apple", "green", count),)))
    assert reading == Reading(LAYOUTS[count - 1], (("apple", "green"),) * 2)
    assert str(reading) == f"{LAYOUTS[count - 1]}: green apple"


def test_targets_are_the_indices_of_the_reading():
    data, kinds = Toybox("all", seed=5, num=300), list(KINDS)
    seen = set()
    for i in range(len(data)):
        scene, _ = data.scene(i)
        layout, ks, attributes = targets(scene)
        named = tuple((kinds[k], ATTRIBUTES[a]) for k, a in zip(ks, attributes, strict=True))
        assert Reading(LAYOUTS[layout], named) == Reading.of(scene)
        seen.add(layout)
    assert seen == set(range(len(LAYOUTS)))


# --- the network ----------------------------------------------------------------------------------------------------


def test_the_reader_learns(fitted):
    _, losses = fitted
    assert all(np.isfinite(losses)) and losses[-1] < 0.1 * losses[0]


def test_a_picture_is_read_alone_as_in_a_batch(fitted, asked):
    images = pictures(asked)
    assert [fitted[0].read(image[None])[0] for image in images] == fitted[0].read(images)


def test_every_parameter_has_a_gradient(asked):
    reader = tiny_reader()
    with torch.no_grad():  # zeros at the start stop gradients on purpose
        for p in reader.parameters():
            p.add_(0.02 * torch.randn_like(p))
    reader.loss(pictures(asked), *stack_targets(asked))["loss"].backward()
    assert [name for name, p in reader.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_base_reader_is_small_and_survives_half_precision(tmp_path, asked):
    model = reader_toybox().model
    reader = Reader(model.channels, model.blocks).eval()
    assert sum(p.numel() for p in reader.parameters()) <= 1_400_000
    reader.half().save_pretrained(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3_000_000
    again = load_reader(tmp_path)
    assert again.dtype == torch.float32
    assert again.read(pictures(asked[:2])) == reader.float().read(pictures(asked[:2]))
    assert binding.digest(again) == binding.digest(reader) != binding.digest(tiny_reader())


def test_wrong_shapes_and_other_worlds_are_refused():
    with pytest.raises(ValueError, match="64, 64"):
        tiny_reader().read(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="t2i train reader-toybox"):
        Reader(kinds=("cat",))


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_the_recipe_trains_through_the_loop(tmp_path):
    from t2i.training.cli import run

    loop = LoopConfig(str(tmp_path / "run"), 2, 8, checkpointing_steps=2, report_to="none", dataloader_num_workers=0)
    folder = run(ReaderRecipe(model=ReaderModelConfig((16, 32, 48), (0, 0, 1)), loop=loop))
    assert len(load_reader(folder).read(torch.zeros(3, 3, 64, 64))) == 3
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 1


def test_spoiling_is_gentle_and_belongs_to_the_sample():
    stage = ReaderStage(reader_toybox("tiny"))
    item = stage.source[3]
    before = item["image"].copy()
    one, same, other = (stage.prepare(item, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (item["image"] == before).all() and (one["images"] == same["images"]).all()
    assert (one["images"] != other["images"]).any()
    changes = [
        np.abs(spoil(before, np.random.default_rng(i), 0.9, 0.04, 0.08) - before.astype(float)) for i in range(50)
    ]
    assert np.mean(changes) < 12
    assert (spoil(before, np.random.default_rng(0), 0, 0, 0) == before).all()


def test_the_judge_trains_on_held_out_pairs_too():
    source = ReaderStage(reader_toybox("tiny")).source
    assert any(thing.held_out for i in range(500) for thing in source.scene(i)[0].things)


# --- the questions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("category", binding.CATEGORIES)
def test_same_seed_same_scenes_and_noise(category: str):
    many = binding.scenes(category, 40, seed=1)
    assert many[:10] == binding.scenes(category, 10, seed=1)
    assert many != binding.scenes(category, 40, seed=2)
    seeds = [binding.generator(category, i, seed).initial_seed() for seed in (0, 1) for i in range(40)]
    assert len(set(seeds)) == 80 and seeds[0] == binding.generator(category, 0, 0).initial_seed()


def test_each_category_asks_what_it_says():
    for category, (split, family) in binding.CATEGORIES.items():
        drawn = binding.scenes(category, 56, seed=3)
        assert {scene.family for scene in drawn} == {family}
        assert {thing.held_out for scene in drawn for thing in scene.things} == {split == "zero_shot"}
    pairs = Counter((t.attribute, t.kind) for s in binding.scenes("zero_shot", 56, seed=3) for t in s.things)
    assert set(pairs) == HELD_OUT and set(pairs.values()) == {2}


# --- the scores -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_against_known_values(right: int, n: int, low: float, high: float):
    s = binding.wilson(right, n)
    assert (s["value"], s["n"]) == (right / n, n)
    assert s["low"] == pytest.approx(low, abs=1e-4) and s["high"] == pytest.approx(high, abs=1e-4)


def test_wilson_needs_something_to_count():
    for right, n in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError):
            binding.wilson(right, n)


def test_what_counts_as_right():
    cat, car = ("cat", "red"), ("car", "blue")

    def right(category: str, truth: Reading, reading: Reading) -> bool:
        return binding.Outcome(category, "", truth, reading).right

    one, two = Reading("one", (cat, cat)), Reading("two", (cat, cat))
    assert right("seen", one, two) and right("zero_shot", one, Reading("one", (cat, car)))
    assert not right("seen", one, Reading("one", (("cat", "blue"), cat)))
    assert right("count", two, two) and not right("count", two, one)
    both = Reading("stacked", (cat, car))
    assert right("relation", both, both)
    assert not right("relation", both, Reading("stacked", (car, cat)))
    assert not right("relation", both, Reading("side by side", (cat, car)))


def test_failures_list_the_worst_first():
    cat, car = ("cat", "red"), ("car", "red")
    one = Reading("one", (cat, cat))
    outcomes = [binding.Outcome("seen", "", one, one), binding.Outcome("seen", "", one, Reading("one", (car, car)))]
    outcomes += [binding.Outcome("seen", "", Reading("one", (car, car)), Reading("one", (car, cat)))]
    tables = binding.failures(outcomes)
    assert list(tables["kinds"]) == ["cat", "car"]
    assert tables["kinds"]["cat"] == {"asked": 2, "wrong": 1, "read_as": {"car": 1}}
    assert tables["attributes"] == {"red": {"asked": 3, "wrong": 0, "read_as": {}}}


@pytest.mark.parametrize("size", [64, 128])
def test_a_perfect_pipeline_reaches_the_ceiling(fitted, asked, size: int):
    report = binding.evaluate(Renders(asked, size), fitted[0], NUM, batch_size=3).report
    assert report["ceiling"]["value"] >= 0.9, "the reader does not know its pictures by heart: the test says nothing"
    assert size != 64 or {c: report[c] for c in binding.CATEGORIES} == report["ceilings"]
    assert np.mean([report[c]["value"] for c in binding.CATEGORIES]) > (0.9 if size == 64 else 0.6)


def test_a_swapped_relation_is_wrong_though_all_its_things_are_there(fitted, asked):
    swapped = [s if s.relation is None else replace(s, things=s.things[::-1]) for s in asked]
    captions = {s.caption(): t for s, t in zip(asked, swapped, strict=True)}

    def pipeline(prompt, generator, output_type):
        return SimpleNamespace(images=[captions[p].render(64) for p in prompt])

    report = binding.evaluate(pipeline, fitted[0], NUM).report
    assert report["relation"]["value"] == 0 and report["ceilings"]["relation"]["value"] >= 0.75
    assert report["seen"]["value"] == report["ceilings"]["seen"]["value"]


def test_the_same_picture_for_every_prompt_scores_near_chance():
    report = binding.evaluate(AlwaysTheSame(), tiny_reader(), num=28).report
    assert all(report[category]["value"] <= 2 / 28 for category in binding.CATEGORIES)


def test_generators_do_not_depend_on_the_batch(fitted, asked):
    one, many = Renders(asked), Renders(asked)
    assert (
        binding.evaluate(one, fitted[0], NUM, batch_size=1).report
        == binding.evaluate(many, fitted[0], NUM, batch_size=32).report
    )
    assert one.seeds == many.seeds and len(set(one.seeds)) == 4 * NUM


def test_report_and_pictures_are_whole(tmp_path, fitted, asked):
    pipeline = Renders(asked)
    torch.manual_seed(0)
    pipeline.image_tokenizer = VQVAE(64, (16, 16, 16), (0, 0, 0), (0, 0, 0), codebook_size=8, code_width=4).eval()
    evaluation = binding.evaluate(pipeline, fitted[0], NUM, name="renders", guidance_scale=2.0)
    (tmp_path / "report.json").write_text("an older one")
    binding.write(evaluation, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == evaluation.report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "successes-and-failures.png"]
    assert Image.open(tmp_path / "successes-and-failures.png").width > 500
    scores = [report[name] for name in (*binding.CATEGORIES, "ceiling", "through_tokenizer")]
    scores += [*report["ceilings"].values(), *(s for p in report["parts"].values() for s in p.values())]
    for s in scores:
        assert set(s) == {"value", "low", "high", "n"} and 0 <= s["low"] <= s["value"] <= s["high"] <= 1
    assert report["ceiling"]["n"] == report["through_tokenizer"]["n"] == 4 * NUM
    assert set(report["parts"]) == set(report["ceilings"]) == set(binding.CATEGORIES)
    assert set(report["failures"]) == {"kinds", "attributes"}
    settings = report["settings"]
    assert set(settings["versions"]) == {"t2i", "torch", "diffusers"} and len(settings["reader_sha256"]) == 64
    assert settings["pipeline"] == "renders" and (settings["guidance_scale"], settings["top_k"]) == (2.0, None)
    lines = binding.table(report).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*binding.CATEGORIES, "through"]


def test_a_round_trip_is_in_the_precision_of_the_tokenizer():
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    tokenizer = KLTokenizer(AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **blocks))
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        whole, half = (binding.reconstructed(tokenizer.to(d), images) for d in (torch.float32, torch.bfloat16))
    assert whole.dtype == half.dtype == torch.float32
    assert whole.shape == (2, 3, 16, 16)
    assert 0 < (whole - half).abs().mean() < 0.05


# --- bad input ------------------------------------------------------------------------------------------------------


def test_evaluate_refuses_what_cannot_be(fitted):
    for bad in ({"num": 0}, {"batch_size": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="at least"):
            binding.evaluate(AlwaysTheSame(), fitted[0], **bad)
    with pytest.raises(ValueError, match="takes no top_k"):
        binding.evaluate(AlwaysTheSame(), fitted[0], 1, top_k=3)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["bindng"], "did you mean binding"),
        (["binding", "--num", "0"], "--num must be at least 1"),
        (["binding", "--num", "many"], "many"),
        (["binding", "--batch-size", "-1"], "--batch-size must be at least 1"),
        (["binding", "--seed", "-1"], "--seed must be at least 0"),
        (["binding", "--nmu", "3"], "--nmu"),
        (["binding", "--out", __file__], "is a file"),
        (["binding", "--reader", "/nowhere"], "t2i train reader-toybox"),
    ],
)
def test_bad_arguments_are_one_clear_line(args: list[str], said: str):
    with pytest.raises((UsageError, FileNotFoundError), match=said) as caught:
        cli.main(args)
    assert "\n" not in str(caught.value)


def test_without_arguments_the_metrics_are_listed(capsys):
    cli.main([])
    assert "binding" in capsys.readouterr().out


def test_a_reader_must_be_a_reader(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "VQVAE"}')
    with pytest.raises(ValueError, match=r"not a Reader.*t2i train reader-toybox"):
        load_reader(tmp_path)


def test_the_command_line_scores_a_saved_pipeline(tmp_path, capsys):
    from t2i.pipelines.dalle import DallePipeline
    from t2i.prior.transformer import TextImageTransformer
    from t2i.text.bpe import train_bpe

    torch.manual_seed(0)
    words = train_bpe(Toybox(num=200).captions(200), 300)
    tokenizer = VQVAE(64, (16, 16, 16), (0, 0, 0), (0, 0, 0), codebook_size=8, code_width=4)
    prior = TextImageTransformer(len(words), 8, text_length=12, grid_size=8, width=16, layers=1, heads=2)
    DallePipeline(words, prior, tokenizer).save_pretrained(tmp_path / "pipe")
    tiny_reader().save_pretrained(tmp_path / "reader")
    args = ["--pipeline", str(tmp_path / "pipe"), "--reader", str(tmp_path / "reader"), "--out", str(tmp_path / "out")]
    cli.main(["binding", *args, "--num", "2", "--guidance-scale", "1", "--device", "cpu", "--dtype", "bfloat16"])
    said = capsys.readouterr().out
    assert "zero_shot" in said and "through tokenizer" in said
    settings = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]
    assert (settings["guidance_scale"], settings["dtype"]) == (1.0, "bfloat16")
