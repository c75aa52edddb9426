"""CLIP on toybox: the text encoder of latent diffusion, and a judge of how well pictures fit their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from t2i.contact_sheet import contact_sheet
from t2i.data.sources import Source, open_source
from t2i.data.toybox import Scene, Toybox
from t2i.data.toybox.near_misses import near_misses, turned_round
from t2i.images import to_pil, to_tensor
from t2i.text.captions import LOOKED_AT, warn_of_long_captions
from t2i.text.clip import contrastive_loss, make_clip, tokenize, train_clip_tokenizer
from t2i.text.pretrained import load
from t2i.training.config import DataConfig, LoopConfig, check_image_size
from t2i.training.task import Evaluation, Task
from t2i.weights import digest, tokenizer_digest

BPE_CAPTIONS = 50_000  # how many captions the vocabulary is learned from
NEW_SEED = 2**20  # pictures of the scores come from another world than the run's, which is seeded from 0 up
SCORED = 256  # pairs


@dataclass(frozen=True)
class ClipModelConfig:
    vocab_size: int = 1024
    """Tokens at most; learned from the captions. 514 of them spell any text."""
    text_length: int = 32
    """Tokens of a text, start and end among them; longer captions are cut."""
    text_width: int = 192
    text_layers: int = 4
    text_heads: int = 3
    patch_size: int = 8
    image_width: int = 128
    image_layers: int = 5
    image_heads: int = 4
    dim: int = 192
    """Width of the space that pictures and texts share."""


@dataclass(frozen=True)
class ClipRecipe:
    near_misses: int = 3
    """Pairs beside each toybox scene that differ from it in one fact: attributes exchanged, places exchanged, another
    kind, attribute, count or relation. Without them a bag of words would do. Other data have none."""
    two_things: float = 0.6
    """Share of toybox scenes that are made ones of two things, on top of those that are: the rest is learned early."""
    retold_weight: float = 1.0
    """Of the loss between each toybox caption and the canonical one of the same scene told from its other thing."""
    start_from: str | None = None
    """A CLIP whose weights the run starts from, such as another run's `latest`; by default it starts from chance."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ClipModelConfig = field(default_factory=ClipModelConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_image_size(self.data.image_size)
        if not 0 <= self.near_misses <= 8:
            raise ValueError(f"near_misses must lie in [0, 8], not {self.near_misses}")
        if not 0 <= self.two_things <= 1:
            raise ValueError(f"two_things must lie in [0, 1], not {self.two_things}")
        if not self.retold_weight >= 0:
            raise ValueError(f"retold_weight must be at least 0, not {self.retold_weight}")
        if self.loop.gradient_accumulation_steps != 1:
            raise ValueError(
                "a contrastive loss compares the pairs of one forward pass, which accumulation does not make more; "
                "leave --gradient-accumulation-steps at 1 and set --train-batch-size"
            )

    def stage(self) -> ClipStage:
        return ClipStage(self)


def clip_toybox(preset: str = "base") -> ClipRecipe:
    """A CLIP of 64×64 pictures: 2 M parameters read texts of 32 tokens, 1 M read pictures.

    A batch of n is n scenes with three near misses each: 4 n pairs. Pictures alone taught no binding in this time: told
    "a red cat on top of a blue car", the towers knew all words and not which belong together. Between two tellings of
    the same scene the text tower learns that within a hundred steps, and the pictures follow.

    base: `t2i train clip-toybox --mixed-precision bf16`, 20 minutes on one core
    tiny: `t2i train clip-toybox --preset tiny`, a minute on one core
    """
    if preset == "tiny":
        run = "runs/tiny-clip"
        model = ClipModelConfig(768, 32, 64, 2, 2, image_width=64, image_layers=2, image_heads=2, dim=64)
        steps = {"max_train_steps": 150, "checkpointing_steps": 75, "lr_warmup_steps": 20}
        loop = LoopConfig(run, train_batch_size=12, optimizer="muon", learning_rate=4e-3, **steps)
        return ClipRecipe(model=model, loop=loop)
    run = "runs/clip-toybox"
    loop = LoopConfig(
        run,
        max_train_steps=1_200,
        train_batch_size=24,
        checkpointing_steps=200,
        optimizer="muon",
        learning_rate=4e-3,
        lr_warmup_steps=50,
    )
    return ClipRecipe(loop=loop)


