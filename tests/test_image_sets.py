"""Folders of images, the cache of their features, and files of reference statistics."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.data.folder import note
from t2i.eval.distributed import interleave, shard
from t2i.eval.features import Features, open_extractor
from t2i.eval.features.small import PixelExtractor
from t2i.eval.images.folders import image_files
from t2i.eval.images.references import load_reference, save_reference
from t2i.eval.images.sets import collect, extract, extract_items, image_digest, items_of, read_image
from t2i.eval.metrics import frechet_distance


class Counting(PixelExtractor):
    """Pixels, with a count of embedded images; `weights` and `preprocessing` distinguish extractors."""

    def __init__(self, weights: str = "0" * 64, preprocessing: str = "area-32"):
        super().__init__()
        self.weights_sha256, self.preprocess_id, self.embedded = weights, preprocessing, 0

    def forward(self, prepared):
        self.embedded += len(prepared)
        return super().forward(prepared)


def array(i: int, height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(i).integers(1, 256, (height, width, 3), dtype=np.uint8)


def fill(folder, n: int = 7):
    """n PNGs in two folders and two sizes."""
    for i in range(n):
        path = folder / ("b" if i % 3 else "a") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array(i, 20 + i % 2)).save(path)
    return folder


def run(source, extractor, **options) -> Features:
    return extract(source, extractor, **{"batch_size": 3, "progress": False} | options)


# --- reading --------------------------------------------------------------------------------------------------------


def test_images_are_in_the_order_of_their_names(tmp_path):
    fill(tmp_path)
    (tmp_path / ".hidden").mkdir()
    for name in (".hidden/x.png", ".y.png", "z.png.part", ".z.png.part"):
        (tmp_path / name).write_bytes((tmp_path / "a" / "0.png").read_bytes())
    (tmp_path / "notes.txt").write_text("no image")
    names = ["a/0.png", "a/3.png", "a/6.png", "b/1.png", "b/2.png", "b/4.png", "b/5.png"]
    assert [p.relative_to(tmp_path).as_posix() for p in image_files(tmp_path)] == names
    features = run(tmp_path, pixels := open_extractor("pixels"))
    assert features.names == tuple(names)
    expected = torch.cat([pixels(read_image(tmp_path / name)[None]) for name in names])
    torch.testing.assert_close(features.values, expected)
    assert features.extractor == pixels.describe()


@pytest.mark.parametrize("batch_size, workers", [(1, 1), (2, 2), (7, 3), (50, 1)])
def test_batches_and_threads_change_nothing(tmp_path, batch_size, workers):
    random = open_extractor("random")
    one, other = run(fill(tmp_path), random), run(tmp_path, random, batch_size=batch_size, workers=workers)
    torch.testing.assert_close(one.values, other.values, rtol=1e-5, atol=1e-5)
    assert one.images_sha256 == other.images_sha256


def test_arrays_are_sets_of_images():
    images = np.stack([array(i) for i in range(4)])
    features = run(images, pixels := open_extractor("pixels"))
    torch.testing.assert_close(features.values, pixels(torch.from_numpy(images).permute(0, 3, 1, 2)))
    assert len(set(features.images_sha256)) == 4
    with pytest.raises(ValueError, match="NaN"):
        run(torch.full((2, 3, 8, 8), float("nan")), pixels)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_8_bit_mode_is_supported(tmp_path, mode):
    image = Image.fromarray(array(1)).convert(mode)
    image.save(path := tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"))
    pixels = read_image(path)
    assert pixels.shape == (3, 20, 24)
    assert pixels.dtype == torch.uint8
    if mode in ("L", "RGBA", "P"):
        assert torch.equal(pixels, torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def test_transparent_files_are_composited_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png") == 255).all()


def test_unreadable_images_are_skipped_and_named(tmp_path):
    fill(tmp_path, 3)
    whole = (tmp_path / "b" / "1.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.full((8, 8), 2.0, np.float32)).save(tmp_path / "deep.png", "TIFF")
    features = run(tmp_path, open_extractor("pixels"))
    assert [s.partition(":")[0] for s in features.skipped] == ["cut.png", "deep.png", "empty.png", "text.png"]
    assert "8 bits" in features.skipped[1]
    assert str(tmp_path) not in " ".join(features.skipped)
    assert len(features) == 3
    for path in image_files(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 7 images"):
        run(tmp_path, open_extractor("pixels"))


def test_black_images_are_counted(tmp_path):
    Image.new("RGB", (8, 8)).save(fill(tmp_path, 2) / "black.png")
    Image.new("RGB", (8, 8), (0, 0, 1)).save(tmp_path / "nearly.png")
    features = run(tmp_path, open_extractor("pixels"))
    assert (features.black, len(features)) == (("black.png",), 4)


def test_mixed_formats_need_allow_mixed(tmp_path):
    Image.fromarray(array(9)).save(fill(tmp_path, 2) / "x.JPG", format="JPEG")
    with pytest.raises(ValueError, match="mixes JPEG and PNG"):
        run(tmp_path, open_extractor("pixels"))
    assert len(run(tmp_path, open_extractor("pixels"), allow_mixed=True)) == 3


def test_folders_without_images_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images in"):
        image_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        image_files(tmp_path / "none")
    with pytest.raises(ValueError, match="at least 1"):
        run(fill(tmp_path), open_extractor("pixels"), workers=0)


# --- several processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_shards_contain_every_item_once(world):
    items = [f"{i}" for i in range(7)]
    parts = [shard(items, rank, world) for rank in range(world)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match="at least 0 and below world"):
        shard(items, world, world)


@pytest.mark.parametrize("world", [1, 2, 9])
def test_interleave_is_the_inverse_of_shard(tmp_path, world):
    """Also for fewer items than processes; an unreadable image keeps its place."""
    (fill(tmp_path) / "cut.png").write_bytes(b"")
    one, items = run(tmp_path, pixels := open_extractor("pixels")), items_of(tmp_path)
    parts = [extract_items(shard(items, rank, world), pixels, progress=False) for rank in range(world)]
    together = collect(interleave(parts), pixels)
    assert len(together) == 7
    assert (together.names, together.images_sha256, together.skipped) == (one.names, one.images_sha256, one.skipped)
    assert torch.equal(together.values, one.values)
    assert interleave([shard(range(7), rank, world) for rank in range(world)]) == list(range(7))


# --- the cache ------------------------------------------------------------------------------------------------------


def test_the_cache_is_used_only_for_unchanged_images_and_extractors(tmp_path):
    folder, cache = fill(tmp_path / "set"), tmp_path / "cache"
    first = run(folder, counting := Counting(), cache=cache)
    again = run(folder, counting, cache=cache)
    assert counting.embedded == 7
    assert torch.equal(first.values, again.values)
    assert (first.names, first.images_sha256) == (again.names, again.images_sha256)

    pixels = array(3, 21)
    pixels[0, 0, 0] ^= 1  # one bit
    Image.fromarray(pixels).save(folder / "a" / "3.png")
    changed = run(folder, counting, cache=cache)
    assert counting.embedded == 8
    assert [a == b for a, b in zip(first.images_sha256, changed.images_sha256, strict=True)].count(False) == 1
    torch.testing.assert_close(changed.values, run(folder, Counting()).values)
    for other in (Counting(weights="1" * 64), Counting(preprocessing="area-33")):
        run(folder, other, cache=cache)
        assert other.embedded == 7
    assert not list(cache.rglob("*.part"))


def test_a_damaged_cache_is_recomputed_with_a_note(tmp_path, capsys):
    """For any changed byte or truncation: the features are the network's, and the cache is repaired."""
    folder, cache = fill(tmp_path / "set", 3), tmp_path / "cache"
    first = run(folder, Counting(), cache=cache)
    (path,) = cache.rglob("*.safetensors")
    whole = path.read_bytes()
    places = [*range(0, 400, 13), *range(400, len(whole), 4999), len(whole) - 1]
    damaged = [whole[:i] + bytes([whole[i] ^ 0x40]) + whole[i + 1 :] for i in places] + [whole[:50], whole[:-4], b""]
    for content in damaged:
        path.write_bytes(content)
        note.cache_clear()
        again = run(folder, counting := Counting(), cache=cache)
        assert torch.equal(again.values, first.values)
        assert counting.embedded == 3
        assert "are damaged" in capsys.readouterr().err
        assert path.read_bytes() == whole
    run(folder, counting := Counting(), cache=cache)
    assert counting.embedded == 0


