"""Image folders: all supported formats, reporting of what is left out, and invalid captions."""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.data import open_source
from t2i.data.base import ItemError, caption_lists
from t2i.data.folder import captions_of, note
from t2i.data.sources import ImageDataset
from t2i.data.splits import open_splits
from t2i.eval.generation.prompts import open_prompts


@pytest.fixture(autouse=True)
def _notes_are_said_again():
    note.cache_clear()


def pictures(folder: Path, *names: str) -> Path:
    """Images with different greys."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * i).save(path, format=None if path.suffix else "PNG")
    return folder


def with_lines(folder: Path, *rows: object, name: str = "metadata.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder


def row(name: str, text: object) -> dict:
    return {"file_name": name, "text": text}


def texts(folder: Path, **options) -> list[str]:
    """Captions, with items and alone."""
    source = open_source(str(folder), 8, **options)
    found = [source[i]["text"] for i in range(len(source))]
    assert found == list(source.captions(100))
    return found


# --- forms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["plain", "set [1]", "a*b?", "ünï ✓", "{x}"])
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_table_names_images_and_captions(tmp_path, folder, form):
    names = ["cat_test.png", "train/b.png", "test/c.png", "deep/er/d.jpg", "e"]
    said = ["a, b", 'with "quotes"', "first\u2028second", "tail \x85\x0b", "日本"]
    pictures(tmp_path / folder, *names)
    if form == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({"file_name": names, "text": said}), tmp_path / folder / "metadata.parquet")
    elif form == "csv":
        quoted = ['"' + text.replace('"', '""') + '"' for text in said]
        lines = [f"{name},{text}" for name, text in zip(names, quoted, strict=True)]
        with_lines(tmp_path / folder, "file_name,text", *lines, name="metadata.csv")
    else:
        with_lines(tmp_path / folder, *map(row, names, said))
    source = open_source(str(tmp_path / folder), 8)
    assert [source[i]["text"] for i in range(5)] == list(source.captions(9)) == said
    assert [int(source[i]["image"].max()) // 20 for i in (0, 1, 2, 4)] == [0, 1, 2, 4]


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"file_name": "a.png", "text": "one"}\r\n{"file_name": "b.png", "text": "two"}\r\n',
        b'{"file_name": "a.png", "text": "one"}\r{"file_name": "b.png", "text": "two"}',
        b'\n\n{"file_name": "./a.png", "text": "one"}\n  \n{"file_name": ".//b.png", "text": "two"}\n\n',
    ],
)
def test_marks_and_line_ends_of_other_systems_are_no_text(tmp_path, content):
    (pictures(tmp_path, "a.png", "b.png") / "metadata.jsonl").write_bytes(content)
    assert texts(tmp_path) == ["one", "two"]


def test_several_lines_of_an_image_are_several_pairs(tmp_path, capsys):
    with_lines(pictures(tmp_path, "a.png"), row("a.png", "one"), row("a.png", "two"))
    assert texts(tmp_path) == ["one", "two"]
    assert "1 line of" in capsys.readouterr().err
    with_lines(tmp_path, row("a.png", "one"), row("a.png", "two"), row("./a.png", "one"))
    with pytest.raises(ValueError, match=r"line 3: a\.png with this caption is there already, in .*line 1"):
        open_source(str(tmp_path), 8)


def test_a_list_in_a_table_is_several_captions_of_an_image(tmp_path):
    first = with_lines(pictures(tmp_path / "a", "a.png", "b.png"), row("a.png", ["one", "uno"]), row("b.png", "two"))
    source = open_source(str(first), 8)
    assert texts(first) == ["one", "two"] and list(caption_lists(source, 9)) == [("one", "uno"), ("two",)]
    assert source[0]["texts"] == ("one", "uno") and "texts" not in source[1]
    again = with_lines(pictures(tmp_path / "b", "a.png", "b.png"), row("a.png", ["one", "eins"]), row("b.png", "two"))
    other = open_source(str(again), 8)
    assert other.fingerprint() != source.fingerprint()
    with_lines(first, row("a.png", "one"), row("b.png", "two"))
    with_lines(again, row("a.png", ["one"]), row("b.png", ["two"]))
    assert open_source(str(first), 8).fingerprint() == open_source(str(again), 8).fingerprint()


def test_a_list_in_a_column_of_datasets_is_several_captions_of_an_image():
    from datasets import Dataset, Features, Image, List, Value

    features = Features({"image": Image(), "text": List(Value("string"))})
    grey = np.zeros((8, 8), np.uint8)
    made = Dataset.from_dict({"image": [grey, grey], "text": [["one", "uno"], ["two"]]}, features=features)
    source = ImageDataset(made, 8)
    assert list(source.captions(9)) == ["one", "two"] and source[0]["texts"] == ("one", "uno")
    assert list(caption_lists(source, 1)) == [("one", "uno")]


def test_a_missing_caption_in_a_column_is_an_unusable_item(tmp_path):
    from datasets import Dataset, Features, Image, Value

    features = Features({"image": Image(), "text": Value("string"), "none": Value("string")})
    grey = np.zeros((8, 8), np.uint8)
    made = {"image": [grey] * 3, "text": ["one", None, "three"], "none": [None] * 3}
    Dataset.from_dict(made, features=features).save_to_disk(tmp_path / "a")
    source = open_source(str(tmp_path / "a"), 8)
    assert list(source.captions(3)) == ["one", "", "three"]
    with pytest.raises(ItemError, match="the caption of image 1 in column 'text' is no text but None"):
        source[1]
    with pytest.raises(ItemError, match="the caption of image 0 in column 'none'"):
        open_source(str(tmp_path / "a"), 8, caption_column="none")


def test_a_million_images_take_the_memory_of_their_names_and_captions(tmp_path):
    """Measured on 2,000: at most 24 bytes per image besides the characters. In lists these alone take 110."""
    names = [f"part-{i % 7}/{i:012}.png" for i in range(2000)]
    said = [f"a caption of usual length {i}" for i in range(2000)]
    pictures(tmp_path, names[0])
    for name in names[1:]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / names[0])
    with_lines(tmp_path, *map(row, names, said))
    open_source(str(tmp_path), 8)  # imports and caches
    tracemalloc.start()
    source = open_source(str(tmp_path), 8)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    characters = sum(map(len, names + said))
    as_lists = sum(map(sys.getsizeof, names + said)) + sys.getsizeof(names) + sys.getsizeof(said)
    assert held - characters < 24 * len(source) < 110 * len(source) < as_lists - characters
    assert list(source.names) == names and list(source.texts) == said


def test_text_files_next_to_images_are_captions(tmp_path, capsys):
    pictures(tmp_path, "a.png", "in/b.jpg", "c.png", "d.png")
    for name, content in (("a", "one\r\n"), ("in/b", "\ufefftwo\nlines"), ("d", "\n"), ("notes", "nothing")):
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
    assert texts(tmp_path) == ["one", "", "two lines"]
    said = capsys.readouterr().err
    assert f"1 image of {tmp_path} without a .txt file of its name is left out: c.png" in said
    assert "1 text file of" in said and "notes.txt" in said
    assert "1 caption in" in said and "empty, of d.png" in said
    assert len(open_splits(str(tmp_path), 8).train) == 4  # captions are not needed


def test_folders_are_classes(tmp_path, capsys):
    pictures(tmp_path, "dog/a.png", "cat/b.png", "cat/deep/c.png", ".hidden/d.png")
    assert texts(tmp_path) == ["cat", "cat", "dog"]
    assert "names of its folders stand for them: cat, dog" in capsys.readouterr().err
    splits = open_splits(str(tmp_path), 8)
    assert splits.classes == ("cat", "dog")
    assert {splits.train[i]["label"] for i in range(3)} == {0, 1}


def test_links_are_followed_and_circles_left(tmp_path):
    pictures(tmp_path / "far", "a.png")
    pictures(tmp_path / "set" / "cat", "b.png")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "cat" / "again").symlink_to(tmp_path / "set")
    assert open_splits(str(tmp_path / "set"), 8).classes == ("cat", "dog")


def test_of_splits_the_training_one_is_read(tmp_path, capsys):
    for split in ("train", "test"):
        with_lines(pictures(tmp_path / split, "a.png"), row("a.png", f"of {split}"))
    assert texts(tmp_path) == ["of train"]
    assert "train is read, and test next to it left out" in capsys.readouterr().err


def test_images_alone_are_for_models_that_need_no_captions(tmp_path):
    pictures(tmp_path, "a.png", "in/b.png")
    with pytest.raises(FileNotFoundError, match=r"no metadata\.jsonl, metadata\.csv or .* no NAME\.txt next to them"):
        open_source(str(tmp_path), 8)
    assert texts(tmp_path, captions=False) == ["", ""]
    assert open_splits(str(tmp_path), 8).classes == ()


def test_saved_data_sets_and_parquet_files_are_read_by_datasets(tmp_path):
    from datasets import Dataset, DatasetDict, Features, Image, Value

    features = Features({"image": Image(), "text": Value("string")})
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    made = Dataset.from_dict({"image": [ramp, ramp], "text": ["one", "two"]}, features=features)
    made.save_to_disk(tmp_path / "saved")
    DatasetDict(train=made).save_to_disk(tmp_path / "splits")
    (tmp_path / "pq [1]").mkdir()
    made.to_parquet(tmp_path / "pq [1]" / "train-0.parquet")
    for name in ("saved", "splits", "pq [1]"):
        assert texts(tmp_path / name) == ["one", "two"]
        image = open_source(str(tmp_path / name), 8)[1]["image"]
        assert np.abs(image[..., 0] - ramp / 257).max() < 1  # with our reader, 16 bits are scaled
    (tmp_path / "pq [1]" / "train-0.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match="cannot be read by datasets"):
        open_source(str(tmp_path / "pq [1]"), 8)


# --- what is left out -----------------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted_and_named(tmp_path, capsys):
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png", "map.png")
    for name in ("x.heic", "y.psd", "notes.md"):
        (tmp_path / name).write_bytes(b"?")
    with_lines(tmp_path, row("a.png", "one") | {"layout_file_name": "map.png"}, row("x.heic", "two"))
    assert texts(tmp_path) == ["one"]
    said = capsys.readouterr().err.splitlines()
    assert f"note: 3 images without a line in {tmp_path}/metadata.jsonl are left out: b.png, c.png, d.png" in said
    assert f"note: 1 file of {tmp_path}/metadata.jsonl in formats that are not read is left out: x.heic" in said
    assert f"note: 2 images of {tmp_path} in formats that are not read are left out: x.heic, y.psd" in said
    assert len(said) == 3


def test_files_that_are_not_there_are_named_before_anything_is_read(tmp_path):
    lines = [row(f"{i}.png", "x") for i in range(6)]
    with_lines(pictures(tmp_path, "1.png"), *lines)
    with pytest.raises(FileNotFoundError, match=r"names 5 files that are not there: 0\.png, 2\.png, 3\.png, …; put"):
        open_source(str(tmp_path), 8)


def test_captions_ignored_next_to_a_table_are_noted(tmp_path, capsys):
    with_lines(pictures(tmp_path, "a.png", "b.png"), row("a.png", "one"), row("b.png", "two"))
    (tmp_path / "a.txt").write_text("another")
    (tmp_path / "notes.txt").write_text("of no image")
    assert texts(tmp_path) == ["one", "two"]
    said = f"captions are read from {tmp_path}/metadata.jsonl, and 1 text file next to images is left out: a.txt"
    assert capsys.readouterr().err == f"note: {said}\n"


def test_links_to_nothing_are_said(tmp_path, capsys):
    with_lines(pictures(tmp_path, "a.png"), row("a.png", "one"))
    (tmp_path / "b.png").symlink_to("nowhere.png")
    (tmp_path / "c.png").symlink_to("c.png")
    assert texts(tmp_path) == ["one"]
    assert f"2 links of {tmp_path} to missing files are left out: b.png, c.png" in capsys.readouterr().err


def test_no_images_and_no_captions_are_two_things(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there are no images in .*; give a folder with PNG, JPEG"):
        open_source(str(tmp_path), 8)
    pictures(tmp_path, "a.png")
    for name in ("captions.json", "metadata.json", "metadata.tsv"):
        (tmp_path / name).write_text("[]")
        with pytest.raises(
            FileNotFoundError, match=rf"has no metadata\.jsonl.*; {name} is not read: write captions as"
        ):
            open_source(str(tmp_path), 8)
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"no NAME\.txt next to them; write one of these"):
        open_source(str(tmp_path), 8)


def test_captions_in_other_files_than_those_that_are_read_are_said(tmp_path, capsys):
    pictures(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "metadata.json").write_text("[]")
    assert texts(tmp_path) == ["one"]
    assert f"metadata.json of {tmp_path} is left out; captions are read from metadata.jsonl" in capsys.readouterr().err


def test_names_in_capitals_are_the_same_forms(tmp_path):
    pictures(tmp_path / "texts", "a.PNG", "b.JPG")
    for name, said in (("a.TXT", "one"), ("b.Txt", "two")):
        (tmp_path / "texts" / name).write_text(said)
    assert texts(tmp_path / "texts") == ["one", "two"]
    assert captions_of(tmp_path / "texts") == {"a.PNG": "one", "b.JPG": "two"}
    with_lines(pictures(tmp_path / "table", "a.png"), row("a.png", "one"), name="Metadata.JSONL")
    assert texts(tmp_path / "table") == ["one"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_the_unicode_form_of_a_name_does_not_matter(tmp_path, forms):
    there, said = (unicodedata.normalize(form, "é/ü.png") for form in forms)
    source = open_source(str(with_lines(pictures(tmp_path / "table", there), row(said, "one"))), 8)
    assert source[0]["text"] == "one" and source[0]["image"].shape == (8, 8, 3)
    pictures(tmp_path / "texts", there)
    text = tmp_path / "texts" / f"{said[:-4]}.txt"
    text.parent.mkdir(exist_ok=True)
    text.write_text("two")
    assert texts(tmp_path / "texts") == ["two"]


# --- invalid tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "metadata.jsonl is empty; write a line"),
        (b'{"file_name": "a.png", "text": null}', "line 1: 'text' is no text but null; write one"),
        (b'{"file_name": "a.png", "text": 7}', "line 1: 'text' is no text but 7"),
        (b'{"file_name": "a.png", "text": []}', r"line 1: 'text' is no text but \[\]"),
        (b'{"file_name": "a.png", "text": ["x", 7]}', "line 1: 'text' is no text but .'x', 7"),
        (b'{"file_name": "a.png", "text": ["x", "\\ud800"]}', "line 1: 'text' holds half of a character"),
        (b'{"file_name": "a.png", "text": "\\ud800"}', "line 1: 'text' holds half of a character"),
        (b'{"file_name": "a.png", "text": "x"}\n["a.png", "x"]', r"line 2: .* is no object"),
        (b'{"file_name": "a.png", "text": "x"}\n\n{"file_name"', r"line 3: not JSON \(.*\)"),
        (b"[" * 100_000, "line 1: not JSON"),
        (b'{"text": "x"}', "line 1 has no 'file_name', only: text"),
        (b'{"file_name": null, "text": "x"}', "line 1: 'file_name' is no text but null"),
        (b'{"file_name": " ", "text": "x"}', "line 1: ' ' names no file"),
        (b'{"file_name": ".", "text": "x"}', "line 1: '.' names no file"),
        (b'{"file_name": "in", "text": "x"}', "line 1: in is a folder; write an image's name"),
        (b'{"file_name": "A.png", "text": "x"}', "names 1 file that is not there: A.png; did you mean a.png"),
        (b'{"file_name": "a.png"}', r"has no column 'text' but: image; choose one with --caption-column"),
        (b'{"file_name": "/etc/a.png", "text": "x"}', "line 1: /etc/a.png lies outside of the folder"),
        (b'{"file_name": "x/../../a.png", "text": "x"}', "lies outside of the folder; write names relative to it"),
        (b'{"file_name": "C:\\\\a.png", "text": "x"}', "lies outside"),
        (b'{"file_name": "a\\u0000.png", "text": "x"}', "names no file"),
        (b'{"file_name": "a.png", "text": "x"}\n{"file_name": "b.png", "text": "caf\xe9"}', "line 2: byte 0xe9 is not"),
        ('{"file_name": "a.png", "text": "x"}'.encode("utf-16"), "metadata.jsonl is UTF-16; save it as UTF-8"),
        ('{"file_name": "a.png", "text": "x"}'.encode("utf-16-le"), "zero bytes; save it as UTF-8"),
    ],
)
def test_lines_that_are_none_are_named(tmp_path, content, said):
    (pictures(tmp_path, "a.png", "in/b.png") / "metadata.jsonl").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        open_source(str(tmp_path), 8)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("file_name,text\na.png,one, two", r"line 2 has 3 fields, the header 2 \(file_name, text\); put captions"),
        ("file_name,text\na.png", "line 2 has 1 fields"),
        ("file_name;text\na.png;x", "line 1: its columns are separated by semicolons; separate them by commas"),
        ("file_name\ttext\na.png\tx, y", "line 1: its columns are separated by tabs; separate them by commas"),
        ("file_name,text,text\na.png,x,y", "line 1: two columns have one name"),
        ('file_name,text\na.png,"one', "put captions in double quotes"),
        ("", "metadata.csv is empty"),
    ],
)
def test_csv_that_moves_its_columns_is_refused(tmp_path, content, said):
    (pictures(tmp_path, "a.png") / "metadata.csv").write_text(content)
    with pytest.raises(ValueError, match=said):
        open_source(str(tmp_path), 8)


def test_more_than_one_table_or_none_where_it_belongs_is_refused(tmp_path):
    with_lines(with_lines(pictures(tmp_path, "a.png"), row("a.png", "x")), "file_name,text", name="metadata.csv")
    with pytest.raises(ValueError, match=r"has metadata\.jsonl, metadata\.csv; keep one"):
        open_source(str(tmp_path), 8)
    with_lines(pictures(tmp_path / "other" / "in", "a.png"), row("a.png", "x"))
    with pytest.raises(ValueError, match=r"has its captions in in/metadata\.jsonl; give one of these folders"):
        open_source(str(tmp_path / "other"), 8)
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").rename(tmp_path / "metadata.parquet")
    with pytest.raises(ValueError, match=r"metadata\.parquet is damaged or no Parquet file"):
        open_source(str(tmp_path), 8)


def test_a_table_that_is_no_file_is_refused(tmp_path):
    (pictures(tmp_path, "a.png") / "metadata.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"metadata\.jsonl is a folder, not a table of the images; rename"):
        open_source(str(tmp_path), 8)
    (tmp_path / "metadata.jsonl").rmdir()
    (tmp_path / "metadata.csv").symlink_to("nowhere.csv")
    with pytest.raises(ValueError, match=r"metadata\.csv is a broken link"):
        open_source(str(tmp_path), 8)


def test_mistyped_folders_are_an_immediate_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "data" / "flowers", "a.png")
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match="no folder 'data/flower': did you mean data/flowers"):
        open_source("data/flower", 8)
    with pytest.raises(FileNotFoundError, match="no folder 'flowers'"):
        open_source("flowers", 8)
    with pytest.raises(FileNotFoundError, match=r"data/flowers/a\.png is a file"):
        open_source("data/flowers/a.png", 8)
    with pytest.raises(FileNotFoundError, match="there is no folder 'runs/x'; give"):
        open_source("runs/x", 8)  # without a request to the Hub
    with pytest.raises(FileNotFoundError, match="no folder 'someone/x', and the Hub says: it cannot be reached"):
        open_source("someone/x", 8)
    assert time.monotonic() - start < 20  # including the import of datasets; retried requests to the Hub took longer


def test_ten_thousand_files_are_opened_soon(tmp_path):
    """0.3 s on one core; the bound leaves room for a machine busy with ten other programs."""
    pictures(tmp_path, "0.png")
    content = (tmp_path / "0.png").read_bytes()
    for i in range(10_000):
        (tmp_path / f"{i}.png").write_bytes(content)
    with_lines(tmp_path, *(row(f"{i}.png", f"thing {i}") for i in range(10_000)))
    start = time.process_time()
    source = open_source(str(tmp_path), 8)
    opened = time.process_time() - start
    source.fingerprint()
    assert opened < 2 and time.process_time() - start - opened < 2
    assert len(source) == 10_000


# --- prompts and captions of folders --------------------------------------------------------------------------------


def test_folders_and_their_tables_are_prompts(tmp_path):
    folder = with_lines(pictures(tmp_path / "my set", "b.png", "a.png"), row("b.png", "one"), row("a.png", "two"))
    for given in (folder, folder / "metadata.jsonl"):
        prompts = open_prompts(given)
        assert [prompt.text for prompt in prompts] == ["one", "two"]
        assert len({prompt.key for prompt in prompts}) == 2
    with_lines(folder, "prompt,category", '"a, b",x', "c,y", name="list.csv")
    assert [(p.text, p.category) for p in open_prompts(folder / "list.csv")] == [("a, b", "x"), ("c", "y")]
    assert [p.text for p in open_prompts(folder, num=1)] == ["one"]
    assert captions_of(folder) == {"b.png": "one", "a.png": "two"}
    assert captions_of(pictures(tmp_path / "bare", "cat/a.png", "dog/b.png")) == {}


def test_columns_are_refused_where_there_is_no_metadata(tmp_path):
    pictures(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("a thing")
    for columns in ({"image_column": "nope"}, {"caption_column": "nope"}):
        with pytest.raises(ValueError, match=r"has no metadata, in which --[a-z]+-column nope could be a column"):
            open_source(str(tmp_path), 8, **columns)