class ClipStage(Task):
    """Pictures and captions in one space."""

    SHOWN = 16
    next_command = "t2i train ldm-toybox --text-encoder {run}/latest, with the same --data and --image-size"

    def __init__(self, recipe: ClipRecipe):
        data, model = recipe.data, recipe.model
        self.recipe = recipe
        source = open_source(data.data, data.image_size, data.image_column, data.caption_column, recipe.loop.seed)
        self.tokenizer = train_clip_tokenizer(source.captions(BPE_CAPTIONS), model.vocab_size, model.text_length)
        warn_of_long_captions(source.captions(LOOKED_AT), self.tokenizer, model.text_length - 2)
        self.source = Undrawn(source) if isinstance(source, Toybox) else source
        self.new_pairs = new_pairs(source)
        self.prepare = PreparePairs(self.tokenizer, recipe.near_misses, recipe.two_things, data.image_size)
        self.fingerprint = {"text_tokenizer_sha256": tokenizer_digest(self.tokenizer)}
        torch.manual_seed(recipe.loop.seed)  # the same start on every process
        self.model = make_clip(
            self.tokenizer,
            data.image_size,
            model.patch_size,
            text=(model.text_width, model.text_layers, model.text_heads),
            vision=(model.image_width, model.image_layers, model.image_heads),
            dim=model.dim,
        )
        if recipe.start_from:
            self.fingerprint["start_from_sha256"] = start_from(self.model, recipe.start_from)
        self.model.enable_gradient_checkpointing = self.model.gradient_checkpointing_enable  # the loop's name for it

    def loss(self, images: Tensor, text: Tensor, retold: Tensor | None = None) -> dict[str, Tensor]:
        """images: uint8 (B, K, S, S, 3); text, retold: ids (B, K, T)"""
        retold = retold if retold is None else retold.flatten(0, 1)
        pixels = to_tensor(images.flatten(0, 1))
        return contrastive_loss(self.model, pixels, text.flatten(0, 1), retold, self.recipe.retold_weight)

    def preview(self) -> Image.Image:
        """New pictures, and under each the caption that the model finds for it among 256."""
        images, captions = self.new_pairs
        best = cosines(self.model, self.tokenizer, images, captions).argmax(1).tolist()
        labels = [captions[j] if i == j else f"{captions[j]} (truth: {captions[i]})" for i, j in enumerate(best)]
        return contact_sheet(to_pil(to_tensor(images[: self.SHOWN])), labels[: self.SHOWN], columns=8, max_lines=4)

    def save(self, folder: Path) -> None:
        """What CLIPModel, CLIPTextModel, CLIPTokenizer and CLIPImageProcessor open."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        size, half = self.recipe.data.image_size, [0.5] * 3  # [0, 1] becomes [-1, 1], as in training
        sides = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
        CLIPImageProcessor(**sides, image_mean=half, image_std=half).save_pretrained(folder)

    def evaluate(self) -> Evaluation:
        scores = retrieval(self.model, self.tokenizer, *self.new_pairs)
        if isinstance(self.source, Undrawn):
            scores |= near_misses_right(self.model, self.tokenizer, self.recipe.data.image_size)
        return Evaluation(scores)


@dataclass(frozen=True)
class PreparePairs:
    """A scene and its near misses, each as picture and two captions; of data without scenes the one pair."""

    tokenizer: CLIPTokenizer
    near_misses: int
    two_things: float
    image_size: int

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> images, uint8 (K, S, S, 3); text and, of scenes, retold, ids (K, T)"""
        if "scene" not in item:
            return {"images": item["image"][None], "text": tokenize(self.tokenizer, [item["text"]])}
        scene = item["scene"]
        if rng.random() < self.two_things:
            scene = Scene.sample(rng, "train", "relation")
        scenes = [scene, *near_misses(scene, self.near_misses, rng)]
        return {
            "images": np.stack([np.array(scene.render(self.image_size)) for scene in scenes]),
            "text": tokenize(self.tokenizer, [scene.caption(rng) for scene in scenes]),
            "retold": tokenize(self.tokenizer, [turned_round(scene).caption() for scene in scenes]),
        }