def test_the_digest_of_an_image_depends_on_pixels_and_shape_only(tmp_path):
    Image.fromarray(array(1)).save(tmp_path / "x.png", compress_level=0)
    Image.fromarray(array(1)).save(tmp_path / "y.png", compress_level=9)
    x, y = read_image(tmp_path / "x.png"), read_image(tmp_path / "y.png")
    assert image_digest(x) == image_digest(y)
    assert image_digest(x) != image_digest(x.reshape(3, 24, 20))


# --- reference statistics -------------------------------------------------------------------------------------------


@pytest.fixture
def known() -> Features:
    about = {"name": "tiny", "dim": 4, "preprocess_id": "area-2", "weights_sha256": "ab" * 32}
    return Features(torch.randn(9, 4), about, tuple(f"{i:064x}" for i in range(9)))


def test_saved_statistics_load_unchanged(tmp_path, known):
    path = tmp_path / "deep" / "x.npz"
    save_reference(path, known, "nine tests", keep_features=True)
    loaded = load_reference(path, known.extractor)
    assert torch.equal(loaded.features, known.values)
    assert frechet_distance(loaded.gaussian, known.values) == pytest.approx(0, abs=1e-9)
    assert (loaded.count, loaded.source) == (9, "nine tests")
    assert loaded.extractor == known.extractor
    assert (loaded.mismatches, len(loaded.sha256)) == ((), 64)
    save_reference(tmp_path / "y.npz", known, "moments")
    moments = load_reference(tmp_path / "y.npz", known.extractor)
    assert moments.features is None
    assert torch.equal(moments.gaussian.cov, loaded.gaussian.cov)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "other"}, "computed with name tiny, not other"),
        ({"preprocess_id": "area-3"}, "preprocess_id area-2"),
        ({"weights_sha256": "cd" * 32}, "weights_sha256 abab"),
    ],
)
def test_statistics_of_another_extractor_raise(tmp_path, known, change, message):
    save_reference(path := tmp_path / "x.npz", known, "nine tests")
    with pytest.raises(ValueError, match=message):
        load_reference(path, known.extractor | change)
    allowed = load_reference(path, known.extractor | change, allow_mismatch=True)
    assert len(allowed.mismatches) == 1
    with pytest.raises(ValueError, match="dimensions"):
        load_reference(path, known.extractor | {"dim": 5}, allow_mismatch=True)


def test_files_without_statistics_raise(tmp_path, known):
    about, path = known.extractor, tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError, match="no statistics"):
        load_reference(path, about)
    np.savez(path, mean=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="contains pickled objects, which could run code"):
        load_reference(path, about)
    np.savez(path, mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(ValueError, match="no metadata that names its extractor"):
        load_reference(path, about)
    path.write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="damaged"):
        load_reference(path, about)


def test_altered_statistics_raise(tmp_path, known):
    save_reference(path := tmp_path / "x.npz", known, "nine tests")
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    assert json.loads(str(arrays["metadata"]))["count"] == 9
    arrays["cov"] = arrays["cov"] * 2
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="do not match the hash in its metadata"):
        load_reference(path, known.extractor, allow_mismatch=True)


def test_invalid_statistics_are_not_written(tmp_path, known):
    one = Features(known.values[:1], known.extractor, known.images_sha256[:1])
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        save_reference(tmp_path / "x.npz", one, "?")
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        save_reference(tmp_path / "x.json", known, "?")
    assert not list(tmp_path.iterdir())
