"""Feature extractors: pixels in any form, resizing without aliasing, and the same features however they are called."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.checks import UsageError
from t2i.data.toybox_v1.classifier import ToyboxClassifier, load_classifier
from t2i.eval.features import Features, area_resize, as_uint8, measure_name, open_extractor
from t2i.eval.features.base import INCEPTION_SHA256
from t2i.images import to_tensor
from t2i.weights import digest

SIDE, WIDTH, CONTEXT = 32, 32, 8  # of the tiny transformers
END = "<|endoftext|>"
RANDOM_SHA256 = "7f3c8f33a50b93d3"  # its first digits
LOCAL = ("pixels", "random", "toybox-v1")
MODELS = ("clip", "open_clip", "dinov2")


def images_of(n: int, height: int = 40, width: int = 40, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), generator=g, dtype=torch.uint8)


def layers(width: int) -> dict:
    return {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}


def make_clip(folder):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    words = [f"{letter}</w>" for letter in "abcdefghijklmnop"]
    names = [*(word[0] for word in words), *words, "<|startoftext|>", END]
    tokenizer = CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[])
    ends = {"bos_token_id": len(names) - 2, "eos_token_id": len(names) - 1, "pad_token_id": len(names) - 1}
    text = layers(WIDTH) | ends | {"vocab_size": len(names), "max_position_embeddings": CONTEXT}
    vision = layers(WIDTH) | {"image_size": SIDE, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    CLIPImageProcessor(**size).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"clip:{folder}"


def make_dinov2(folder):
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**sizes, image_size=SIDE, patch_size=16)).save_pretrained(folder)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    BitImageProcessor(**size).save_pretrained(folder)
    return f"dinov2:{folder}"


def make_open_clip(folder):
    import open_clip

    vision = {"image_size": SIDE, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    folder.mkdir()
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (folder / "t2i-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "t2i-tiny.json")
    torch.save(open_clip.create_model("t2i-tiny").state_dict(), folder / "tiny.pt")
    return f"open_clip:t2i-tiny/{folder}/tiny.pt"


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict[str, str]:
    """The name of each extractor; the models are random, in the format of the real ones."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    opened_names = {kind: globals()[f"make_{kind}"](folder / kind) for kind in MODELS}
    return {kind: kind for kind in LOCAL} | opened_names


@pytest.fixture(scope="module")
def opened(names):
    """Each extractor, loaded once."""
    known: dict = {}
    return lambda kind: known[kind] if kind in known else known.setdefault(kind, open_extractor(names[kind]))


# --- pixels in any form ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_range", ["0..1", "-1..1"])
def test_floats_become_the_nearest_level(value_range):
    """Every level is recovered, and rounding is unbiased."""
    unit = torch.cat([torch.arange(256) / 255, torch.linspace(0, 1, 100_001)]).view(1, 1, 1, -1)
    images = unit if value_range == "0..1" else unit * 2 - 1
    levels = as_uint8(images, value_range)[0, 0, 0]
    assert torch.equal(levels[:256], torch.arange(256, dtype=torch.uint8))
    error = levels.double() - 255 * unit.flatten().double()
    assert error.abs().max() < 0.5 + 1e-3
    assert abs(error.mean().item()) < 1e-3


def test_every_usual_form_is_the_same_image():
    rgb = images_of(2)
    rgba = torch.cat([rgb, torch.full_like(rgb[:, :1], 255)], 1)
    unit = rgb.double() / 255
    last = unit.permute(0, 2, 3, 1)
    for images in (rgb, rgba, rgb.numpy(), rgba.permute(0, 2, 3, 1), unit, unit.float(), last, last.numpy()):
        assert torch.equal(as_uint8(images), rgb)
    assert torch.equal(as_uint8(unit * 2 - 1, "-1..1"), rgb)
    assert torch.equal(as_uint8(rgb[0]), rgb[:1])


def test_grey_is_repeated_and_transparent_becomes_white():
    grey = images_of(2)[:, :1]
    same = grey.expand(-1, 3, -1, -1)
    assert torch.equal(as_uint8(grey), same)
    assert torch.equal(as_uint8(grey.permute(0, 2, 3, 1)), same)
    assert torch.equal(as_uint8(grey[0, 0]), same[:1])
    clear = torch.zeros(1, 4, 5, 5, dtype=torch.uint8)
    assert (as_uint8(clear) == 255).all()
    half = torch.tensor([100, 0, 200, 51], dtype=torch.uint8).view(1, 4, 1, 1).expand(-1, -1, 5, 5)
    assert as_uint8(half)[0, :, 0, 0].tolist() == [224, 204, 244]  # 0.2 · colour + 0.8 · 255


