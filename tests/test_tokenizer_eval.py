"""`t2i eval tokenizers`: laws of its scores on tiny tokenizers with random weights, and its errors."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.configuration_utils import register_to_config
from launching import launched
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from t2i.checks import UsageError
from t2i.data.toybox.classifier import FactClassifier
from t2i.data.toybox_v1 import Toybox
from t2i.eval import cli, metrics
from t2i.eval.evaluators import two_sample
from t2i.eval.features.lpips import Lpips
from t2i.eval.report import Report
from t2i.eval.report import cli as reports
from t2i.eval.tokenizers import measure
from t2i.eval.tokenizers.opened import open_tokenizer
from t2i.eval.tokenizers.scores import frechet_interval
from t2i.models.latent_variable.vae import VAE
from t2i.tokenizers import auto
from t2i.tokenizers.base import ImageTokenizer
from t2i.tokenizers.fsq import FSQVAE
from t2i.tokenizers.kl import make_autoencoder

SIZE = 16
PIXELS = ("--extractor", "pixels", "--no-two-sample")
FEW = ("--data", "toybox-v1", "--num-images", "4", *PIXELS)
LEVELS = {"channels": (16, 16), "encoder_blocks": (0, 0), "decoder_blocks": (0, 0)}


class Identity(ImageTokenizer):
    """A code for each pixel, of which there are as many as colours."""

    @register_to_config
    def __init__(self, image_size: int = SIZE):
        super().__init__()
        self.image_size, self.stride, self.codebook_size = image_size, 1, 256**3
        self.unused = nn.Parameter(torch.zeros(()))

    def _encode(self, images: Tensor) -> Tensor:
        red, green, blue = ((images + 1) * 127.5).round().long().unbind(1)
        return 256 * (256 * red + green) + blue

    def _decode(self, codes: Tensor) -> Tensor:
        return torch.stack([codes // 256**2, codes // 256 % 256, codes % 256], 1).float() / 127.5 - 1


@pytest.fixture
def identity(tmp_path, monkeypatch) -> str:
    monkeypatch.setitem(auto.CLASSES, "Identity", f"{__name__}:Identity")
    Identity().save_pretrained(tmp_path / "identity")
    return str(tmp_path / "identity")


@pytest.fixture
def folders(tmp_path, vqvae, pipe) -> dict[str, str]:
    """A tokenizer of each kind, and a pipeline."""
    torch.manual_seed(1)
    fsq = FSQVAE(SIZE, levels=(8, 5, 5, 5), **LEVELS)
    kl = make_autoencoder(SIZE, channels=(8, 8, 16), latent_channels=4, attention=False)
    for name, model in (("vqvae", vqvae), ("fsq", fsq), ("kl", kl), ("pipe", pipe)):
        model.save_pretrained(tmp_path / name)
    return {name: str(tmp_path / name) for name in ("vqvae", "fsq", "kl", "pipe")}


@pytest.fixture
def quick_two_sample(monkeypatch) -> None:
    """A smaller network on smaller images, trained for one epoch."""
    for module, name, value in ((two_sample, "EPOCHS", 1), (two_sample, "WIDTH", 8), (measure, "SIDE", SIZE)):
        monkeypatch.setattr(module, name, value)


def evaluated(out: Path, *args: str) -> dict[str, dict]:
    """The scores of `t2i eval tokenizers` by name, without speeds."""
    cli.main(["tokenizers", *args, "--device", "cpu", "--out", str(out)])
    scores = {score["name"]: score for score in json.loads((out / "report.json").read_text())["scores"]}
    return {name: score for name, score in scores.items() if "images/s" not in name}


def values(scores: dict[str, dict]) -> dict[str, float]:
    return {name: score["value"] for name, score in scores.items()}


# --- laws -----------------------------------------------------------------------------------------------------------


def test_a_lossless_tokenizer_is_perfect_by_every_score(identity, tmp_path, capsys, quick_two_sample):
    out = tmp_path / "out"
    args = [identity, "--data", "toybox-v1", "--num-images", "80", "--extractor", "pixels"]
    found = evaluated(out, *args)
    assert "PSNR in dB" not in found  # numbers in a report are finite
    assert found["SSIM"]["value"] == pytest.approx(1, abs=1e-12)
    assert found["cosine distance[pixels]"]["value"] == 0
    assert found["rFD[pixels]"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["two-sample accuracy"]["value"] == 0.5  # each image is in both sets
    for name in ("all facts", "layout", "kind", "attribute"):
        assert found[f"accuracy: {name}"]["value"] == found[f"accuracy: {name}"]["ceiling"]
    assert found["bits/image"]["value"] == 24 * SIZE**2
    printed = capsys.readouterr().out
    assert re.search("PSNR in dB +∞", printed) and "reconstructs at least one image exactly" in printed
    with (out / "tokenizers.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["PSNR in dB"]) == math.inf and float(row["SSIM"]) == pytest.approx(1)


def test_usage_and_perplexity_of_known_codes():
    assert metrics.code_usage(np.arange(8).repeat(5)) == metrics.CodeUsage(8, pytest.approx(8), 40)
    assert metrics.code_usage(np.full((3, 4, 4), 7)) == metrics.CodeUsage(1, pytest.approx(1), 48)
    usage = metrics.code_usage(np.array([0, 0, 0, 2]))
    assert usage.used == 2 and math.log(usage.perplexity) == pytest.approx(
        -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    )
    with pytest.raises(ValueError, match="codes must be integers"):
        metrics.code_usage(np.array([0.5]))


def test_cosine_distance_of_known_angles():
    x, y = np.array([[1.0, 0], [1, 0], [0, 0], [0, 0]]), np.array([[2.0, 0], [1, 1], [0, 0], [1, 0]])
    assert metrics.cosine_distance(x, y).per_sample == pytest.approx([0, 1 - 0.5**0.5, 0, 1])
    x = np.random.default_rng(0).normal(size=(50, 7))
    assert (metrics.cosine_distance(x, x).per_sample == 0).all()


def test_ssim_is_that_of_torchmetrics_away_from_the_border():
    x = torch.rand(3, 3, 24, 19, dtype=torch.float64)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    _, full = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    expected = full[:, :, 5:-5, 5:-5].flatten(1).mean(1)
    assert metrics.ssim(x, y).per_sample == pytest.approx(expected.tolist(), abs=1e-9)


def test_code_usage_of_a_tokenizer_counts_the_codes_of_the_images(folders, tmp_path):
    found = evaluated(tmp_path / "out", folders["vqvae"], "--data", "toybox-v1", "--num-images", "20", *PIXELS)
    images = np.stack([item["image"] for item in Toybox("train", SIZE, seed=1, num=20)])
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    codes = auto.open_image_tokenizer(folders["vqvae"]).encode(x)
    p = torch.bincount(codes.flatten(), minlength=32) / codes.numel()
    assert found["codes used"]["value"] == (p > 0).sum() / 32
    assert found["perplexity"]["value"] == pytest.approx(torch.special.entr(p).sum().exp().item(), rel=1e-5)


@pytest.mark.parametrize(
    "kind, dtype, grid, bits",
    [
        ("vqvae", "float32", (4, 4), 16 * 5),  # 32 codes
        ("fsq", "float32", (4, 4), 16 * math.log2(1000)),
        ("kl", "float32", (4, 4, 4), 64 * 32),
        ("kl", "bfloat16", (4, 4, 4), 64 * 16),
    ],
)
def test_bits_are_log2_of_the_codebook_or_those_of_the_numbers(folders, kind, dtype, grid, bits):
    tokenizer = open_tokenizer(folders[kind], dtype=dtype)
    assert tokenizer.grid(SIZE) == grid and tokenizer.bits(SIZE) == pytest.approx(bits)
    assert tokenizer.bits(2 * SIZE) == pytest.approx(4 * bits)


def test_parameters_include_the_codebook_but_not_its_statistics(folders, vqvae):
    expected = sum(p.numel() for p in vqvae.parameters()) + vqvae.quantizer.codebook.numel()
    assert open_tokenizer(folders["vqvae"]).parameters == expected


def test_the_encoders_mean_and_its_kl_divergence_are_those_of_diffusers(folders):
    images = torch.rand(3, 3, SIZE, SIZE) * 2 - 1
    model = AutoencoderKL.from_pretrained(folders["kl"])
    tokenizer = open_tokenizer(folders["kl"])
    with torch.no_grad():
        latents, kl = tokenizer.encode(images)
        posterior = model.encode(images).latent_dist
        assert torch.allclose(kl * math.log(2), posterior.kl(), rtol=1e-4)
        expected = model.decode(posterior.mode()).sample.clamp(-1, 1)
        assert torch.allclose(tokenizer.decode(latents), expected, atol=1e-5)


def test_scores_depend_neither_on_the_batch_size_nor_on_the_order_of_targets(folders, tmp_path, quick_two_sample):
    args = ["--data", "toybox-v1", "--num-images", "26", "--extractor", "pixels"]
    names = [folders[name] for name in ("vqvae", "fsq", "kl", "pipe")]
    first = evaluated(tmp_path / "a", *names, *args, "--batch-size", "26")
    second = evaluated(tmp_path / "b", *names[::-1], *args, "--batch-size", "7")
    assert values(first) == pytest.approx(values(second), rel=1e-4)
    assert {f"{name}: two-sample accuracy" for name in names} < first.keys()
    alone = evaluated(tmp_path / "c", names[0], *args)
    assert values(alone) == pytest.approx(
        {name.removeprefix(f"{names[0]}: "): v for name, v in values(first).items() if name.startswith(names[0])},
        rel=1e-4,
    )


def test_psnr_and_ssim_are_those_of_the_pipelines_reconstruction(folders, tmp_path):
    found = evaluated(tmp_path / "a", folders["pipe"], "--data", "toybox-v1", "--num-images", "20", *PIXELS)
    args = [folders["pipe"], "--metrics", "reconstruction", "--num-images", "50", "--out", str(tmp_path / "b")]
    cli.main(args)
    scores = json.loads((tmp_path / "b" / "report.json").read_text())["scores"]
    expected = {score["name"].removeprefix("reconstruction: "): score["value"] for score in scores}
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_the_frechet_interval_is_of_pairs_and_zero_for_equal_sets():
    x = torch.randn(60, 5, dtype=torch.float64)
    same, moved = (frechet_interval(torch.cat([y, x], 1), 0) for y in (x, x + 1))
    assert same.value == pytest.approx(0, abs=1e-9) and same.low == 0
    assert moved.value == pytest.approx(5) and moved.low == pytest.approx(5) == moved.high  # for every half


def test_facts_of_toybox_are_judged_where_a_classifier_is_given(identity, tmp_path):
    torch.manual_seed(0)
    FactClassifier(channels=(8, 16, 16), blocks=(0, 0, 0)).save_pretrained(tmp_path / "classifier")
    args = [identity, "--data", "toybox", "--image-size", "32", "--num-images", "20", *PIXELS]
    found = evaluated(tmp_path / "a", *args, "--classifier", str(tmp_path / "classifier"))
    accuracies = {name: score for name, score in found.items() if name.startswith("accuracy: ")}
    assert {"accuracy: all facts", "accuracy: kind", "accuracy: background"} <= accuracies.keys()
    assert all(score["value"] == score["ceiling"] for score in accuracies.values())


def test_a_right_prediction_has_all_facts_of_either_world():
    for world, prediction in ((measure.WORLDS["toybox"], measure.FactPrediction), (Toybox, measure.Prediction)):
        for item in world("train", 32, 3, 40):
            right = measure.judge(item["scene"], prediction.of(item["scene"]))
            assert right["all facts"] == [True] and all(all(of) for of in right.values())


def test_batches_are_bounded(folders, tmp_path, monkeypatch):
    sizes = []
    original = measure._through

    def through(run, tokenizer, images, *rest):
        sizes.append(len(images))
        return original(run, tokenizer, images, *rest)

    monkeypatch.setattr(measure, "_through", through)
    args = ["--data", "toybox-v1", "--num-images", "9", "--batch-size", "4", *PIXELS]
    evaluated(tmp_path / "out", folders["kl"], *args)
    assert sizes == [4, 4, 1]


def test_lpips_is_zero_for_equal_images_only(tmp_path, monkeypatch):
    """With random weights in the place of torchvision's."""
    import torchvision

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"--lpips squeeze .*: get https.*squeezenet1_1-.*pth and put it into"):
        Lpips("squeeze")
    file = tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(exist_ok=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
    lpips, (x, y) = Lpips("squeeze"), torch.rand(2, 4, 3, 32, 32) * 2 - 1
    assert torch.equal(lpips(x, x), torch.zeros(4)) and (lpips(x, y) > 0).all()
    assert torch.allclose(lpips(x, y), lpips(y, x))
    assert torch.allclose(lpips(x, y)[1:2], lpips(x[1:2], y[1:2]), atol=1e-6)


# --- targets --------------------------------------------------------------------------------------------------------


def test_a_run_stands_for_its_newest_checkpoint_and_its_data_are_known(tmp_path, capsys):
    for step in (1, 2):
        torch.manual_seed(step)
        FSQVAE(SIZE, **LEVELS).save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    (tmp_path / "run" / "recipe.json").write_text('{"data": "toybox-v1", "seed": 1}')
    run, newest = (open_tokenizer(str(tmp_path / name)) for name in ("run", "run/checkpoint-2"))
    assert run.sha256 == newest.sha256 and run.trained_on == ("toybox-v1", 1)
    args = [str(tmp_path / "run"), "--data", "toybox-v1", "--num-images", "4", *PIXELS]
    evaluated(tmp_path / "a", *args)
    assert "was trained on these images: give another --seed" in capsys.readouterr().out
    evaluated(tmp_path / "b", *args, "--seed", "1")
    assert "was trained on" not in capsys.readouterr().out


def test_diffusers_autoencoders_and_embedded_systems_are_targets(tmp_path):
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    channels = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    AutoencoderTiny(latent_channels=4, **channels, **blocks).save_pretrained(tmp_path / "tiny")
    tiny = open_tokenizer(str(tmp_path / "tiny"))
    assert tiny.grid(16) == (4, 4, 4) and tiny.image_size is None
    dalle, ldm = open_tokenizer("toybox/dalle"), open_tokenizer("toybox/ldm")
    assert dalle.codebook_size is not None and dalle.channels is None
    assert ldm.kind == "AutoencoderKL" and ldm.codebook_size is None
    found = evaluated(
        tmp_path / "out",
        str(tmp_path / "tiny"),
        "--image-size",
        "16",
        "--data",
        "toybox-v1",
        "--num-images",
        "4",
        *PIXELS,
    )
    assert "perplexity" not in found and "KL in bits/image" not in found


def test_other_targets_are_refused_by_name_before_any_work(folders, tmp_path, pipe):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    VAE().save_pretrained(tmp_path / "vae")
    pipe.tokenizer.save_pretrained(tmp_path / "text" / "tokenizer")
    index = {"_class_name": "DallePipeline", "tokenizer": ["transformers", "PreTrainedTokenizerFast"]}
    (tmp_path / "text" / "model_index.json").write_text(json.dumps(index))
    make_autoencoder(8 * SIZE, channels=(8, 8)).save_pretrained(tmp_path / "large")
    out = tmp_path / "out"

    def refused(error: type[Exception], message: str, *args: str) -> None:
        with pytest.raises(error, match=message):
            evaluated(out, *args)
        assert not out.exists()

    refused(UsageError, "give tokenizers to evaluate")
    refused(UsageError, "toybox/dalle' is given twice", "toybox/dalle", "toybox/dalle")
    refused(FileNotFoundError, r"no folder .*vqva: did you mean .*vqvae\?", folders["vqvae"][:-1])
    refused(FileNotFoundError, "there is no image tokenizer in .*empty", str(tmp_path / "empty"))
    refused(UsageError, "file is a file", str(tmp_path / "file"))
    refused(UsageError, "vae holds a VAE, which is no image tokenizer", str(tmp_path / "vae"))
    refused(UsageError, "text is a DallePipeline, which has no image tokenizer", str(tmp_path / "text"))
    refused(UsageError, r"several sizes \(.*vqvae: 16, .*large: 128\)", folders["vqvae"], str(tmp_path / "large"))
    refused(UsageError, "18 is not divisible by the stride of .*vqvae, 4", folders["vqvae"], "--image-size", "18")
    refused(UsageError, "--image-size must be at least 11", folders["vqvae"], "--image-size", "8")
    refused(UsageError, "--num-images must be at least 2", folders["vqvae"], "--num-images", "1")
    refused(UsageError, "--image-column has no effect", folders["vqvae"], "--image-column", "x")
    refused(FileNotFoundError, "no-classifier", folders["vqvae"], "--classifier", str(tmp_path / "no-classifier"))
    (Path(folders["fsq"]) / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    refused(ValueError, "fsq.*damaged or incomplete", folders["vqvae"], folders["fsq"])


def test_reconstructions_that_are_not_finite_are_an_error_that_names_the_tokenizer(folders, vqvae, tmp_path):
    with torch.no_grad():
        next(vqvae.decoder.parameters()).fill_(math.nan)
    vqvae.save_pretrained(tmp_path / "broken")
    with pytest.raises(FloatingPointError, match="broken: 4 of 4 images are not finite"):
        evaluated(
            tmp_path / "out",
            folders["fsq"],
            str(tmp_path / "broken"),
            "--data",
            "toybox-v1",
            "--num-images",
            "4",
            *PIXELS,
        )


def test_t2i_eval_names_the_command_for_a_tokenizer(folders, tmp_path):
    with pytest.raises(UsageError, match=r"vqvae holds an image tokenizer: t2i eval tokenizers .*vqvae"):
        cli.main([folders["vqvae"], "--out", str(tmp_path / "out")])


# --- data and reports -----------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path) -> Path:
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for i in range(14):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


def test_a_folder_of_images_has_no_classifier_accuracy_and_skips_what_cannot_be_read(folders, photos, tmp_path, capsys):
    (photos / "03.png").write_bytes(b"x")
    found = evaluated(tmp_path / "out", folders["vqvae"], "--data", str(photos), *PIXELS)
    assert found["SSIM"]["n"] == 13 and not any("accuracy" in name for name in found)
    printed = capsys.readouterr().out
    assert "note: skipped: 03.png" in printed and "Classifier accuracy was left out: the scenes of" in printed
    some = evaluated(tmp_path / "some", folders["vqvae"], "--data", str(photos), "--num-images", "5", *PIXELS)
    assert some["SSIM"]["n"] in (4, 5) and "rFD[pixels]" not in some
    assert "5 of 14" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--classifier has no effect"):
        evaluated(tmp_path / "x", folders["vqvae"], "--data", str(photos), "--classifier", "c")


def test_the_output_folder_lies_outside_the_images_and_is_no_file(folders, photos, tmp_path):
    with pytest.raises(UsageError, match=r"lies inside .*photos"):
        evaluated(photos / "report", folders["vqvae"], "--data", str(photos), *PIXELS)
    assert not (photos / "report").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--out .*file is a file"):
        evaluated(tmp_path / "file", folders["vqvae"])


def test_the_report_has_a_row_and_a_column_of_pictures_for_each_tokenizer(folders, tmp_path, capsys):
    out, names = tmp_path / "out", [folders["vqvae"], folders["kl"]]
    found = evaluated(out, *names, "--data", "toybox-v1", "--num-images", "12", *PIXELS)
    printed = capsys.readouterr().out
    assert printed.startswith("score ") and "AutoencoderKL" in printed and "images/s, decoder" in printed
    report = Report.load(out / "report.json")
    (table,) = report.tables
    assert [row[0] for row in table.rows] == [*names, "originals"]
    assert table.rows[0][table.columns.index("accuracy: kind, %")] == pytest.approx(
        100 * found[f"{names[0]}: accuracy: kind"]["value"]
    )
    assert len(report.galleries) == measure.SHOWN
    assert [caption for _, caption in report.galleries[0].images] == ["original", *names]
    assert report.galleries[0].images[0][0].size == (SIZE, SIZE)
    assert "Image 1" in (out / "report.html").read_text()
    with (out / "tokenizers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["tokenizer"] for row in rows] == names
    assert float(rows[1]["KL in bits/image"]) == pytest.approx(found[f"{names[1]}: KL in bits/image"]["value"])


def test_reports_of_single_tokenizers_can_be_compared_if_they_are_of_the_same_images(folders, tmp_path, capsys):
    for out, kind, seed in (("a", "vqvae", "0"), ("b", "fsq", "0"), ("c", "fsq", "1")):
        args = ["--data", "toybox-v1", "--num-images", "12", "--seed", seed, *PIXELS]
        evaluated(tmp_path / out, folders[kind], *args)
    capsys.readouterr()
    reports.main(["diff", str(tmp_path / "a/report.json"), str(tmp_path / "b/report.json")])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("SSIM ")]
    assert "outside" in line or "within" in line
    reports.main(["diff", str(tmp_path / "b/report.json"), str(tmp_path / "c/report.json")])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("SSIM ")]
    assert "not comparable" in line


@pytest.mark.slow  # two programs that start
def test_two_processes_find_what_one_does(folders, tmp_path):
    args = [folders["vqvae"], folders["kl"], "--data", "toybox-v1", "--num-images", "21", "--batch-size", "4", *PIXELS]
    one = evaluated(tmp_path / "one", *args)
    command = launched(2, "-m", "t2i.eval", "tokenizers", *args, "--out", str(tmp_path / "two"))
    subprocess.run(
        command, env=os.environ | {"ACCELERATE_USE_CPU": "true"}, check=True, capture_output=True, timeout=300
    )
    two = {s["name"]: s["value"] for s in json.loads((tmp_path / "two/report.json").read_text())["scores"]}
    assert {name: two[name] for name in one} == pytest.approx(values(one), rel=1e-4)
