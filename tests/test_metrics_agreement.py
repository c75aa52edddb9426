"""Agreement with torch-fidelity, torchmetrics and clean-fid on the same features, wherever they are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from features import close, features
from PIL import Image
from torch import nn

from t2i.eval import metrics
from t2i.eval.features import Extractor
from t2i.eval.images.sets import extract
from t2i.eval.metrics import clip_score, frechet_distance, kid

RELATIVE = 1e-6  # tolerance for agreement with other tools, where they are exact
FID_KEY = "frechet_inception_distance"
KID_KEYS = ("kernel_inception_distance_mean", "kernel_inception_distance_std")
IS_KEYS = ("inception_score_mean", "inception_score_std")


def images_of(seed: int, n: int = 3, side: int = 24) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- agreement with other tools -------------------------------------------------------------------------------------


def fidelity(module: str):
    return pytest.importorskip(f"torch_fidelity.{module}", reason="torch-fidelity is not installed")


def torchmetrics_of(module: str):
    return pytest.importorskip(f"torchmetrics.{module}", reason="torchmetrics is not installed")


SETS = {  # n, m, d, offset
    "more samples than dimensions": (400, 500, 48, 0.5),
    "offset": (400, 500, 48, 1000.0),
    "fewer samples than dimensions": (40, 50, 96, 0.5),
}


@pytest.mark.parametrize("n, m, d, offset", SETS.values(), ids=SETS)
def test_frechet_distance_agrees_with_torch_fidelity(n, m, d, offset):
    theirs = fidelity("metric_fid")
    x, y = features(n, d, 1, offset), features(m, d, 2, offset + 0.1, scale=1.2)
    stats = [theirs.fid_features_to_statistics(z) for z in (x, y)]
    assert frechet_distance(x, y) == close(theirs.fid_statistics_to_metric(*stats, False)[FID_KEY], rel=RELATIVE)


@pytest.mark.parametrize("n, m, d, offset", SETS.values(), ids=SETS)
def test_frechet_distance_agrees_with_torchmetrics(n, m, d, offset):
    """Far from the origin their raw sums of squares lose digits: there ours equals theirs of the shifted features."""
    torchmetrics = torchmetrics_of("image.fid")
    x, y = features(n, d, 1, offset), features(m, d, 2, offset + 0.1, scale=1.2)

    def theirs(moved: float) -> float:
        fid = torchmetrics.FrechetInceptionDistance(feature=Through(d), normalize=True)
        fid.update(y - moved, real=True)
        fid.update(x - moved, real=False)
        return fid.compute().item()

    ours = frechet_distance(x, y)
    assert ours == close(theirs(offset), rel=RELATIVE)
    assert ours == close(theirs(0), rel=1e-3 if offset == 1000 else RELATIVE)


class Corners(Extractor):
    """Channel means of an image's four quarters, D = 12: a network for images of any size."""

    def __init__(self):
        super().__init__("corners", 12, "as-it-is", "0" * 64)

    def prepare(self, images):
        return images.float()

    def forward(self, prepared):
        return nn.functional.adaptive_avg_pool2d(prepared, 2).flatten(1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_distance_of_folders_agrees_with_clean_fid(tmp_path):
    """Without resizing, which differs, the computation from files to distance is the same."""
    theirs = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed")
    rng, folders = np.random.default_rng(0), [tmp_path / "a", tmp_path / "b"]
    for folder, low in zip(folders, (0, 60), strict=True):
        folder.mkdir()
        for i in range(40):
            image = rng.integers(low, 256, (2, 2, 3)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
            Image.fromarray(image).save(folder / f"{i:02}.png")
    how = {"custom_feat_extractor": Corners().forward, "custom_fn_resize": lambda image: image, "num_workers": 0}
    expected = theirs.compute_fid(*map(str, folders), **how, device=torch.device("cpu"), verbose=False)
    x, y = (extract(folder, Corners(), progress=False).values for folder in folders)
    assert frechet_distance(x, y) == close(expected, rel=RELATIVE)


def test_kid_agrees_with_torch_fidelity_and_torchmetrics():
    theirs, torchmetrics = fidelity("metric_kid"), torchmetrics_of("image.kid")
    x, y = features(150, 32, 1), features(130, 32, 2, offset=0.1)
    ours = kid(x, y, subsets=10, subset_size=60)
    expected = theirs.kid_features_to_metric(x, y, kid_subsets=10, kid_subset_size=60, verbose=False)
    assert (ours.mean, ours.std) == tuple(close(expected[key], rel=RELATIVE) for key in KID_KEYS)
    one = kid(x[:100], y[:100], subsets=1, subset_size=100).mean  # theirs samples with torch: compare without subsets
    assert one == close(torchmetrics.poly_mmd(y[:100], x[:100]).item(), rel=RELATIVE)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_inception_score_agrees_with_torch_fidelity_and_torchmetrics():
    theirs, torchmetrics = fidelity("metric_isc"), torchmetrics_of("image.inception")
    logits = features(103, 12, scale=6)
    ours, expected = metrics.inception_score(logits), theirs.isc_features_to_metric(logits)
    assert (ours.mean, ours.std) == tuple(close(expected[key], rel=RELATIVE) for key in IS_KEYS)
    other = torchmetrics.InceptionScore(feature=Through(12), splits=1)
    other.update(logits)
    ours = metrics.inception_score(logits, splits=1)
    assert ours.mean == close(other.compute()[0].item(), rel=RELATIVE)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_precision_and_recall_agree_with_torch_fidelity(k: int):
    theirs = fidelity("metric_prc")
    x, y = features(150, 8, 1, offset=0.2), features(180, 8, 2)
    expected = theirs.prc_features_to_metric(x, y, prc_neighborhood=k, verbose=False)
    ours = metrics.precision_recall(x, y, k=k)
    assert (ours.precision, ours.recall) == (
        close(expected["precision"], RELATIVE),
        close(expected["recall"], RELATIVE),
    )


@pytest.mark.parametrize("away", [0.0, 4.0])
def test_clip_score_agrees_with_torchmetrics(away: float):
    """Their whole function, with a model that returns its inputs; once with a negative mean to clamp."""
    theirs = torchmetrics_of("functional.multimodal.clip_score")
    images, texts = features(20, 12, 1, offset=away), features(20, 12, 2, offset=-away)
    expected = theirs.clip_score(
        list(images.view(20, 3, 2, 2)), list(texts.view(20, 3, 2, 2)), lambda: (Clip(), to_clip)
    )
    assert clip_score(images, texts, "torchmetrics").value == close(expected.item(), rel=RELATIVE)


def test_psnr_and_ssim_equal_their_definitions():
    """As computed in float64 from the definitions: PSNR in torchmetrics is accurate to 1e-7."""
    x = images_of(0)
    y = (0.8 * x + 0.2 * images_of(1)).clamp(0, 1)
    psnr, ssim = metrics.psnr(y, x).per_sample, metrics.ssim(y, x).per_sample
    np.testing.assert_allclose(psnr, [21.67712884795685, 21.863370539245928, 21.939748045029205], rtol=1e-7)
    np.testing.assert_allclose(ssim, [0.9518432241518275, 0.9522704425903377, 0.954098161670519], rtol=RELATIVE)


class Through(nn.Module):
    """A feature extractor for torchmetrics that receives features."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Clip(nn.Module):
    def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)


def to_clip(images: list[torch.Tensor], return_tensors: str, padding: bool) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.stack(images)}
