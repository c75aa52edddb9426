"""Laws of the character model: causality, normalisation, sampling with and without a cache; and its recipe."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from generative_models import seeds

from t2i.models.autoregressive.characters import CharacterModel, alphabet_of, counted
from t2i.training.cli import run
from t2i.training.recipes import RECIPES


def model(alphabet: str = "abc", length: int = 12, std: float = 0.4, **sizes) -> CharacterModel:
    made = CharacterModel(alphabet, length, **{"width": 8, "blocks": 4, "cycle": 2} | sizes).eval()
    for parameter in made.parameters():
        parameter.data += std * torch.randn_like(parameter)
    return made


def test_a_character_follows_from_those_before_it_alone():
    characters = model()
    ids = torch.randint(4, (1, 12))
    with torch.no_grad():
        before = characters(ids)
        for place in range(12):
            other = ids.clone()
            other[0, place] = (other[0, place] + 1) % 4
            changed = ((characters(other) - before).abs() > 1e-6).any(1)[0]
            assert not changed[: place + 1].any() and changed[place + 1 :].all()


def test_the_probabilities_of_all_texts_sum_to_one():
    """Of those that end within four characters, and of the prefixes of all others."""
    characters = model("ab", length=4)
    texts = ["".join(t) for n in range(5) for t in itertools.product("ab", repeat=n)]
    with torch.no_grad():
        nats = characters.log_prob(characters.encode(texts))
    assert nats.double().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_what_lies_after_the_end_counts_nothing():
    characters = model()
    ids = characters.encode(["ab", "c", ""])
    assert counted(ids).sum(1).tolist() == [3, 2, 1]
    noisy = ids.clone()
    noisy[0, 5:] = 2
    assert torch.allclose(characters.log_prob(noisy), characters.log_prob(ids))
    found = characters.loss(ids)
    assert found["loss"].item() == pytest.approx(-characters.log_prob(ids).sum().item() / 6)
    assert found["bits"].item() == pytest.approx(found["loss"].item() / math.log(2))


def test_cached_sampling_equals_uncached():
    characters = model("abcdefgh", length=40)
    cached, naive = (characters.sample(6, seeds(*range(6)), "ab", cached=c) for c in (True, False))
    assert cached == naive and all(text.startswith("ab") for text in cached)
    assert len(set(cached)) > 3 and max(map(len, cached)) > 8
    assert characters.sample(1, seeds(4), "ab") == cached[4:5]


def test_texts_are_as_frequent_as_their_probability():
    characters = model("ab", length=2)
    drawn = characters.sample(6000, seeds(0)[0])
    for text in ("", "a", "b", "aa", "ab", "ba", "bb"):
        wanted = characters.log_prob(characters.encode([text])).exp().item()
        assert drawn.count(text) / 6000 == pytest.approx(wanted, abs=0.025)


def test_texts_come_back_from_ids_and_models_from_disk(tmp_path):
    alphabet = alphabet_of(["a Tüte", "of ❄"])
    assert alphabet == " Taefotü❄"
    characters = model(alphabet)
    texts = ["a Tüte", "", "of ❄ a Tüte of ❄"]
    assert characters.decode(characters.encode(texts)) == [text[:12] for text in texts]
    characters.save_pretrained(tmp_path)
    again = CharacterModel.from_pretrained(tmp_path).eval()
    assert again.sample(2, seeds(1, 2)) == characters.sample(2, seeds(1, 2))


def test_bad_input_raises():
    characters = model()
    with pytest.raises(ValueError, match="never seen: x"):
        characters.encode(["abx"])
    with pytest.raises(ValueError, match="at most 12"):
        characters.sample(1, prompt="a" * 13)
    with pytest.raises(ValueError, match=r"ids must lie in \[0, 3\]"):
        characters.log_prob(torch.tensor([[4]]))
    with pytest.raises(ValueError, match="each of its characters once"):
        CharacterModel("aba")
    with pytest.raises(ValueError, match="no text"):
        alphabet_of(["", ""])


# --- the recipe -----------------------------------------------------------------------------------------------------


def recipe(folder: Path, data: str = "toybox-v1", **loop):
    tiny = RECIPES["characters"]("tiny")
    sizes = {"max_train_steps": 30, "checkpointing_steps": 30, "dataloader_num_workers": 0, "report_to": "none"}
    return dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, data=data),
        model=dataclasses.replace(tiny.model, width=16, blocks=3),
        loop=dataclasses.replace(tiny.loop, output_dir=str(folder), **sizes | loop),
    )


def test_a_text_file_is_learned_and_scored_on_lines_held_out(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("\n\n".join(["abab", "ababab"] * 50), encoding="utf-8")
    folder = run(recipe(tmp_path / "run", str(file), learning_rate=2e-2, lr_warmup_steps=1))
    characters = CharacterModel.from_pretrained(folder).eval()
    found = json.loads((folder / "scores.json").read_text())["held_out"]
    assert characters.config.alphabet == "ab" and found["texts"] == 5
    nats = -characters.log_prob(characters.encode(["ababab", "abab"])).detach()
    assert found["characters"] == 3 * 7 + 2 * 5  # including the end symbols
    mean = (3 * nats[0] + 2 * nats[1]).item() / found["characters"] / math.log(2)
    assert found["bits_per_character"] == pytest.approx(mean, rel=1e-4)
    assert found["bits_per_character"] < 0.8 < math.log2(3)
    assert (tmp_path / "run" / "samples" / "step-000030.png").is_file()


def test_toyboxs_captions_are_learned(tmp_path):
    folder = run(recipe(tmp_path / "run", max_train_steps=2, checkpointing_steps=2))
    found = json.loads((folder / "scores.json").read_text())["held_out"]
    assert found["texts"] == 1024 and 0 < found["bits_per_character"] < 6
    assert {"a", " "} < set(CharacterModel.from_pretrained(folder).config.alphabet)