@pytest.mark.parametrize(
    "images, options, message",
    [
        (torch.full((1, 3, 8, 8), float("nan")), {}, "NaN"),
        (torch.full((1, 3, 8, 8), -0.5), {}, "right value_range"),
        (torch.full((1, 3, 8, 8), 200.0), {}, "right value_range"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), {}, "uint8 or floats"),
        (torch.zeros(9, 8, 8, dtype=torch.uint8), {}, "no 1, 3 or 4 channels"),
        (torch.zeros(1, 2, 8, 8, dtype=torch.uint8), {}, "no 1, 3 or 4 channels"),
        (torch.zeros(1, 3, 8, 3, dtype=torch.uint8), {}, "layout="),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), {}, "must have the shape"),
        (torch.zeros(1, 3, 8, 8), {"value_range": "0..255"}, "value_range"),
    ],
)
def test_ambiguous_or_invalid_images_raise(images, options, message):
    with pytest.raises(ValueError, match=message):
        as_uint8(images, **options)


def test_a_one_pixel_checkerboard_becomes_flat_grey():
    board = (torch.arange(256)[:, None] + torch.arange(256)) % 2 * 255
    small = area_resize(board.expand(1, 3, -1, -1), 32)
    assert torch.equal(small, torch.full((1, 3, 32, 32), 127.5))
    features = open_extractor("pixels")(as_uint8(board.to(torch.uint8)))
    assert torch.equal(features, torch.full((1, 3072), 0.5))


@pytest.mark.parametrize("height, width", [(48, 37), (64, 64), (20, 32)])
def test_area_resize_keeps_the_mean(height, width):
    images = images_of(2, height, width)
    small = area_resize(images, 32)
    assert small.shape == (2, 3, 32, 32)
    torch.testing.assert_close(small.mean((2, 3)), images.float().mean((2, 3)), rtol=1e-5, atol=1e-3)


# --- laws of every extractor ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*LOCAL, *MODELS])
def test_features_do_not_depend_on_batch_or_order(kind, opened):
    extractor, images = opened(kind), images_of(3)
    features = extractor(images)
    assert features.shape == (3, extractor.dim)
    assert features.dtype == torch.float32
    scale = features.abs().max().item()
    single = torch.cat([extractor(image[None]) for image in images])
    torch.testing.assert_close(single, features, rtol=1e-5, atol=1e-5 * scale)
    torch.testing.assert_close(extractor(images.flip(0)), features.flip(0), rtol=1e-5, atol=1e-5 * scale)
    assert (features[0] - features[1]).abs().max() > 1e-3 * scale


@pytest.mark.parametrize("kind", [*LOCAL[1:], *MODELS])
def test_extraction_does_not_change_the_network(kind, opened):
    extractor, images = opened(kind), images_of(2)
    network = extractor.layers if kind == "random" else extractor.model
    before, copy = digest(network), images.clone()
    assert not extractor(images).requires_grad
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert digest(network) == before == extractor.weights_sha256
    assert torch.equal(images, copy)


@pytest.mark.parametrize("kind", [*LOCAL, *MODELS])
def test_images_of_any_size_have_features_of_one_size(kind, opened):
    assert opened(kind)(images_of(1, 50, 36)).shape == (1, opened(kind).dim)


def test_only_uint8_images_are_accepted(opened):
    with pytest.raises(ValueError, match="use as_uint8"):
        opened("pixels")(torch.rand(1, 3, 8, 8))


# --- each extractor -------------------------------------------------------------------------------------------------


def test_random_weights_are_the_same_everywhere(opened):
    assert opened("random").weights_sha256.startswith(RANDOM_SHA256)
    assert opened("random").dim == 512


def test_toybox_features_are_the_inputs_of_the_classifiers_heads(opened):
    classifier, images = load_classifier(), images_of(2, 64, 64)
    batch = to_tensor(images.permute(0, 2, 3, 1))
    features = opened("toybox-v1")(images)
    assert opened("toybox-v1").dim == 640
    torch.testing.assert_close(classifier.to_layout(features), classifier(batch)[0], rtol=1e-4, atol=1e-4)


def test_another_classifier_can_be_the_extractor(tmp_path):
    ToyboxClassifier(channels=(8, 16), blocks=(0, 1)).save_pretrained(tmp_path / "mine")
    extractor = open_extractor(f"toybox-v1:{tmp_path / 'mine'}")
    assert (extractor.name, extractor.dim) == ("toybox-v1:mine", 5 * 16)


@pytest.mark.parametrize("kind", ["clip", "open_clip"])
def test_long_prompts_keep_the_end_token(kind, opened):
    """Truncated to the context with the end token in the last position, they equal their prefix."""
    letters = "a b c d e f g h i j k l m n o p"
    kept = " ".join(letters.split()[: CONTEXT - 2])  # start and end tokens take two positions
    long, exact, short = opened(kind).encode_text([letters, kept, "a b c"])
    torch.testing.assert_close(long, exact, rtol=1e-5, atol=1e-6)
    assert (long - short).abs().max() > 1e-4
    torch.testing.assert_close(opened(kind).encode_text(["a b c"])[0], short, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="list with at least one text"):
        opened(kind).encode_text("a b c")


