"""Shards are a source like the folder that they were made from, at any place, and take no memory for their images."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import tarfile
import tracemalloc
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from PIL import Image

from t2i.data import open_source
from t2i.data.base import ItemError
from t2i.data.loading import load_batches
from t2i.data.shard_names import expand_braces
from t2i.data.shards import ABOUT, MEMBERS, Shards
from t2i.data.unreadable import skip_unreadable
from t2i.files import write_json
from t2i.notes import note
from t2i.training.config import DataConfig


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    note.cache_clear()


def image(level: int, form: str = "png") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 8), (level, 0, 255 - level)).save(file, form)
    return file.getvalue()


def shard(path: Path, members: dict[str, bytes | str], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(first: int, count: int) -> dict[str, bytes | str]:
    """Images whose levels are their numbers, and captions."""
    made: dict[str, bytes | str] = {}
    for i in range(first, first + count):
        made |= {f"{i:04}.png": image(i), f"{i:04}.txt": f"thing {i}\n"}
    return made


def three(folder: Path) -> Path:
    """Three shards with 4, 1 and 5 images."""
    for k, (first, count) in enumerate(((0, 4), (4, 1), (5, 5))):
        shard(folder / f"{k:03}.tar", samples(first, count))
    return folder


def content(source) -> list[tuple[int, str]]:
    items = [source[i] for i in range(len(source))]
    assert [item["text"] for item in items] == list(source.captions(len(source)))
    return [(int(item["image"][0, 0, 0]), item["text"]) for item in items]


def test_a_number_is_a_shard_and_a_place_in_it(tmp_path):
    folder = three(tmp_path / "set")
    expected = [(i, f"thing {i}") for i in range(10)]
    for name in (folder, folder / "{000..002}.tar", folder / "{000,001,002}.tar", f"file://{folder}"):
        source = open_source(str(name), 8)
        assert len(source) == 10 and content(source) == expected
        assert source[3]["image"].shape == (8, 8, 3) and source[3]["image"].dtype == np.uint8
    assert content(open_source(str(folder / "001.tar"), 8)) == expected[4:5]
    with pytest.raises(IndexError):
        source[10]


def test_captions_at_urls_are_requested_together(tmp_path, monkeypatch):
    source = open_source(f"file://{three(tmp_path / 'set')}", 8)
    system = type(fsspec.filesystem("file"))
    requests, cat_ranges = [], system.cat_ranges
    monkeypatch.setattr(system, "cat_ranges", lambda *args, **more: requests.append(args) or cat_ranges(*args, **more))
    assert list(source.captions(7)) == [f"thing {i}" for i in range(7)]
    assert len(requests) == 1 and len(requests[0][1]) == 7
    assert source[9]["text"] == "thing 9" and len(requests) == 2
    monkeypatch.setattr("t2i.data.shards.AT_ONCE", 4)
    assert list(source.captions(99)) == [f"thing {i}" for i in range(10)] and len(requests) == 5


def test_urls_are_opened_by_fsspec(tmp_path):
    memory = fsspec.filesystem("memory")
    for path in three(tmp_path / "set").iterdir():
        memory.pipe(f"/set/{path.name}", path.read_bytes())
    try:
        local = open_source(str(tmp_path / "set"), 8)
        for name in ("memory://set/{000..002}.tar", "memory://set"):
            source = open_source(name, 8)
            assert content(source) == content(local) and source.fingerprint() == local.fingerprint()
    finally:
        memory.rm("/set", recursive=True)
    with pytest.raises(FileNotFoundError, match="there is no shard memory://set/000"):
        open_source("memory://set/000.tar", 8)
    with pytest.raises(FileNotFoundError, match=r"no tar files at memory://set"):
        open_source("memory://set", 8)
    with pytest.raises(ValueError, match=r"nowhere://a.tar cannot be opened"):
        open_source("nowhere://a.tar", 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_workers_read_what_one_process_reads(tmp_path, workers):
    source = open_source(str(three(tmp_path / "set")), 8)
    source[0]  # opens a file, which forked workers must not share
    sent = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 2000
    order = random.Random(0).sample(range(10), 10)
    for one in (source, sent):
        batches = load_batches(one, batch_sampler=[order[:5], order[5:]], num_workers=workers)
        assert [text for batch in batches for text in batch["text"]] == [f"thing {i}" for i in order]


def test_captions_are_texts_or_a_column_of_json(tmp_path):
    members = {
        "a.jpg": image(1, "jpeg"),
        "a.json": json.dumps({"text": "of a", "url": "x"}),
        "in/b.webp": image(2, "webp"),
        "in/b.txt": "\ufefftwo\r\nlines",
        "in/b.json": json.dumps({"text": "not this", "url": "y"}),
        "c.png": image(3),
        "c.json": json.dumps({"text": ["one", "two"], "url": "z"}),
        "._c.png": b"of a Mac",
    }
    file = str(shard(tmp_path / "a.tar", members))
    source = open_source(file, 8)
    assert list(source.captions(9)) == ["of a", "two lines", "one"]
    assert list(source.caption_lists(9))[2] == source[2]["texts"] == ("one", "two") and "texts" not in source[0]
    assert list(open_source(file, 8, caption_column="url").captions(2)) == ["x", "y"]


def test_a_name_ends_at_its_first_dot(tmp_path):
    """As in WebDataset."""
    members = {"1.png": image(1), "1.seg.png": image(9), "1.txt": "one", "1.seg.txt": "a segmentation"}
    members |= {"v1.5/2.JPG": image(2, "jpeg"), "v1.5/2.json": '{"text": "two"}', "v1.6/2.txt": "other"}
    source = open_source(str(shard(tmp_path / "a.tar", members)), 8)
    assert list(source.captions(9)) == ["one", "two"] and int(source[0]["image"][0, 0, 0]) == 1
    with pytest.raises(FileNotFoundError, match="where NAME has no dots"):
        open_source(str(shard(tmp_path / "b.tar", {"1.a.png": image(1), "1.a.txt": "x"})), 8)


@pytest.fixture
def at_url(tmp_path, monkeypatch) -> str:
    """The URL of three shards."""
    monkeypatch.setattr("t2i.data.urls.PAUSES", (0, 0))
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    for path in three(tmp_path / "set").iterdir():
        fsspec.filesystem("memory").pipe(f"/set/{path.name}", path.read_bytes())
    return "memory://set"


class Fault(Exception):
    """As raised by libraries of network protocols, whose classes have no common base."""


def fails(monkeypatch, owner: type, name: str, times: int) -> None:
    """The method raises a Fault so many times."""
    method, faults = getattr(owner, name), [Fault("timed out")] * times

    def failing(*args, **options):
        if faults:
            raise faults.pop()
        return method(*args, **options)

    monkeypatch.setattr(owner, name, failing)


STEPS = [(MemoryFileSystem, name) for name in ("glob", "info", "open", "cat_file")] + [(MemoryFile, "read")]


@pytest.mark.parametrize(("owner", "name"), STEPS)
def test_reads_at_urls_are_tried_again(at_url, monkeypatch, owner, name):
    fails(monkeypatch, owner, name, 2)
    assert content(open_source(at_url, 8)) == [(i, f"thing {i}") for i in range(10)]


@pytest.mark.parametrize(("owner", "name"), STEPS)
def test_a_fault_that_lasts_names_the_url(at_url, monkeypatch, owner, name):
    fails(monkeypatch, owner, name, 99)
    with pytest.raises(OSError, match=r"^memory:///?set.* cannot be read \(timed out\); check the connection"):
        open_source(at_url, 8)


def test_a_fault_does_not_make_an_image_unreadable(at_url, monkeypatch):
    source = skip_unreadable(open_source(at_url, 8))
    fails(monkeypatch, MemoryFileSystem, "cat_file", 99)
    with pytest.raises(OSError, match=r"^memory:///set/001.tar cannot be read"):
        source[4]


def test_a_server_that_gives_whole_files_only_is_said_at_the_start(at_url, tmp_path, monkeypatch):
    def seek(file, offset, whence=0):
        raise ValueError("Cannot seek streaming HTTP file")

    monkeypatch.setattr(MemoryFile, "seek", seek, raising=False)
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda self, path, *_, **__: MemoryFile(self, path, b""))
    with pytest.raises(ValueError, match=r"the server of memory:///set/000.tar gives whole files only, .*: download"):
        open_source(at_url, 8)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["ETag", "Content-MD5", "Last-Modified", "LastModified", "mtime", "generation"])
def test_an_index_is_made_anew_where_only_the_server_says_that_a_shard_changed(at_url, monkeypatch, name):
    info, said = MemoryFileSystem.info, {name: "a"}
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *args, **options: info(*args, **options) | said)
    monkeypatch.setattr(MemoryFileSystem, "ukey", lambda self, path: path)  # as of HTTP
    first = open_source(at_url, 8).index
    assert open_source(at_url, 8).index == first
    said[name] = "b"
    assert open_source(at_url, 8).index != first


def test_images_at_urls_are_not_downloaded_to_be_measured(at_url, tmp_path):
    with pytest.raises(
        ValueError, match=r"memory://set is at a URL, .*before you make the shards, and leave out --min"
    ):
        DataConfig(at_url, image_size=8, min_image_side=9).open(seed=0)
    assert not (tmp_path / "cache").exists()


def test_order_and_distance_of_members_do_not_matter(tmp_path):
    members = [*samples(0, 6).items()]
    random.Random(1).shuffle(members)
    source = open_source(str(shard(tmp_path / "a.tar", dict(members))), 8)
    assert sorted(content(source)) == [(i, f"thing {i}") for i in range(6)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_names(tmp_path, form):
    name = "é" * 40 + "/" + "x" * 90
    source = open_source(str(shard(tmp_path / "a.tar", {f"{name}.png": image(5), f"{name}.txt": "y"}, format=form)), 8)
    assert content(source) == [(5, "y")]


def test_an_unusable_sample_is_named(tmp_path):
    members = {"a.png": b"", "a.txt": "x", "b.png": image(1), "c.png": image(2), "c.json": "[]"}
    members |= {"d.png": image(3), "d.json": '{"text": null}', "e.png": image(4), "e.txt": b"caf\xe9"}
    source = open_source(str(shard(tmp_path / "a.tar", members)), 8)
    why = ["a.png is empty", "b.png has no caption; write", "c.png has no caption: it is no object"]
    why += ["d.png has no caption: its JSON: 'text' is no text but null", "e.txt is not UTF-8"]
    for i, said in enumerate(why):
        with pytest.raises(ItemError, match=f"a.tar/{said}"):
            source[i]
    assert list(source.captions(5)) == ["x", "", "", "", ""]
    assert open_source(str(tmp_path / "a.tar"), 8, captions=False)[1]["text"] == ""


def test_shards_without_images_or_captions_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there are no images in .*a.tar; give shards with"):
        open_source(str(shard(tmp_path / "a.tar", {"a.txt": "x"})), 8)
    with pytest.raises(FileNotFoundError, match=r"no image of .*b.tar has a .txt or .json file"):
        open_source(str(shard(tmp_path / "b.tar", {"a.png": image(0)})), 8)
    file = str(shard(tmp_path / "c.tar", samples(0, 2)))
    with pytest.raises(FileNotFoundError, match=r"no image of .*c.tar has a .json file"):
        open_source(file, 8, caption_column="caption")
    described = str(shard(tmp_path / "e.tar", {"a.png": image(0), "a.json": '{"text": "x"}'}))
    with pytest.raises(ItemError, match=r"a.png has no caption: its JSON has no 'caption', only: text"):
        open_source(described, 8, caption_column="caption")
    with pytest.raises(ValueError, match="leave out --image-column jpg"):
        open_source(file, 8, image_column="jpg")
    with pytest.raises(FileNotFoundError, match=r"there is no shard .*d1.tar"):
        open_source(str(tmp_path / "d{1..2}.tar"), 8)


@pytest.mark.parametrize("wrong", ["/a.png", "../a.png", "b/../../a.png"])
def test_names_outside_of_the_folder_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="lies outside of the folder"):
        open_source(str(shard(tmp_path / "a.tar", {wrong: image(0), "a.txt": "x"})), 8)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ValueError, match=r"holds a.png, which is a link or no plain file; remove it"):
        open_source(str(tmp_path / "a.tar"), 8)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_in_the_last_image(data: bytes) -> bytes:
    return data[: data.index(b"0003.png") + 512 + 20]


def overwritten(data: bytes) -> bytes:
    at = data.index(b"0002.png")
    return data[:at] + b"\xff" * 512 + data[at + 512 :]


@pytest.mark.parametrize("damage", [cut, cut_in_the_last_image, overwritten, lambda data: b"", lambda data: b"x" * 999])
def test_damaged_shards_are_named_and_leave_no_index(tmp_path, damage):
    path = shard(tmp_path / "a.tar", samples(0, 4))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"a.tar is damaged, cut short, compressed or no tar file"):
        open_source(str(path), 8)
    assert not list((tmp_path / "cache" / "t2i" / "shards").iterdir())


def test_an_index_is_made_once_and_anew_for_changed_shards(tmp_path, capsys):
    folder = three(tmp_path / "set")
    first = open_source(str(folder), 8)
    assert "index of 10 images in the 3 shards" in capsys.readouterr().err
    assert open_source(str(folder), 8).index == first.index and not capsys.readouterr().err
    path = folder / "001.tar"
    path.write_bytes(path.read_bytes().replace(b"thing 4", b"thing 9"))  # of equal length
    os.utime(path, ns=(1, 1))
    again = open_source(str(folder), 8)
    assert again.index != first.index and again[4]["text"] == "thing 9"
    assert again.fingerprint() != first.fingerprint()


def test_the_fingerprint_is_of_the_content(tmp_path):
    first = open_source(str(three(tmp_path / "a")), 8).fingerprint()
    assert len(first) == 64 and open_source(str(three(tmp_path / "b")), 8).fingerprint() == first
    assert open_source(str(tmp_path / "b"), 9).fingerprint() != first
    changed = samples(4, 1) | {"0004.png": image(77)}
    assert len(changed["0004.png"]) == len(image(4))
    shard(tmp_path / "b" / "001.tar", changed)
    assert open_source(str(tmp_path / "b"), 8).fingerprint() != first


def test_a_shard_that_changes_under_a_run_is_said(tmp_path):
    source = open_source(str(three(tmp_path / "set")), 8)
    (tmp_path / "set" / "002.tar").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"002.tar has changed or is cut short"):
        source[7]


def test_ten_million_images_take_no_memory(tmp_path):
    """An index of 1,000 shards with 10⁷ samples, in a file with holes; its last sample is real."""
    path, num, shards = shard(tmp_path / "a.tar", samples(7, 1)), 10**7, 1000
    real = open_source(str(path), 8)
    index = tmp_path / "index"
    index.mkdir()
    members = np.memmap(index / MEMBERS, np.int64, "w+", shape=(num, 3, 2))
    members[num - 1] = real._members[0]
    starts = [k * num // shards for k in range(shards + 1)]
    write_json(index / ABOUT, {"starts": starts, "sha256": "", "captions": {}})
    del members
    tracemalloc.start()
    source = Shards([str(tmp_path / f"{k}.tar") for k in range(shards - 1)] + [str(path)], index, 8)
    assert len(source) == num
    assert source[num - 1]["text"] == "thing 7" and int(source[num - 1]["image"][0, 0, 0]) == 7
    assert source._find(12_345_6)[0] == str(tmp_path / "12.tar")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20 and len(pickle.dumps(source)) < 100 * shards


def test_tar_files_beside_images_are_not_the_data(tmp_path):
    for inner in (tmp_path / "a", tmp_path / "b" / "cat"):
        shard(inner.parent / "backup.tar" if inner.name == "cat" else inner / "backup.tar", samples(0, 1))
        inner.mkdir(exist_ok=True)
        (inner / "x.png").write_bytes(image(9))
        (inner / "x.txt").write_text("of a file")
    for folder in ("a", "b"):
        assert content(open_source(str(tmp_path / folder), 8)) == [(9, "of a file")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{8..11}.tar", ["8.tar", "9.tar", "10.tar", "11.tar"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{a,b}-{1..2}", ["a-1", "a-2", "b-1", "b-2"]),
        ("{x}", ["{x}"]),
        ("{x,y", ["{x,y"]),
    ],
)
def test_braces_stand_for_names(pattern, names):
    assert expand_braces(pattern) == names


@pytest.mark.parametrize("pattern", ["{5..1}", "{0..9999999}", "{0..999}{0..999}{0..999}"])
def test_braces_that_stand_for_nothing_or_too_much_are_refused(pattern):
    with pytest.raises(ValueError, match="give from 1 to"):
        expand_braces(pattern)
