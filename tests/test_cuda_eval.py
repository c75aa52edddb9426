"""Evaluation on other devices than the CPU: features and scores equal the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from features import features
from test_feature_extractors import LOCAL, images_of, make_clip, make_dinov2

from t2i.data.toybox_v1 import Toybox
from t2i.data.toybox_v1.classifier import load_classifier
from t2i.eval import metrics
from t2i.eval.features import open_extractor
from t2i.eval.features.base import exact_convolutions
from t2i.eval.generation.images import Item, generate_batches
from t2i.eval.generation.prompt import Prompt
from t2i.images import to_tensor
from t2i.pipelines import AutoPipeline

MADE = {"clip": make_clip, "dinov2": make_dinov2}


@pytest.mark.parametrize("kind", [*LOCAL, *MADE])
def test_features_are_the_cpus(kind, tmp_path, device):
    name = MADE[kind](tmp_path / kind) if kind in MADE else kind
    images = images_of(6)
    here, there = (open_extractor(name, where)(images) for where in ("cpu", device))
    assert there.device.type == "cpu" and there.dtype == torch.float32
    assert torch.allclose(here, there, rtol=1e-3, atol=1e-3)
    sets = [metrics.frechet_distance(x[:3].double(), x[3:].double()) for x in (here, there)]
    assert sets[0] == pytest.approx(sets[1], rel=1e-3)


def test_captions_are_embedded_as_on_the_cpu(tmp_path, device):
    name = make_clip(tmp_path / "clip")
    here, there = (open_extractor(name, where).encode_text(["a b", "c"]) for where in ("cpu", device))
    assert torch.allclose(here, there.cpu(), atol=1e-4)


def test_convolutions_are_rounded_again_afterwards():
    before = torch.backends.cudnn.allow_tf32
    with exact_convolutions():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


SCORES = {
    "frechet": lambda x, y: metrics.frechet_distance(x, y),
    "frechet of few": lambda x, y: metrics.frechet_distance(x[:6], y[:6]),
    "fd infinity": lambda x, y: metrics.fd_infinity(x, y, points=3).value,
    "kid": lambda x, y: metrics.kid(x, y, subsets=5, subset_size=40).mean,
    "cmmd": lambda x, y: metrics.cmmd(x, y),
    "recall": lambda x, y: metrics.precision_recall(x, y).recall,
    "coverage": lambda x, y: metrics.density_coverage(x, y).coverage,
    "diversity": lambda x, y: metrics.diversity(x),
    "clip": lambda x, y: metrics.clip_score(x, y, "hessel").value,
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_features_on_the_device_are_the_cpus(name, device):
    x, y = features(80, 8), features(70, 8, 1)
    if name == "clip":
        y = features(80, 8, 1)
    here, there = SCORES[name](x, y), SCORES[name](x.to(device), y.to(device))
    assert there == pytest.approx(here, rel=1e-5, abs=1e-9)


def test_the_classifier_predicts_what_it_predicts_on_the_cpu(device):
    data = Toybox("all", num=16)
    images = to_tensor(torch.from_numpy(np.stack([data[i]["image"] for i in range(16)])))
    model = load_classifier()
    here = model.predict(images)
    assert model.to(device).predict(images) == here


def test_images_are_generated_in_batches(device):
    pipe = AutoPipeline.from_pretrained("toybox/ldm")
    pipe.set_progress_bar_config(disable=True)
    items = [Item(i, Prompt("a red cat", "relation", None, str(i)), i) for i in range(2)]
    found = []
    for where in ("cpu", device):
        pipe.to(where)
        found.append(
            [np.asarray(p, float) for _, made in generate_batches(pipe, items, 2, num_inference_steps=2) for p in made]
        )
    assert np.abs(np.array(found[0]) - found[1]).max() <= 3