def test_clip_features_equal_those_of_transformers(names, opened):
    from transformers import AutoProcessor, CLIPModel

    folder, images = names["clip"].partition(":")[2], images_of(2, 50, 36)
    model, processor = CLIPModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor(text=["a b", "c"], images=list(images), return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**inputs)
    for ours, theirs in (
        (opened("clip")(images), out.image_embeds),
        (opened("clip").encode_text(["a b", "c"]), out.text_embeds),
    ):
        torch.testing.assert_close(torch.nn.functional.normalize(ours, dim=1), theirs, rtol=1e-5, atol=1e-6)


def test_names_contain_no_folders(opened):
    assert opened("clip").name == "clip:clip"
    assert opened("dinov2").name == "dinov2:dinov2"
    assert opened("open_clip").name == "open_clip:t2i-tiny/tiny.pt"


# --- Inception ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights in torch-fidelity's format."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Unloaded(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            """Keeps the random initialisation."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    state = Unloaded("inception", ["2048"], feature_extractor_weights_path=empty).state_dict()
    for name, weights in state.items():
        if name.endswith("conv.weight"):
            weights *= 6**0.5  # torch's default initialisation shrinks activations to nothing over a hundred layers
    torch.save(state, path)
    return path


def test_inception_features_equal_torch_fidelitys(inception_file):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("t", ["2048", "logits_unbiased"], str(inception_file))
    ours, images = open_extractor(f"inception:{inception_file}"), images_of(2, 30, 50)
    features, logits = theirs(images)
    before = digest(ours.model)
    assert features.std() > 1e-3, "these weights do not distinguish the images"
    torch.testing.assert_close(ours(images), features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.logits(features), logits, rtol=1e-5, atol=1e-6)
    assert digest(ours.model) == before
    assert not any(module.training for module in ours.model.modules())
    assert (ours.name, ours.dim) == ("inception:random.pth", 2048)
    assert measure_name("FD", ours) == "FD[inception:random.pth]"


def test_inception_loads_only_weights(tmp_path):
    pytest.importorskip("torch_fidelity")
    with pytest.raises(FileNotFoundError, match="omit the path"):
        open_extractor(f"inception:{tmp_path / 'none.pth'}")
    torch.save({"fc.weight": Image.new("RGB", (1, 1))}, path := tmp_path / "pickled.pth")
    with pytest.raises(ValueError, match="not a safe file"):
        open_extractor(f"inception:{path}")
    torch.save({"fc.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(ValueError, match="no Inception weights"):
        open_extractor(f"inception:{path}")


def test_only_the_official_inception_gives_a_fid():
    genuine = {"name": "inception", "weights_sha256": INCEPTION_SHA256}
    other = genuine | {"weights_sha256": "0" * 64}
    assert [measure_name(metric, genuine) for metric in ("FD", "KID")] == ["FID", "KID"]
    assert [measure_name(metric, other) for metric in ("FD", "KID")] == ["FD[inception]", "KID[inception]"]
    assert measure_name("FD", open_extractor("random")) == "FD[random]"


# --- names and hashes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "clip"])
def test_weights_with_another_hash_than_named_raise(kind, names, opened):
    right = opened(kind).weights_sha256
    assert open_extractor(f"{names[kind]}@{right[:8]}").weights_sha256 == right
    with pytest.raises(ValueError, match="not 00000000…; get the right weights"):
        open_extractor(f"{names[kind]}@00000000")


def test_unknown_extractors_raise(tmp_path, names):
    with pytest.raises(UsageError, match="did you mean pixels"):
        open_extractor("pixel")
    with pytest.raises(UsageError, match="clip:NAME_OR_FOLDER"):
        open_extractor("clip")
    with pytest.raises(UsageError, match="random takes no argument"):
        open_extractor("random:3")
    for name in (f"clip:{tmp_path / 'none'}", f"dinov2:{tmp_path}", f"open_clip:ViT-B-32/{tmp_path / 'none.pt'}"):
        with pytest.raises(FileNotFoundError, match=r"there (is|are) no|finds no"):
            open_extractor(name)
    with pytest.raises(ValueError, match="type dinov2, not clip"):
        open_extractor(names["dinov2"].replace("dinov2:", "clip:"))
    with pytest.raises(ValueError, match="open_clip cannot open"):
        open_extractor("open_clip:no-such-model/openai")
    with pytest.raises(ValueError, match="names no weights"):
        open_extractor("open_clip:ViT-B-32")


def test_features_that_are_not_finite_raise():
    about = {"name": "x", "dim": 2, "preprocess_id": "", "weights_sha256": ""}
    values = torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])
    with pytest.raises(ValueError, match="image b have NaN"):
        Features(values, about, ("00", "11"), ("a", "b"))
    with pytest.raises(ValueError, match=r"need features \(1, 2\)"):
        Features(values, about, ("00",))
    assert len(Features(values[:1], about, ("00",))) == 1
    assert np.isfinite(Features(values[:1], about, ("00",)).values.numpy()).all()
