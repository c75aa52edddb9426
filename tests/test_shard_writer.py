"""Shards that were written are read back as the same images and captions."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.cli import main
from t2i.data import open_source
from t2i.data.base import ItemError, caption_lists
from t2i.data.image_source import ImageSource
from t2i.data.shard_writer import write_shards

CAPTIONS = ["one", "two\nlines", " a space", "", "日本", "\ufeffmark", ["first", "second\n"], "last"]


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images in several formats, one of them damaged, and captions of all kinds."""
    made = tmp_path / "photos"
    made.mkdir()
    suffixes = (".png", ".jpg", ".webp", ".gif", ".bmp", ".tif", ".JPEG", "")
    for i, suffix in enumerate(suffixes):
        level = Image.new("RGB", (10, 8), (30 * i, 0, 0))
        level.save(made / f"{i}{suffix}", None if suffix else "jpeg")
    (made / "5.tif").write_bytes(b"damaged")
    rows = [{"file_name": f"{i}{suffix}", "text": CAPTIONS[i]} for i, suffix in enumerate(suffixes)]
    (made / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def files(source: ImageSource) -> list[bytes]:
    """The image files as they are."""
    found = [source.file(i)[0] for i in range(len(source))]
    return [file if isinstance(file, bytes) else Path(file).read_bytes() for file in found]


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_and_captions_are_those_of_the_source(folder, tmp_path):
    source = open_source(str(folder), 8)
    out, again = tmp_path / "out", tmp_path / "again"
    assert write_shards(source, out, shard_size=3) == len(source)
    shards = open_source(str(out), 8)
    assert sorted(path.name for path in out.iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]
    assert [*caption_lists(shards, 8)] == [*caption_lists(source, 8)]
    assert [text for text in caption_lists(shards, 8)][6] == ("first", "second\n")
    assert files(shards) == files(source)
    for i in (0, 1, 2, 7):
        assert np.array_equal(shards[i]["image"], source[i]["image"])
    write_shards(shards, again, shard_size=3)
    assert bytes_in(again) == bytes_in(out)


def test_plain_captions_are_text_files_that_other_programs_read(folder, tmp_path):
    write_shards(open_source(str(folder), 8), tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        names = tar.getnames()
        assert names[:4] == ["000000000.png", "000000000.txt", "000000001.jpg", "000000001.json"]
        assert tar.extractfile("000000000.txt").read() == b"one" and names[-2:] == ["000000007.jpg", "000000007.txt"]
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


def saved(folder: Path, captions: list[str | None]) -> str:
    """A data set of images whose levels are their numbers."""
    from datasets import Dataset, Features, Image, Value

    features = Features({"image": Image(), "text": Value("string")})
    levels = [np.full((8, 8, 3), i, np.uint8) for i in range(len(captions))]
    Dataset.from_dict({"image": levels, "text": captions}, features=features).save_to_disk(folder)
    return str(folder)


def test_images_without_a_valid_caption_are_left_out_and_counted(tmp_path, capsys):
    data = saved(tmp_path / "saved", ["a", None, None, "d"])
    main(["data", "shard", data, "--shard-size", "2", "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert "note: 2 images are left out; the first: the caption of image 1 in" in said.err
    assert "out: 2 images in 2 shards" in said.out
    shards = open_source(str(tmp_path / "out"), 8)
    assert [(shards[i]["text"], int(shards[i]["image"].max())) for i in range(len(shards))] == [("a", 0), ("d", 3)]
    main(["data", "shard", data, "--shard-size", "1", "--out", str(tmp_path / "single")])  # two are empty
    assert list(open_source(str(tmp_path / "single"), 8).captions(9)) == ["a", "d"]
    source = open_source(saved(tmp_path / "late", [None, "b"]), 8)
    with pytest.raises(ItemError, match="the caption of image 0 in column 'text' is no text"):
        write_shards(source, tmp_path / "none", num=1)
    assert not (tmp_path / "none").exists()


def test_data_sets_keep_their_encoded_images(tmp_path):
    source = open_source(saved(tmp_path / "saved", ["a", "b", "c"]), 8)
    write_shards(source, tmp_path / "out")
    shards = open_source(str(tmp_path / "out"), 8)
    assert files(shards) == files(source) and list(shards.captions(9)) == ["a", "b", "c"]


def test_rendered_images_are_written_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(
        ["data", "shard", "toybox-v1", "--num", "5", "--size", "32", "--shard-size", "2", "--seed", "3", "--out", "out"]
    )
    assert "out: 5 images in 3 shards" in capsys.readouterr().out
    shards, toybox = open_source("out", 32), open_source("toybox-v1", 32, seed=3)
    assert len(shards) == 5
    for i in range(5):
        assert np.array_equal(shards[i]["image"], toybox[i]["image"]) and shards[i]["text"] == toybox[i]["text"]


def test_an_interrupted_command_leaves_nothing(folder, tmp_path, monkeypatch):
    source = open_source(str(folder), 8)
    monkeypatch.setattr(source, "texts_of", lambda index: ("x",) if index < 5 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_shards(source, tmp_path / "out", shard_size=2)
    assert not list(tmp_path.glob("*out*"))


def test_what_is_there_is_not_overwritten(folder, tmp_path):
    with pytest.raises(FileExistsError, match="photos exists and is not an empty folder"):
        write_shards(open_source(str(folder), 8), folder)
    (tmp_path / "empty").mkdir()
    assert write_shards(open_source(str(folder), 8), tmp_path / "empty", num=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give the data: t2i data shard SOURCE"),
        (["FOLDER"], "give the output folder: --out DIR"),
        (["FOLDER", "--out", "out", "--size", "64"], "--size has no effect on .*photos"),
        (["toybox-v1", "--out", "out"], "give the side of the images of toybox-v1 in pixels: --size"),
        (["FOLDER", "--out", "out", "--shard-size", "0"], "--shard-size must be at least 1"),
        (["FOLDER", "--out", "out", "--seed", "1"], "--seed has no effect on .*photos, only on toybox"),
        (
            ["toybox-v1", "--out", "out", "--size", "32", "--caption-column", "x"],
            "--image-column and --caption-column have no effect on toybox-v1",
        ),
        (["nothing", "--out", "out"], "there is no folder 'nothing'"),
    ],
)
def test_invalid_options_are_named(folder, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=said):
        main(["data", "shard", *(str(folder) if word == "FOLDER" else word for word in options)])
    assert not (tmp_path / "out").exists()
