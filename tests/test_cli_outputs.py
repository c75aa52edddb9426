"""Output files: --out is checked before the work, and no image is overwritten by another."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from diffusion_parts import pipeline
from PIL import ExifTags, Image

from t2i.checks import UsageError
from t2i.cli import main
from t2i.files import slug
from t2i.pipelines.commands.outputs import Output, _write, check_out, file_names, write_images

FEW = ["--pipeline", "system", "--num-images", "1", "--num-inference-steps", "2"]


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("systems") / "system"
    pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def here(system, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "system").symlink_to(system)
    return tmp_path


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_a_prompt_in_any_script_names_its_file():
    assert slug("猫 и Кот!") == "猫-и-кот"
    assert file_names(["猫", "犬", "a cat?"]) == ["猫", "犬", "a-cat"]
    assert file_names(["a cat!", "a cat?", "🙂"]) == ["0-a-cat", "1-a-cat", "2-image"]
    assert len(file_names(["猫" * 200])[0].encode()) <= 120


def test_other_prompts_and_settings_never_replace_an_image(here, capsys):
    main(["generate", "猫", *FEW, "--out", "o/"])
    first = files("o")
    main(["generate", "🙂", *FEW, "--out", "o/"])
    main(["generate", "🙃", *FEW, "--out", "o/"])
    main(["generate", "猫", *FEW, "--guidance-scale", "5", "--out", "o/"])
    assert "猫-0-2.png" in capsys.readouterr().out
    now = files("o")
    assert set(now) == {"猫-0.png", "image-0.png", "image-0-2.png", "猫-0-2.png"}
    assert now.items() >= first.items()
    main(["generate", "猫", *FEW, "--guidance-scale", "5", "--out", "o/"])  # exactly the same again
    assert set(files("o")) == set(now)
    assert json.loads(Image.open("o/猫-0-2.png").text["settings"])["guidance_scale"] == 5


def test_a_grid_and_an_edit_leave_what_is_there(here, capsys):
    Image.new("RGB", (64, 64), "red").save("t2i.png")
    before = Path("t2i.png").read_bytes()
    main(["generate", "a cat", *FEW])
    assert "t2i-2.png: 1 image in" in capsys.readouterr().out
    main(["edit", "t2i.png", "t2i", *FEW, "--out", "t2i.png"])
    Path("o").mkdir()
    Path("o/a-cat-0.png").write_bytes(before)
    main(["edit", "o/a-cat-0.png", "a cat", *FEW, "--out", "o"])
    assert Path("t2i.png").read_bytes() == Path("o/a-cat-0.png").read_bytes() == before
    assert Path("t2i-3.png").is_file() and Path("o/a-cat-0-2.png").is_file()


def test_a_set_keeps_one_number(tmp_path):
    black, white = (Image.new("RGB", (2, 2), colour) for colour in ("black", "white"))
    made = {"prompt": "x", "version": "t2i 1"}
    write_images([Output(black, tmp_path / "1.png", made)], folder=True)
    said = write_images([Output(white, tmp_path / f"{i}.png", made) for i in range(3)], folder=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-2.png", "1-2.png", "1.png", "2-2.png"]
    assert said.startswith(f"{tmp_path} (0-2.png …")
    again = [Output(black, tmp_path / "1.png", made | {"version": "t2i 2"})]  # by a newer version, but the same image
    assert write_images(again, folder=False) == str(tmp_path / "1.png")


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_a_grid_may_be_a_jpeg_or_webp_with_the_same_record_and_care(suffix, tmp_path):
    pixels = np.asarray(Image.linear_gradient("L").resize((24, 16)).convert("RGB"))
    path, record = tmp_path / f"grid{suffix}", {"prompt": "猫", "settings": '{"a": 1, "b": 2}', "version": "t2i 1"}
    write_images([Output(Image.fromarray(pixels), path, record)], folder=False)
    with Image.open(path) as written:
        assert json.loads(written.getexif()[ExifTags.Base.ImageDescription]) == record
        difference = np.abs(np.asarray(written.convert("RGB")).astype(int) - pixels).mean()
    assert difference == 0 if suffix == ".webp" else difference < 2
    again = record | {"settings": '{"b": 2, "a": 1}', "version": "t2i 2"}
    assert write_images([Output(Image.fromarray(pixels), path, again)], folder=False) == str(path)
    other = write_images([Output(Image.fromarray(255 - pixels), path, record)], folder=False)
    assert other.startswith(str(tmp_path / f"grid-2{suffix}"))


def test_nothing_is_left_of_an_image_that_could_not_be_written(tmp_path):
    with pytest.raises(OSError):
        write_images([Output(Image.fromarray(np.zeros((2, 2), np.float32)), tmp_path / "x.png", {})], folder=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("", "must end in .png"),
        ("x.gif", "must end in .png"),
        ("x", "must end in .png"),
        (".png", "must end in .png"),
        ("folder.png", "is a folder: write folder.png/"),
        ("file.png/", "file.png is a file"),
        ("file.png/x.png", "file.png is a file"),
        ("file.png/deep/", "file.png is a file"),
        ("y" * 300 + "/", "more than 240 bytes"),
        ("y" * 300 + ".png", "more than 240 bytes"),
        ("locked/x.png", "no permission to write in"),
        ("gone/", "gone is a broken link to nowhere"),
        ("gone/x.png", "gone is a broken link to nowhere"),
    ],
)
def test_out_is_checked_before_the_work(out, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    Path("file.png").touch()
    Path("locked").mkdir(mode=0o500)
    Path("gone").symlink_to("nowhere")
    if "locked" in out and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    with pytest.raises(UsageError, match=says):
        check_out(out)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc, which takes no files from anybody")
@pytest.mark.parametrize(
    "args",
    [
        ["generate", "x", "--out", "/proc/x/"],
        ["generate", "x", "--out", "/proc/x.png"],
        ["edit", "photo.png", "x", "--out", "/proc/x.png"],
        ["sample", "run", "--out", "/proc/x.png"],
        ["data", "toybox", "--out", "/proc/x"],
        ["eval", "x", "--out", "/proc/x"],
        ["eval", "x", "--metrics", "fid", "--out", "/proc/x"],
        ["report", "statistics", "photos", "--out", "/proc/x.npz"],
        ["compare", "--out", "/proc/x"],
        ["train", "vae", "--output-dir", "/proc/x"],
    ],
    ids=lambda args: " ".join(args[:2]),
)
def test_an_unwritable_place_is_an_error_before_the_work_naming_the_option(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert str(exit_.value).startswith(f"error: {' '.join(args[-2:])} cannot be written: ")
    assert ".part" not in str(exit_.value) and str(exit_.value).endswith("in /proc; give another folder")


def test_an_image_that_cannot_be_written_is_named_in_the_error(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(OSError, match=r"x\.png'$"):
        _write(Output(Image.new("RGB", (2, 2)), tmp_path / "x.png", {}), tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_out_that_can_be_written_is_a_folder_or_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    assert [check_out(out) for out in ("new/", "new/deep/", "there", "x.png", "new/x.PNG")] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--seed", str(2**64)], "--seed must be less than 2**64"),
        (["--seed", str(2**64 - 1), "--num-images", "2"], "the last of 2 seeds is 18446744073709551616"),
        (["--guidance-scale", "-1"], "--guidance-scale must be at least 0"),
        (["--guidance-scale", "nan"], "--guidance-scale must be at least 0"),
        (["--guidance-scale", "inf"], "--guidance-scale must be at least 0"),
        (["--num-inference-steps", "0"], "--num-inference-steps must be at least 1"),
        (["--top-p", "1.5"], "--top-p must lie in (0, 1]"),
        (["--temperature", "0"], "--temperature must be above 0"),
        (["--num-candidates", "0"], "--num-candidates must be at least 1"),
        (["--lora", "x", "--lora-scale", "nan"], "--lora-scale must be a finite number"),
        (["--negative-prompt", "caf\udce9"], "is not valid Unicode at character 4"),
        (["--pipeline", "runs/mistyped"], "there is no pipeline 'runs/mistyped'"),
        (["--scheduler", "eulr"], "did you mean euler?"),
    ],
    ids=lambda a: ascii(" ".join(a)) if isinstance(a, list) else "",
)
def test_numbers_and_names_are_refused_before_anything_is_loaded(args, says, here):
    few = [] if "--pipeline" in args else ["--pipeline", "nowhere/nothing"]
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "x", *few, *args])
    assert says in str(exit_.value)


@pytest.mark.parametrize("seed", [2**32, 2**63, 2**64 - 1])
def test_large_seeds_generate(seed, here):
    main(["generate", "x", *FEW, "--seed", str(seed), "--out", "o/"])
    assert list(files("o")) == [f"x-{seed}.png"]


def test_words_without_quotes_are_noted_to_be_separate_prompts(here, capsys):
    main(["generate", "a", "red", "cat", *FEW, "--out", "o/"])
    assert '3 prompts of one word each; for a single one, put it in quotes: "a red cat"' in capsys.readouterr().err
    main(["generate", "a red cat", "a dog", *FEW, "--out", "p/"])
    assert "note:" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [["generate", "caf\udce9"], ["interpolate", "a", "caf\udce9"]], ids=["one", "two"])
def test_a_prompt_that_is_no_unicode_is_one_line(command, here):
    with pytest.raises(SystemExit, match="is not valid Unicode at character 4"):
        main([*command, "--pipeline", "system"])


def test_a_path_that_is_no_unicode_is_written_all_the_same(here, capsys):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (64, 64), "red").save(name)
    main(["edit", name, "x", "--num-inference-steps", "4", *FEW[:4], "--out", "o/"])
    main(["edit", name, "x", "--strength", "0", *FEW[:4], "--out", "zero/"])
    assert json.loads(Image.open("zero/x-0.png").text["settings"]) == {"strength": 0.0}
    assert Image.open("o/x-0.png").text["image"] == "caf\N{REPLACEMENT CHARACTER}.png"


def test_the_folder_of_a_run_stands_for_its_newest_checkpoint(here, system):
    for step in (5, 20, 100):
        Path(f"run/checkpoint-{step}").mkdir(parents=True)
    Path("run/checkpoint-20").rmdir()
    Path("run/checkpoint-20").symlink_to(system)
    main(["generate", "x", "--pipeline", "run", *FEW[2:], "--out", "o/"])  # checkpoint-100 is not a pipeline
    main(["generate", "x", *FEW, "--out", "p/"])
    same = [Image.open(f"{out}/x-0.png").tobytes() for out in "op"]
    assert same[0] == same[1]


def test_a_mask_of_another_size_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("a.png")
    Image.new("L", (32, 64)).save("m.png")
    with pytest.raises(SystemExit, match=r"a\.png has 64×64 pixels and m\.png has 32×64 pixels: scale .* --image-size"):
        main(["inpaint", "a.png", "m.png", "a cat"])


def test_a_pipeline_is_given_once():
    with pytest.raises(SystemExit, match="--pipeline is empty"):
        main(["generate", "a cat", "--pipeline", ""])
    with pytest.raises(SystemExit, match="--pipeline toybox/ldm is given twice"):
        main(["generate", "a cat", "--pipeline", "toybox/ldm", "--pipeline", "toybox/ldm"])


def test_a_run_has_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for folder, says in (("", "--output-dir is empty"), (str(tmp_path / "file"), "file is a file; give a folder")):
        with pytest.raises(SystemExit, match=says):
            main(["train", "vqvae-toybox", "--preset", "tiny", "--output-dir", folder])
