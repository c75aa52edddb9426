"""`t2i data filter`: CLIP scores of captions, and the images that reach a minimum, as shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusion_parts import save_clip
from PIL import Image

from t2i.checks import UsageError
from t2i.cli import main
from t2i.data.base import caption_lists
from t2i.data.folder import ImageFolder
from t2i.data.sources import open_source
from t2i.data.toybox_v1 import Toybox
from t2i.pipelines import clip_filter
from t2i.pipelines.clip_filter import CaptionScores, MatchingImages, clip_scores
from t2i.pipelines.reranking import open_reranker
from t2i.text.clip_embeddings import open_clip_model

NUM, SIZE = 11, 16
UNREADABLE = 5


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Scenes with their captions, every second one also with that of another scene, and a file that is no image."""
    made, world, rows = tmp_path / "photos", Toybox("train", SIZE, 0, NUM + 1, "single"), []
    made.mkdir()
    for i in range(NUM):
        text = world[i]["text"]
        Image.fromarray(world[i]["image"]).save(made / f"{i:02}.png")
        rows.append({"file_name": f"{i:02}.png", "text": [text, world[i + 1]["text"]] if i % 2 else text})
    (made / f"{UNREADABLE:02}.png").write_bytes(b"no image")
    (made / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"))


class Watched(ImageFolder):
    """A folder that notes which images are read, and is interrupted at one of them."""

    stops_at = NUM

    def __getitem__(self, index: int) -> dict:
        if index >= self.stops_at:
            raise KeyboardInterrupt
        self.seen = [*getattr(self, "seen", []), index]
        return super().__getitem__(index)


def scored(folder: Path, clip: str) -> CaptionScores:
    return clip_scores(open_source(folder, SIZE), open_clip_model(clip), workers=0)


def test_scores_are_the_cosines_of_images_and_captions(folder, clip):
    scores, source = scored(folder, clip), open_source(folder, SIZE)
    assert scores.counts.tolist() == [0 if i == UNREADABLE else 1 + i % 2 for i in range(NUM)]
    score, start = open_reranker(clip, torch.device("cpu")), 0
    for i, texts in enumerate(caption_lists(source, NUM)):
        if i != UNREADABLE:
            image = Image.fromarray(source[i]["image"])
            wanted = score(list(texts), [image] * len(texts))
            assert np.allclose(scores.values[start : start + len(texts)], wanted, atol=1e-5)
            start += len(texts)
    assert start == len(scores.values)


def test_scoring_continues_after_the_last_complete_part(folder, clip, monkeypatch):
    monkeypatch.setattr(clip_filter, "PART", 4)
    model, whole = open_clip_model(clip), scored(folder, clip)
    Image.new("RGB", (SIZE, SIZE)).save(folder / "10.png")  # other data: another cache
    stopped, again = Watched(folder, SIZE), Watched(folder, SIZE)
    stopped.stops_at = 6
    with pytest.raises(KeyboardInterrupt):
        clip_scores(stopped, model, workers=0)
    found = clip_scores(again, model, workers=0)
    assert again.seen == list(range(4, NUM))
    assert np.array_equal(found.values[:-1], whole.values[:-1]) and found.values[-1] != whole.values[-1]
    later = Watched(folder, SIZE)
    assert np.array_equal(clip_scores(later, model, workers=0).values, found.values) and not hasattr(later, "seen")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_exactly_what_reaches_the_minimum_is_kept(folder, clip, tmp_path, capsys, workers):
    scores, source = scored(folder, clip), open_source(folder, SIZE)
    least = sorted(scores.values)[6]
    limit = ["--min-score", repr(float(least)), "--out", str(tmp_path / "shards"), "--workers", workers]
    main(["data", "filter", str(folder), "--clip", clip, *limit])
    own = np.split(scores.values, np.cumsum(scores.counts)[:-1])
    wanted = [
        tuple(text for text, score in zip(texts, of_image, strict=True) if score >= least)
        for texts, of_image in zip(caption_lists(source, NUM), own, strict=True)
        if len(of_image)
    ]
    wanted = [texts for texts in wanted if texts]
    kept = open_source(tmp_path / "shards", SIZE)
    assert [*caption_lists(kept, NUM)] == wanted and sum(map(len, wanted)) == len(scores.values) - 6
    by_caption = {source.texts_of(i)[0]: source[i]["image"] for i in range(NUM) if i != UNREADABLE}
    assert any(np.array_equal(kept[0]["image"], image) for image in by_caption.values())
    said = capsys.readouterr()
    assert f"{len(wanted)} of 11 images, with {len(scores.values) - 6} of {len(scores.values)} captions" in said.out
    assert "1 image of" in said.err and "unreadable, or without a caption" in said.err
    assert f"{scores.values.min():.4f}" in said.out and f"{scores.values.max():.4f}" in said.out


def test_without_a_minimum_quantiles_are_printed_and_nothing_is_written(folder, clip, tmp_path, capsys):
    main(["data", "filter", str(folder), "--clip", clip, "--workers", "0"])
    assert "50 %" in (said := capsys.readouterr().out) and "--min-score X --out DIR" in said
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "cache"}
    with pytest.raises(ValueError, match=r"^no caption has a score of 1 or more: the highest is -?0\.\d{4}$"):
        MatchingImages(open_source(folder, SIZE), scored(folder, clip), 1.0)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--clip", "toybox/clip"], "give the data and a CLIP"),
        (["photos"], "give the data and a CLIP"),
        (["photos", "--clip", "toybox/clip", "--out", "x"], "give --min-score and --out together"),
        (["photos", "--clip", "toybox/clip", "--shard-size", "5"], "--shard-size has no effect without --out"),
        (["photos", "--clip", "c", "--out", "x", "--min-score", "2"], r"--min-score must lie in \[-1, 1\], not 2"),
        (["toybox-v1", "--clip", "CLIP"], "not read from files: there is nothing to filter"),
    ],
)
def test_bad_arguments_raise(tmp_path, clip, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    from t2i.pipelines.commands.filter_data import main as filter_data

    with pytest.raises(UsageError, match=says):
        filter_data([clip if word == "CLIP" else word for word in args])


def test_a_clip_that_is_not_there_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"^there is no CLIP: .*nowhere.*; t2i train clip-toybox trains one"):
        open_clip_model(str(folder.parent / "nowhere"))


def test_scores_are_of_one_preprocessing(clip, tmp_path):
    """They are cached under a fingerprint, which is not that of the weights alone."""
    changed = shutil.copytree(clip, tmp_path / "clip")
    config = json.loads((changed / "preprocessor_config.json").read_text())
    (changed / "preprocessor_config.json").write_text(json.dumps(config | {"image_mean": [0.1, 0.2, 0.3]}))
    assert open_clip_model(str(changed)).fingerprint() != open_clip_model(str(clip)).fingerprint()


def test_a_run_stands_for_its_newest_checkpoint_at_each_call(clip, tmp_path):
    shutil.copytree(clip, tmp_path / "run" / "checkpoint-1")
    first = open_clip_model(str(tmp_path / "run"))
    assert open_clip_model(str(tmp_path / "run")) is first
    shutil.copytree(clip, tmp_path / "run" / "checkpoint-2")
    assert open_clip_model(str(tmp_path / "run")).source.endswith("checkpoint-2")
