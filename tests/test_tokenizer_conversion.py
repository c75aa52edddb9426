"""Conversion of published image tokenizers: OpenAI's discrete VAE and the VQGAN of taming-transformers."""

from __future__ import annotations

import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from t2i.cli import main
from t2i.notes import note
from t2i.pipelines import AutoPipeline, DallePipeline
from t2i.prior.transformer import TextImageTransformer
from t2i.tokenizers.auto import open_image_tokenizer
from t2i.tokenizers.convert import convert, save
from t2i.tokenizers.openai_dvae import OpenAIDiscreteVAE
from t2i.tokenizers.vqmodel import GumbelVQModel, VQModel

CODES = 50


def randomised(module: nn.Module) -> nn.Module:
    """The module with weights at which every one of them shows in its output."""
    for name, parameter in module.named_parameters():
        std = 2 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
        nn.init.normal_(parameter, mean=float("norm" in name), std=std)
    return module.eval()


def images(side: int = 16) -> Tensor:
    """(2, 3, side, side), different at every place"""
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def same_numbers(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two state dicts hold the same tensors, whatever their names and axes of one element are."""
    a, b = (sorted(tuple(t.flatten().tolist()) for t in state.values()) for state in (first, second))
    return a == b


# --- OpenAI's discrete VAE: whole modules, pickled ------------------------------------------------------------------


class Conv2d(nn.Module):
    __module__ = "dall_e.utils"

    def __init__(self, n_in: int, n_out: int, kw: int):
        super().__init__()
        self.n_in, self.n_out, self.kw, self.use_float16 = n_in, n_out, kw, True
        self.device, self.requires_grad = torch.device("cpu"), False
        self.w, self.b = nn.Parameter(torch.empty(n_out, n_in, kw, kw)), nn.Parameter(torch.empty(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding=self.kw // 2)


class EncoderBlock(nn.Module):
    __module__, kernels = "dall_e.encoder", (3, 3, 3, 1)

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.id_path = Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        widths, path = (n_in, *[n_out // 4] * 3, n_out), OrderedDict()
        for i, kw in enumerate(self.kernels):
            path[f"relu_{i + 1}"], path[f"conv_{i + 1}"] = nn.ReLU(), Conv2d(widths[i], widths[i + 1], kw)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.res_path(x) / (4 * 2) ** 2


class DecoderBlock(EncoderBlock):
    __module__, kernels = "dall_e.decoder", (1, 3, 3, 3)


class Encoder(nn.Module):
    __module__, widths, kw, block, between = "dall_e.encoder", (3, 8, 8, 16, 32, 64, CODES), 7, EncoderBlock, "pool"

    def __init__(self):
        super().__init__()
        first, *widths, last = self.widths
        layers = OrderedDict(input=Conv2d(first, widths[0], self.kw))
        for i in range(1, 5):
            a, b = widths[i - 1 : i + 1]
            group = OrderedDict(block_1=self.block(a, b), block_2=self.block(b, b))
            if i < 4:
                group[self.between] = nn.MaxPool2d(2) if self.between == "pool" else nn.Upsample(scale_factor=2)
            layers[f"group_{i}"] = nn.Sequential(group)
        layers["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv2d(widths[-1], last, 1)))
        self.blocks = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Decoder(Encoder):
    __module__, widths, kw, block, between = "dall_e.decoder", (CODES, 12, 64, 32, 16, 8, 6), 1, DecoderBlock, "up"


@pytest.fixture
def openai(tmp_path) -> tuple[nn.Module, nn.Module, list[Path]]:
    """The published encoder and decoder at a tiny size, and their pickles, whose classes can no longer be imported."""
    models, files = (
        [randomised(cls()) for cls in (Encoder, Decoder)],
        [tmp_path / "encoder.pkl", tmp_path / "decoder.pkl"],
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("dall_e", "dall_e.encoder", "dall_e.decoder", "dall_e.utils"):
            patch.setitem(sys.modules, name, ModuleType(name))
        for cls in (Conv2d, EncoderBlock, DecoderBlock, Encoder, Decoder):
            setattr(sys.modules[cls.__module__], cls.__name__, cls)
        for model, file in zip(models, files, strict=True):
            torch.save(model, file)
    assert "dall_e" not in sys.modules
    return *models, files


def test_openai_codes_and_images_are_those_of_the_published_modules(openai):
    encoder, decoder, files = openai
    model = convert(files)
    logits = encoder((images(64) + 1) / 2 * 0.8 + 0.1)
    torch.testing.assert_close(model.logits(images(64)), logits)
    assert torch.equal(model.encode(images(64)), logits.argmax(1))
    codes = torch.randint(CODES, (2, 4, 4))
    statistics = decoder(F.one_hot(codes, CODES).permute(0, 3, 1, 2).float())
    pixels = ((statistics[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1)
    assert pixels.std() > 0.05
    torch.testing.assert_close(model.decode(codes), pixels * 2 - 1)


def test_openai_every_weight_arrives_and_the_configuration_is_inferred(openai):
    encoder, decoder, files = openai
    model = convert(files, image_size=64)
    assert isinstance(model, OpenAIDiscreteVAE)
    assert same_numbers(
        {**encoder.state_dict(), **{f"d.{k}": v for k, v in decoder.state_dict().items()}}, model.state_dict()
    )
    found = {name: model.config[name] for name in ("image_size", "n_hid", "n_init", "n_blk_per_group", "vocab_size")}
    assert found == {"image_size": 64, "n_hid": 8, "n_init": 12, "n_blk_per_group": 2, "vocab_size": CODES}
    assert (model.stride, model.grid_size, model.codebook_size) == (8, 8, CODES)


def test_openai_pickles_in_any_order_and_state_dicts_give_the_same_model(openai, tmp_path):
    encoder, decoder, files = openai
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    save_file(decoder.state_dict(), tmp_path / "decoder.safetensors")
    torch.save({"state_dict": named("enc", encoder) | named("dec", decoder)}, tmp_path / "both.pt")
    wanted = convert(files).state_dict()
    for others in (files[::-1], [tmp_path / "encoder.pt", tmp_path / "decoder.safetensors"], [tmp_path / "both.pt"]):
        found = convert(others).state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_openai_defaults_are_the_published_model():
    """53.8 and 43.8 million weights, in files of 215 and 175 MB."""
    with torch.device("meta"):
        model = OpenAIDiscreteVAE()
    assert (model.stride, model.codebook_size, model.image_size) == (8, 8192, 256)
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.encoder, model.decoder)]
    assert sizes == pytest.approx([53.8, 43.8], abs=0.05)


def test_openai_needs_both_parts_once(openai, tmp_path):
    encoder, _, files = openai
    torch.save(encoder.state_dict(), tmp_path / "again.pt")
    with pytest.raises(ValueError, match=r"encoder\.pkl: there is no decoder"):
        convert(files[:1])
    with pytest.raises(ValueError, match="there are two encoders"):
        convert([*files, tmp_path / "again.pt"])
    with pytest.raises(ValueError, match="--config is for a VQGAN"):
        convert(files, config="model.yaml")


# --- taming-transformers' VQGAN: a Lightning checkpoint --------------------------------------------------------------


class ResnetBlock(nn.Module):
    def __init__(self, a: int, b: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, a, eps=1e-6), nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(32, b, eps=1e-6), nn.Conv2d(b, b, 3, padding=1)
        if a != b:
            self.nin_shortcut = nn.Conv2d(a, b, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, c, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2) for f in (self.q, self.k, self.v))  # (B, C, N)
        weights = (q.transpose(1, 2) @ k / x.shape[1] ** 0.5).softmax(-1)
        return x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))


class Resample(nn.Module):
    def __init__(self, c: int, up: bool):
        super().__init__()
        self.conv, self.up = nn.Conv2d(c, c, 3, stride=1 if up else 2, padding=1 if up else 0), up

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    def __init__(self, a: int, b: int, blocks: int, attention: bool):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(a if i == 0 else b, b) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(b) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = self.attn[i](block(x)) if len(self.attn) else block(x)
        for last in ("downsample", "upsample"):
            x = getattr(self, last)(x) if hasattr(self, last) else x
        return x


class Coder(nn.Module):
    """Encoder or decoder in the published layout: levels `down.0` … or `up.0` …, from fine to coarse in both."""

    def __init__(self, up: bool, widths: tuple[int, ...], blocks: int, attn: set[int], z: int, mid_attention: bool):
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(z if up else 3, widths[last if up else 0], 3, padding=1)
        levels = []
        for i, width in enumerate(widths):
            before = widths[min(i + 1, last)] if up else widths[max(i - 1, 0)]
            level = Level(before, width, blocks + up, i in attn)
            if i != (0 if up else last):
                setattr(level, "upsample" if up else "downsample", Resample(width, up))
            levels.append(level)
        setattr(self, "up" if up else "down", nn.ModuleList(levels))
        self.mid = nn.Module()
        self.mid.block_1, self.mid.block_2 = ResnetBlock(widths[-1], widths[-1]), ResnetBlock(widths[-1], widths[-1])
        if mid_attention:
            self.mid.attn_1 = AttnBlock(widths[-1])
        end = widths[0 if up else -1]
        self.norm_out, self.conv_out = nn.GroupNorm(32, end, eps=1e-6), nn.Conv2d(end, 3 if up else z, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in getattr(self, "down", ()):
            x = level(x)
        x = self.mid.block_1(x)
        x = self.mid.attn_1(x) if hasattr(self.mid, "attn_1") else x
        x = self.mid.block_2(x)
        for level in reversed(getattr(self, "up", nn.ModuleList())):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Taming(nn.Module):
    """A VQGAN in the published layout, with a part of the loss, as checkpoints have it."""

    def __init__(self, widths=(32, 64), blocks=1, attn=(1,), z=6, width=5, gumbel=False, mid_attention=True):
        super().__init__()
        how = (widths, blocks, set(attn), z, mid_attention)
        self.encoder, self.decoder = Coder(False, *how), Coder(True, *how)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(z, width, 1), nn.Conv2d(width, z, 1)
        self.quantize = nn.Module()
        if gumbel:
            self.quantize.proj, self.quantize.embed = nn.Conv2d(width, CODES, 1), nn.Embedding(CODES, width)
        else:
            self.quantize.embedding = nn.Embedding(CODES, width)
        self.loss = nn.Module()
        self.loss.discriminator = nn.Conv2d(3, 1, 4)

    def codes(self, images: Tensor) -> Tensor:
        z = self.quant_conv(self.encoder(images))
        if hasattr(self.quantize, "proj"):
            return self.quantize.proj(z).argmax(1)
        return (z.permute(0, 2, 3, 1)[..., None, :] - self.quantize.embedding.weight).norm(dim=-1).argmin(-1)

    def images(self, codes: Tensor) -> Tensor:
        table = self.quantize.embed if hasattr(self.quantize, "embed") else self.quantize.embedding
        return self.decoder(self.post_quant_conv(table(codes).permute(0, 3, 1, 2)))


VARIANTS = {
    "f16": {"widths": (32, 32, 64, 64, 128), "blocks": 2, "attn": (4,)},  # f16-1024 and f16-16384: attention at 16
    "gumbel-f8": {"widths": (32, 32, 64, 128), "blocks": 2, "attn": (3,), "gumbel": True},  # attention at 32
    "ldm-f4": {"widths": (32, 64, 128), "blocks": 2, "attn": (), "z": 3, "width": 3},
    "attention everywhere": {"attn": (0, 1)},
    "no attention": {"attn": (), "mid_attention": False},
}


def write(model: Taming, file: Path, **more: object) -> Path:
    torch.save({"epoch": 3, "state_dict": model.state_dict(), "optimizer_states": [{}], **more}, file)
    return file


@pytest.fixture(scope="module")
def taming() -> Taming:
    torch.manual_seed(0)
    return randomised(Taming())


@pytest.mark.parametrize("variant", VARIANTS)
def test_vqgan_codes_and_images_are_those_of_the_published_network(variant, tmp_path):
    theirs = randomised(Taming(**VARIANTS[variant]))
    ours = convert([write(theirs, tmp_path / "last.ckpt")], image_size=64)
    codes = theirs.codes(images(32))
    assert torch.equal(ours.encode(images(32)), codes)
    assert len(codes.unique()) > 2
    torch.testing.assert_close(ours.decode(codes), theirs.images(codes).clamp(-1, 1), atol=1e-4, rtol=1e-4)
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("loss.")}
    assert same_numbers(state, ours.state_dict())
    assert ours.stride == 2 ** (len(theirs.encoder.down) - 1)
    assert type(ours) is (GumbelVQModel if "gumbel" in variant else VQModel)


def test_vqgan_is_opened_by_diffusers_and_diffusers_folders_are_opened_here(taming, tmp_path):
    ours = convert([write(taming, tmp_path / "last.ckpt")], image_size=64)
    ours.save_pretrained(tmp_path / "ours")
    theirs = diffusers.VQModel.from_pretrained(tmp_path / "ours")
    z = theirs.encode(images()).latents
    codes = theirs.quantize(z)[2][2].view(2, 8, 8)
    assert torch.equal(ours.encode(images()), codes)
    torch.testing.assert_close(ours.decode(codes), theirs.decode(z).sample.clamp(-1, 1), atol=1e-4, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    again = open_image_tokenizer(tmp_path / "theirs")
    assert torch.equal(again.encode(images()), codes)
    assert torch.equal(again.decode(codes), ours.decode(codes))


def test_vqmodel_with_images_in_unit_range_is_an_image_tokenizer_too(taming, tmp_path):
    """aMUSEd's VQModel, whose decoder looks codes up, has images in [0, 1]."""
    ours = convert([write(taming, tmp_path / "last.ckpt")], image_size=64)
    arguments = {name: value for name, value in ours.config.items() if not name.startswith("_")}
    theirs = diffusers.VQModel(**arguments | {"lookup_from_codebook": True})
    theirs.load_state_dict(ours.state_dict())
    theirs.save_pretrained(tmp_path / "amused")
    amused = open_image_tokenizer(tmp_path / "amused")
    codes = theirs.quantize(theirs.encode((images() + 1) / 2).latents)[2][2].view(2, 8, 8)
    assert torch.equal(amused.encode(images()), codes)
    decoded = theirs.decode(codes, force_not_quantize=True, shape=(2, 8, 8, 5)).sample.clip(0, 1)
    torch.testing.assert_close(amused.decode(codes), decoded * 2 - 1, atol=1e-4, rtol=1e-4)


def test_vqgan_inside_a_larger_checkpoint_is_found(taming, tmp_path):
    inside = {f"first_stage_model.{name}": value for name, value in taming.state_dict().items()}
    others = {"transformer.tok_emb.weight": torch.ones(3, 2), "encoder.weight": torch.ones(2)}
    torch.save({"state_dict": inside | others}, tmp_path / "whole.ckpt")
    whole = convert([tmp_path / "whole.ckpt"], image_size=64).state_dict()
    alone = convert([write(taming, tmp_path / "last.ckpt")], image_size=64).state_dict()
    assert all(torch.equal(whole[name], alone[name]) for name in alone)


def config_of(resolution: int, **changes: object) -> dict:
    network = {"z_channels": 6, "resolution": resolution, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2]}
    network |= {"num_res_blocks": 1, "attn_resolutions": [resolution // 2], "double_z": False, "dropout": 0.0}
    params = {"embed_dim": 5, "n_embed": CODES, "ddconfig": network | changes}
    return {"model": {"target": "taming.models.vqgan.VQModel", "params": params}}


def test_vqgan_config_gives_the_resolution_and_must_agree(taming, tmp_path):
    file, config = write(taming, tmp_path / "last.ckpt"), tmp_path / "model.yaml"
    config.write_text(yaml.safe_dump(config_of(96)))
    assert convert([file], config).image_size == 96
    assert convert([file], config, image_size=64).image_size == 64
    with pytest.raises(ValueError, match="the image size 63 is not divisible by the stride 2"):
        convert([file], config, image_size=63)
    for changes, told in (
        ({"ch_mult": [1, 4]}, r"says ch · ch_mult \(32, 128\), but the weights have \(32, 64\)"),
        ({"attn_resolutions": [96]}, r"says attn_resolutions \[96\], but the weights have \[48\]"),
        ({"num_res_blocks": 2}, "says num_res_blocks 2, but the weights have 1"),
    ):
        config.write_text(yaml.safe_dump(config_of(96, **changes)))
        with pytest.raises(ValueError, match=told):
            convert([file], config)
    config.write_text("model: 3")
    with pytest.raises(ValueError, match=r"model\.yaml is no config of a VQGAN"):
        convert([file], config)


def test_lightning_callbacks_are_not_needed(taming, tmp_path):
    """Older Lightning stores a callback's state by the callback's class."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pytorch_lightning", ModuleType("pytorch_lightning"))
        patch.setitem(sys.modules, name, module)
        callbacks = {module.ModelCheckpoint: {"best_model_path": "a", "best_model_score": np.float64(0.5)}}
        file = write(taming, tmp_path / "last.ckpt", callbacks=callbacks)
    assert isinstance(convert([file], image_size=64), VQModel)


# --- folders and pipelines ------------------------------------------------------------------------------------------


@pytest.fixture(params=["openai", "taming", "gumbel"])
def converted(request, tmp_path) -> Path:
    """A folder made by the command."""
    if request.param == "openai":
        files = request.getfixturevalue("openai")[2]
    else:
        files = [write(randomised(Taming(gumbel=request.param == "gumbel")), tmp_path / "last.ckpt")]
    main(["convert", *map(str, files), "--out", str(tmp_path / "tokenizer"), "--image-size", "16"])
    return tmp_path / "tokenizer"


def test_converted_folders_open_and_save_bit_for_bit(converted, tmp_path):
    model = open_image_tokenizer(converted)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.save_pretrained(tmp_path / "again")
    again = open_image_tokenizer(tmp_path / "again")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    codes = model.encode(images())
    assert torch.equal(again.encode(images()), codes)
    assert torch.equal(again.decode(codes), model.decode(codes))


def test_codes_in_half_precision_are_nearly_those_in_single(converted):
    model = open_image_tokenizer(converted)
    codes = model.encode(images(64))
    half = model.to(torch.bfloat16)
    assert (half.encode(images(64)) == codes).float().mean() > 0.8
    assert half.decode(codes).dtype is torch.bfloat16


def test_a_pipeline_generates_with_a_converted_tokenizer(converted, text_tokenizer, tmp_path):
    image_tokenizer = open_image_tokenizer(converted)
    sizes = {"text_length": 8, "grid_size": image_tokenizer.grid_size, "width": 32, "layers": 1, "heads": 2}
    prior = TextImageTransformer(len(text_tokenizer), image_tokenizer.codebook_size, **sizes).eval()
    pipe = DallePipeline(text_tokenizer, prior, image_tokenizer)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "pipeline")
    again = AutoPipeline.from_pretrained(tmp_path / "pipeline")
    again.set_progress_bar_config(disable=True)
    first, second = (
        p("a red cat", generator=torch.Generator().manual_seed(0), output_type="pt").images for p in (pipe, again)
    )
    assert first.shape == (1, 3, 16, 16)
    assert torch.equal(first, second)


def test_the_command_says_what_it_made_and_what_it_left_out(taming, tmp_path, capsys):
    file = write(taming, tmp_path / "last.ckpt")
    note.cache_clear()  # each is printed once
    main(["convert", str(file), "--out", str(tmp_path / "vqgan")])
    printed = capsys.readouterr()
    assert "a VQModel of 0." in printed.out
    assert "50 codes, 128×128 of them for an image of 256×256" in printed.out
    assert "left out, as encoding and decoding do without: loss (2)" in printed.err
    assert "assumed are 256 pixels a side" in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "vqgan"]


def test_nothing_that_exists_is_written_over(taming, tmp_path):
    file = write(taming, tmp_path / "last.ckpt")
    for name in ("folder", "link"):
        out = tmp_path / name
        out.mkdir() if name == "folder" else out.symlink_to("nowhere")
        with pytest.raises(SystemExit, match="exists already: give another name"):
            main(["convert", str(file), "--out", str(out)])
    assert not any((tmp_path / "folder").iterdir())


def test_a_folder_that_appears_meanwhile_is_kept(taming, tmp_path, monkeypatch):
    model, out = convert([write(taming, tmp_path / "last.ckpt")], image_size=64), tmp_path / "vqgan"
    monkeypatch.setattr(model, "save_pretrained", lambda part: out.mkdir())
    with pytest.raises(ValueError, match="exists already"):
        save(model, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "vqgan"]
    assert not any(out.iterdir())


# --- files that are refused -----------------------------------------------------------------------------------------


class Attack:
    """A pickle that would run a command when it is read."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval])
@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_no_code_of_a_file_runs(function, form, taming, tmp_path):
    ran, file = tmp_path / "ran", tmp_path / "bad.ckpt"
    code = f"touch {ran}" if function is os.system else f"open({str(ran)!r}, 'w')"
    content = {"state_dict": taming.state_dict(), "more": Attack(function, code)}
    if form == "pickle":
        file.write_bytes(pickle.dumps(content["more"]))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ValueError, match="run code"):
        convert([file])
    assert not ran.exists()


def test_a_pickled_module_of_unknown_classes_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "linear.pkl")
    with pytest.raises(ValueError, match=r"linear\.pkl holds torch\.nn\.modules\.linear\.Linear, which could run code"):
        convert([tmp_path / "linear.pkl"])