class Undrawn:
    """Toybox's scenes without their pictures, which `PreparePairs` draws of those that it takes."""

    def __init__(self, toybox: Toybox):
        self.toybox = toybox

    def __len__(self) -> int:
        return len(self.toybox)

    def __getitem__(self, index: int) -> dict:
        return {"scene": self.toybox.scene(index)[0]}

    def fingerprint(self) -> str:
        return self.toybox.fingerprint()


def start_from(model: CLIPModel, folder: str) -> str:
    """Give the model another's weights; their digest. Raises ValueError where the two are not of the same sizes."""
    other = load(CLIPModel, folder, "clip")
    try:
        model.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise ValueError(f"{folder} has other sizes or tokens than this recipe; give one that it trained") from error
    return digest(other)


def new_pairs(source: Source) -> tuple[Tensor, list[str]]:
    """256 pictures, uint8 (N, S, S, 3), and their captions: toybox scenes that no run has seen, else the first ones."""
    if isinstance(source, Toybox):
        source = Toybox("train", source.size, NEW_SEED, SCORED)
    items = [source[i] for i in range(min(SCORED, len(source)))]
    return torch.from_numpy(np.stack([item["image"] for item in items])), [item["text"] for item in items]


@torch.no_grad()
def embed_texts(model: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """M texts -> (M, D), of length 1, on the CPU"""
    ids = tokenize(tokenizer, list(texts)).to(model.device)
    return F.normalize(model.text_projection(model.text_model(ids).pooler_output), dim=-1).cpu()


@torch.no_grad()
def cosines(model: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, texts: Sequence[str]) -> Tensor:
    """uint8 (N, S, S, 3) and M texts -> (N, M)"""
    pixels = to_tensor(images).to(model.device)
    pictures = F.normalize(model.visual_projection(model.vision_model(pixels).pooler_output), dim=-1).cpu()
    return pictures @ embed_texts(model, tokenizer, texts).T


def retrieval(model: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, texts: Sequence[str]) -> dict[str, float]:
    """Recall@1 among N pairs, both ways. Two scenes may be told alike, so that even the truth misses some."""
    found, own = cosines(model, tokenizer, images, texts), torch.arange(len(texts))
    return {
        "pairs": len(texts),
        "image_to_text_recall_at_1": (found.argmax(1) == own).float().mean().item(),
        "text_to_image_recall_at_1": (found.argmax(0) == own).float().mean().item(),
    }


def near_misses_right(model: CLIPModel, tokenizer: CLIPTokenizer, size: int, num: int = 128) -> dict[str, float]:
    """How often two things find their canonical caption among those of three near misses; chance is 1/4.

    The first two near misses have the attributes exchanged, and the places: a bag of words cannot tell them apart.

    Returns:
        "seen": asked with the picture; "told": with the caption that starts from the other thing.
    """
    data, seen, told = Toybox("train", size, NEW_SEED + 1, num, family="relation"), 0, 0
    for i in range(num):
        scene, _ = data.scene(i)
        texts = [s.caption() for s in (scene, *near_misses(scene, 3, np.random.default_rng(i)))]
        image = torch.from_numpy(np.array(scene.render(size)))[None]
        again, *words = embed_texts(model, tokenizer, [turned_round(scene).caption(), *texts])
        seen += int(cosines(model, tokenizer, image, texts).argmax()) == 0
        told += int((torch.stack(words) @ again).argmax()) == 0
    return {"near_misses_seen_right": seen / num, "near_misses_told_right": told / num}
