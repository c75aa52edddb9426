"""Image inputs: masks and images of pipelines, sets to score, folders of generated images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.eval.features import open_extractor
from t2i.eval.generation.images import read_manifest
from t2i.eval.images.folders import image_files, left_out
from t2i.eval.images.sets import extract
from t2i.pipelines.commands.common import open_input
from t2i.pipelines.latent_diffusion.inputs import read_images, read_label_maps, read_masks

ONE_OF_8 = 1, (8, 8)  # one image


def deep_mask() -> Image.Image:
    """Dark grey (keep) and white, with 16 bits. Clipped at 255, as Pillow converts it, all of it would be white."""
    values = np.full((8, 8), 13_000, np.uint16)
    values[2:6, 2:6] = 65_535
    return Image.fromarray(values)


def test_masks_of_16_bits_and_of_floats_are_scaled():
    expected = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    expected[..., 2:6, 2:6] = True
    deep = deep_mask()
    floats = Image.fromarray(np.asarray(deep, np.float32) / 65535)
    for mask in (deep, floats, Image.fromarray(np.asarray(deep, np.int32))):
        assert torch.equal(read_masks(mask, *ONE_OF_8), expected)
    with pytest.raises(ValueError, match=r"the mask has floats from 0 to 13000; scale them") as caught:
        read_masks(Image.fromarray(np.float32([[0, 13_000]])), *ONE_OF_8)
    assert "convert(" not in str(caught.value)


def test_pictures_of_any_mode_are_what_training_sees():
    clear = Image.new("RGBA", (8, 8), (255, 0, 255, 0))
    assert (read_images(clear, 8) == 1).all()  # white
    deep = read_images(deep_mask(), 8)
    assert deep[0, 0, 0, 0] == pytest.approx(13_000 / 65_535 * 2 - 1, abs=0.01) and deep[0, 0, 3, 3] == 1


def test_files_of_pictures_masks_and_maps_are_opened_for_what_they_are(tmp_path):
    deep_mask().save(tmp_path / "deep.png")
    path = str(tmp_path / "deep.png")
    assert open_input(path, "image", 4).getpixel((0, 0)) == pytest.approx((51,) * 3, abs=3)
    assert torch.equal(read_masks(open_input(path, "mask", None), *ONE_OF_8), read_masks(deep_mask(), *ONE_OF_8))
    with pytest.raises(ValueError, match=r"mode P .* or L, not I;16"):  # labels are not scaled
        read_label_maps(open_input(path, "map", 8), 7, 8)
    labels = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) % 5)
    labels.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200, 5, 5, 5])
    labels.save(tmp_path / "map.png")
    read = read_label_maps(open_input(str(tmp_path / "map.png"), "map", 8), 5, 8)
    assert torch.equal(read[0, ::2, ::2], torch.from_numpy(np.array(labels)).long())


# --- sets that are scored -------------------------------------------------------------------------------------------


def test_a_few_of_other_formats_are_left_out_and_named(tmp_path):
    for i, suffix in enumerate(("png", "png", "gif", "bmp", "avif", "tiff")):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / f"{i}.{suffix}")
    (tmp_path / "x.heic").write_bytes(b"?")
    assert [path.name for path in image_files(tmp_path)] == ["0.png", "1.png"]
    said = left_out(tmp_path)
    assert "4 images of another format than the others (2.gif, 3.bmp, 4.avif, …)" in said
    assert "1 image of formats that are not read (x.heic)" in said
    assert len(image_files(tmp_path, allow_mixed=True)) == 6
    assert len(extract(tmp_path, open_extractor("pixels"), allow_mixed=True, progress=False)) == 6
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="mixes AVIF and BMP and GIF and TIFF"):
        image_files(tmp_path)


@pytest.fixture
def generated(tmp_path) -> Path:
    """Three images and their manifest, as written by `t2i.eval.generation.images`."""
    (tmp_path / "images").mkdir()
    entries = []
    for i in range(3):
        name = f"images/{i}.png"
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / name)
        sha256 = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        entry = {"index": i, "key": f"k{i}", "prompt": f"thing {i}", "seed": 0, "file": name}
        entries.append(entry | {"sha256": sha256, "black": i == 0})
    rewrite(tmp_path, {"header": {"pipeline": "p"}, "black": 1, "images": entries})
    return tmp_path


def rewrite(folder: Path, manifest: object) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_replaced_image_is_refused_by_name(generated):
    assert len(image_files(generated)) == 3
    Image.new("RGB", (8, 8), (1, 2, 3)).save(generated / "images" / "3.png")
    assert len(image_files(generated)) == 3
    assert left_out(generated) == f"left out of {generated}: 1 image not in manifest.json (images/3.png)."
    Image.new("RGB", (8, 8), (41, 0, 0)).save(generated / "images" / "1.png")
    with pytest.raises(ValueError, match=r"1 of 3 images in .* are not those of its manifest\.json: images/1\.png;"):
        image_files(generated)
    (generated / "images" / "1.png").write_bytes(b"cut")  # not another image, so it is skipped
    features = extract(generated, open_extractor("pixels"), progress=False)
    assert [line.partition(":")[0] for line in features.skipped] == ["images/1.png"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["images"][1].pop("sha256"), "image 1 has no 'sha256'"),
        (lambda m: m["images"][1].update(sha256=7), "image 1 has a wrong 'sha256'"),
        (lambda m: m["images"][2].update(file="../../x.png"), "image 2: ../../x.png lies outside of the folder"),
        (lambda m: m["images"].__setitem__(0, "x"), "image 0 is not an object"),
        (lambda m: m.update(images={}), "is damaged: its header must be an object, its images a list"),
    ],
)
def test_a_damaged_manifest_is_named(generated, change, said):
    manifest = read_manifest(generated)
    change(manifest)
    rewrite(generated, manifest)
    for read in (image_files, read_manifest):
        with pytest.raises(ValueError, match=said) as caught:
            read(generated)
        assert str(caught.value).startswith(f"{generated}/manifest.json")
    (generated / "manifest.json").write_text('{"header":')
    with pytest.raises(ValueError, match="is damaged and cannot be read as JSON; generate"):
        image_files(generated)