def test_other_files_are_refused_with_the_reason(taming, openai, tmp_path):
    state = {name: value for name, value in taming.state_dict().items() if not name.startswith("loss.")}
    (tmp_path / "text.ckpt").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "other.pt")
    torch.save({"decoder.up_blocks.0.x": torch.ones(2), "encoder.down_blocks.0.x": torch.ones(2)}, tmp_path / "diff.pt")
    torch.save({k: v for k, v in state.items() if not k.startswith("quantize")}, tmp_path / "kl.ckpt")
    torch.save({k: v for k, v in state.items() if k != "decoder.conv_in.bias"}, tmp_path / "short.ckpt")
    torch.save({**state, "decoder.conv_in.more": torch.ones(1)}, tmp_path / "long.ckpt")
    torch.save({**state, "decoder.conv_in.bias": torch.ones(1)}, tmp_path / "shape.ckpt")
    torch.save({**state, "quantize.used": torch.ones(1)}, tmp_path / "remap.ckpt")
    torch.save({**state, "encoder.conv_in.weight": torch.ones(32, 20, 3, 3)}, tmp_path / "labels.ckpt")
    torch.save(state, tmp_path / "whole.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:5000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    for name, told in {
        "text.ckpt": "cannot be read as weights",
        "list.pt": "holds no tensors by name",
        "other.pt": r"holds 1 tensor \(layer\.weight\), in no layout that is known",
        "diff.pt": "in diffusers' layout already",
        "kl.ckpt": "a KL autoencoder",
        "short.ckpt": r"lack decoder\.conv_in\.bias",
        "long.ckpt": r"has no weight decoder\.conv_in\.more",
        "shape.ckpt": r"decoder\.conv_in\.bias is \(1,\), not \(64,\)",
        "remap.ckpt": "remap",
        "labels.ckpt": "no RGB images",
        "cut.ckpt": "cannot be read as weights",
        "cut.safetensors": "damaged or incomplete",
    }.items():
        with pytest.raises(ValueError, match=told) as caught:
            convert([tmp_path / name], image_size=64)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        convert([tmp_path / "nowhere.ckpt"])
    with pytest.raises(ValueError, match="in no layout that is known"):
        convert([openai[2][0], tmp_path / "other.pt"])


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "give the files to convert"),
        (["a.ckpt"], "--out FOLDER"),
        (["a.ckpt", "a.ckpt", "--out", "o"], "given twice"),
        (["a.ckpt", "--out", "o", "--image-size", "0"], "--image-size must be at least 1"),
        (["a.ckpt", "--out", "o"], "there is no file a.ckpt"),
    ],
)
def test_the_command_line_is_checked(args, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=told):
        main(["convert", *args])
