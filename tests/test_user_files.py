"""Files and names given by users: texts, JSON, runs in place of checkpoints, captions that are too long."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from diffusion_parts import clip_tokenizer, pipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from t2i.cli import main
from t2i.eval.evaluators import PIPELINE
from t2i.eval.generation.prompts import open_prompts
from t2i.eval.model_cache import kind_of, open_for_eval
from t2i.files import read_json, read_text
from t2i.folders import may_be_on_hub, newest_in_run
from t2i.models import load_pretrained
from t2i.notes import are, count
from t2i.text.bpe import known_words, unknown_words, warn_of_unknown_words
from t2i.text.captions import warn_of_long_captions
from t2i.training import recipes

TEXTS = [
    (b"caf\xe9", "text.txt, line 1: byte 0xe9 is not UTF-8; save the file as UTF-8"),
    (b"\xff\xfea\0", "text.txt is UTF-16; save it as UTF-8"),
    (b"a\0b", "text.txt is not UTF-8 text, for it contains zero bytes"),
]


@pytest.mark.parametrize(("content", "says"), TEXTS, ids=["Latin-1", "UTF-16", "binary"])
def test_a_text_in_another_encoding_is_named(content, says, tmp_path):
    (tmp_path / "text.txt").write_bytes(content)
    for read in (read_text, read_json, open_prompts):
        with pytest.raises(ValueError, match=says):
            read(tmp_path / "text.txt")


def test_texts_lose_their_byte_order_mark_and_nothing_else(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfa\xe2\x80\xa8b\r\n")
    assert read_text(tmp_path / "text.txt") == "a\u2028b\r\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"a": 1}', "has no 'b'"),
        ("[" * 100_000, "is nested too deeply"),
    ],
    ids=["cut", "empty", "list", "key", "deep"],
)
def test_json_that_is_not_what_was_meant_is_named(content, says, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=f"x.json {says}"):
        read_json(tmp_path / "x.json", "b")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_json(tmp_path / "y.json")


def test_a_path_causes_no_request_to_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    local = (
        "runs/x",
        "data/x",
        "reports/x",
        "toybox/dale",
        "mine",
        "mine/x",
        "./a/b",
        "/a/b",
        "~/a",
        "a/b/c",
        "a/",
        "a",
    )
    assert not [name for name in local if may_be_on_hub(name)]
    assert may_be_on_hub("stabilityai/sd-turbo") and may_be_on_hub("gpt2", bare=True)


def test_a_run_stands_for_its_newest_checkpoint_that_has_the_file(tmp_path):
    assert newest_in_run(tmp_path / "none", "x") == tmp_path / "none"
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert newest_in_run(tmp_path, "x") == tmp_path
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}" / "x").touch()
    assert newest_in_run(tmp_path, "x") == tmp_path / "checkpoint-10"
    (tmp_path / "latest").symlink_to("checkpoint-9")
    assert newest_in_run(tmp_path, "x") == tmp_path / "latest"
    (tmp_path / "x").touch()
    assert newest_in_run(tmp_path, "x") == tmp_path


def test_evaluation_takes_the_folder_of_a_run(tmp_path):
    pipeline().save_pretrained(tmp_path / "run" / "checkpoint-1")
    assert kind_of(str(tmp_path / "run")) == PIPELINE
    assert open_for_eval(str(tmp_path / "run"), "cpu").image_size == 64


def test_words_of_the_captions_stay_with_a_clip_tokenizer(tmp_path):
    clip_tokenizer().save_pretrained(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert unknown_words(tokenizer, "a red armchiar, a flurb") == {"armchiar": "armchair", "flurb": None}
    assert known_words(["A cat's hat", "a cat"]) == ["a", "cat", "cat's", "hat"]


def test_long_captions_are_counted_once(caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_long_captions(["a red cat", "a red apple " * 60, "a blue car " * 60], clip_tokenizer(), 22)
        warn_of_long_captions(["a red cat"], clip_tokenizer(), 22)
        warn_of_long_captions([], clip_tokenizer(), 22)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("2 of the first 3 captions are longer than the 22 tokens that the model reads")


def test_one_is_singular_and_a_long_caption_is_quoted_by_its_beginning(caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_long_captions(["a red cat", "a red apple " * 600], clip_tokenizer(), 22)
        warn_of_unknown_words(clip_tokenizer(), ["flurb " * 900, *(f"flurb{i}" for i in range(5))])
    long, first, *_, last = [record.getMessage() for record in caplog.records]
    assert long.startswith("1 of the first 2 captions is longer than the 22 tokens") and len(long) < 300
    assert first.endswith("has words never seen in training: flurb") and len(first) < 200
    assert last == "1 more prompt has words never seen in training"
    assert [f"{count(names, 'image')} {are(names)}" for names in ([], ["a"], ["a", "b"])] == [
        *("0 images are", "1 image is", "2 images are")
    ]


def test_a_damaged_model_samples_no_black_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = resolve_name("t2i.models.latent_variable.vae:VAE")(image_size=8, channels=1, levels=2)
    model.save_pretrained("vae")
    file = Path("vae/diffusion_pytorch_model.safetensors")
    save_file({key: torch.full_like(v, torch.nan) for key, v in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(SystemExit, match="vae holds numbers that are not finite"):
        main(["sample", "vae", "--num-images", "2"])
    state = load_file(file)
    state.pop(min(state))
    save_file(state, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"vae/diffusion_pytorch_model\.safetensors does not fit the VAE"):
        load_pretrained("vae")


def test_sample_names_the_remedy_for_what_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("system").mkdir()
    Path("system/model_index.json").write_text("{}")
    resolve_name("t2i.models.latent_variable.autoencoder:Autoencoder")(image_size=8).save_pretrained("ae")
    for folder, message in (
        ("nowhere", "no model in nowhere, which does not exist: give the folder of a run"),
        ("empty", "no model in empty: it has no config.json; give the folder of a run of an unconditional model"),
        ("system", "system holds a pipeline, not an unconditional model: t2i generate PROMPT --pipeline system"),
        ("ae", "an Autoencoder has nothing to sample from"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["sample", folder])


def test_listing_the_recipes_loads_no_torch():
    code = "import sys; from t2i.cli import main; main(['train', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\n  ldm-toybox       Latent diffusion of 64×64" in done.stdout


def test_a_recipes_docstring_is_read_as_it_is_written():
    for recipe in recipes.RECIPES.values():
        assert recipe.about() == inspect.getdoc(resolve_name(f"{recipes.__name__}.{recipe.where}"))


def test_a_stopped_generate_says_what_it_wrote(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        pipeline().save_pretrained(name)

    def stop_after_the_first() -> None:
        while not list(Path("o").rglob("*.png")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    both = ["--pipeline", "one", "--pipeline", "two", "--num-images", "1", "--num-inference-steps", "200"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell ignore it
    try:
        threading.Thread(target=stop_after_the_first, daemon=True).start()
        with pytest.raises(SystemExit) as exit_:
            main(["generate", "a red cat", *both, "--out", "o/"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert exit_.value.code == 130
    assert "interrupted; written so far: o/one" in capfd.readouterr().err
    assert not Path("o/two").exists()
