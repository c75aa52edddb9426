"""Images rendered in advance equal those rendered on demand."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from t2i.data.rendered import Rendered
from t2i.data.sources import open_source
from t2i.data.toybox_v1 import Toybox, export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export(tmp_path_factory.mktemp("data") / "toybox", 12, seed=3, layout="array")


def test_an_array_of_images_is_a_source(folder):
    source, toybox = open_source(str(folder), 64), Toybox("train", seed=3, num=12)
    assert len(source) == 12 and list(source.captions(12)) == list(toybox.captions(12))
    for sent in (source, pickle.loads(pickle.dumps(source))):
        for i in (0, 11):
            assert np.array_equal(sent[i]["image"], toybox[i]["image"]) and sent[i]["text"] == toybox[i]["text"]
    source[0]["image"][:] = 0  # a copy: the file is unchanged
    assert source[0]["image"].any()


def test_a_changed_image_or_caption_has_another_fingerprint(folder, tmp_path):
    first = Rendered(folder, 64).fingerprint()
    images, lines = np.load(folder / "images.npy"), (folder / "metadata.jsonl").read_text()
    images[7, 3, 2, 1] ^= 1
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "metadata.jsonl").write_text(lines)
    changed = Rendered(tmp_path, 64).fingerprint()
    np.save(tmp_path / "images.npy", np.load(folder / "images.npy"))
    assert Rendered(tmp_path, 64).fingerprint() == first != changed
    (tmp_path / "metadata.jsonl").write_text(lines.replace('"text": "a', '"text": "b'))
    assert Rendered(tmp_path, 64).fingerprint() not in (first, changed)
    (tmp_path / "images.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"images\.npy is damaged or cut short"):
        Rendered(tmp_path, 64)


def test_another_size_and_missing_captions_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"images.npy .* --size 32"):
        open_source(str(folder), 32)
    (tmp_path / "images.npy").write_bytes((folder / "images.npy").read_bytes())
    (tmp_path / "metadata.jsonl").write_text('{"text": "a cat"}\n')
    with pytest.raises(ValueError, match="not 1 images"):
        Rendered(tmp_path, 64)
