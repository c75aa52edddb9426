"""CLIP on toybox: the text encoder for latent diffusion, and a score of image–text similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from t2i.checks import check_real
from t2i.contact_sheet import contact_sheet
from t2i.data.sources import Source
from t2i.data.toybox import near_misses as toybox_misses
from t2i.data.toybox.dataset import SceneDataset
from t2i.data.toybox_v1 import Scene as SceneV1
from t2i.data.toybox_v1 import near_misses as toybox_v1_misses
from t2i.images import to_pil, to_tensor
from t2i.text.clip import contrastive_loss, make_clip, tokenize, train_clip_tokenizer
from t2i.text.pretrained import load
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.recipes.text.base import NEW_SEED, Scenes, TextTask
from t2i.training.recipes.toybox import TOYBOX
from t2i.training.task import Evaluation
from t2i.weights import copy_weights

EVALUATED = 256  # pairs


@dataclass(frozen=True)
class ClipRecipe:
    """Options of `t2i train clip-toybox`."""

    near_misses: int = 3
    """Number of hard negatives per toybox scene, each with one fact changed: attributes or places swapped, another
    kind, attribute, count or relation. Without them, a bag of words would suffice. Other data has none."""
    two_things: float = 0.6
    """Fraction of toybox scenes to replace by scenes of two things, in addition to those that already have two."""
    retold_weight: float = 1.0
    """Weight of the loss between each toybox caption and a paraphrase that begins with the scene's other thing."""
    init_from: str | None = None
    """CLIP to initialise from, such as another run's `latest`; by default weights are random."""
    data: DataConfig = field(default_factory=DataConfig)
    vocab_size: int = 1024
    """Maximum vocabulary size, learned from the captions; 514 of the tokens suffice to spell any text."""
    text_length: int = 32
    """Length of a text in tokens, including start and end tokens; longer captions are truncated."""
    model: ModelOptions = field(default_factory=lambda: model_options(make_clip))
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_real("near_misses", self.near_misses, most=8)
        check_real("two_things", self.two_things, most=1)
        check_real("retold_weight", self.retold_weight)
        if self.loop.gradient_accumulation_steps != 1:
            raise ValueError(
                "gradient accumulation does not enlarge the contrastive batch; leave --gradient-accumulation-steps at "
                "1 and set --train-batch-size"
            )

    def task(self) -> ClipTask:
        return ClipTask(self)


def clip_toybox(preset: str = "base") -> ClipRecipe:
    """A CLIP for 128×128 images: 2 M parameters for texts of 40 tokens, 1 M for images in 64 patches.

    A batch of n holds n scenes with three hard negatives each: 4 n pairs. With image–text pairs alone, the model did
    not learn attribute binding in this time: it knew every word of "a red cat on top of a blue car", but not which
    belong together. From two captions of the same scene the text encoder learns it within a hundred steps, and the
    image encoder follows.

    base: `t2i train clip-toybox --mixed-precision bf16`
    tiny: `t2i train clip-toybox --preset tiny`, a minute on one core
    """
    if preset == "tiny":
        text = {"text_width": 64, "text_layers": 2, "text_heads": 2}
        image = {"image_width": 64, "image_layers": 2, "image_heads": 2}
        model = model_options(make_clip, **text, **image, dim=64)
        steps = {"max_train_steps": 150, "checkpointing_steps": 75, "lr_warmup_steps": 20}
        loop = LoopConfig("runs/tiny-clip", train_batch_size=12, optimizer="muon", learning_rate=4e-3, **steps)
        return ClipRecipe(vocab_size=768, model=model, loop=loop)
    steps = {"max_train_steps": 6_000, "checkpointing_steps": 1_000}
    loop = LoopConfig("runs/clip-toybox", train_batch_size=24, optimizer="muon", learning_rate=4e-3, **steps)
    model = model_options(make_clip, patch_size=16)
    return ClipRecipe(data=TOYBOX, vocab_size=2048, text_length=40, model=model, loop=loop)


class ClipTask(TextTask):
    """Trains a joint embedding space of images and captions."""

    SHOWN = 16
    next_command = "t2i train ldm-toybox --text-encoder {run}/latest, with the same --data and --image-size"

    def __init__(self, recipe: ClipRecipe):
        self.recipe, size, seed = recipe, recipe.data.image_size, recipe.loop.seed
        data = recipe.data.open(seed)
        train = partial(train_clip_tokenizer, vocab_size=recipe.vocab_size, length=recipe.text_length)
        super().__init__(data, train, room=recipe.text_length - 2)
        self.source = Scenes(data) if isinstance(data, SceneDataset) else data
        self.held_out = held_out_pairs(data)
        self.prepare = PreparePairs(self.tokenizer, recipe.near_misses, recipe.two_things, size)
        torch.manual_seed(seed)  # the same initial weights on every process
        self.model = recipe.model.build(self.tokenizer, size)
        if recipe.init_from:
            self.fingerprint["init_from_sha256"] = load_weights(self.model, recipe.init_from)

    def loss(self, images: Tensor, text: Tensor, retold: Tensor | None = None) -> dict[str, Tensor]:
        """images: uint8 (B, K, S, S, 3); text, retold: ids (B, K, T)"""
        retold = retold if retold is None else retold.flatten(0, 1)
        pixels = to_tensor(images.flatten(0, 1))
        return contrastive_loss(self.model, pixels, text.flatten(0, 1), retold, self.recipe.retold_weight)

    def preview(self) -> Image.Image:
        """Held-out images, each with the caption of highest similarity among all of theirs."""
        images, captions = self.held_out
        best = cosines(self.model, self.tokenizer, images, captions).argmax(1).tolist()
        labels = [captions[j] if i == j else f"{captions[j]} (truth: {captions[i]})" for i, j in enumerate(best)]
        return contact_sheet(to_pil(to_tensor(images[: self.SHOWN])), labels[: self.SHOWN], columns=8, max_lines=4)

    def save(self, folder: Path) -> None:
        """Save files for CLIPModel, CLIPTextModel, CLIPTokenizer and CLIPImageProcessor."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        size, half = self.recipe.data.image_size, [0.5] * 3  # [0, 1] becomes [-1, 1], as in training
        sides = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
        CLIPImageProcessor(**sides, image_mean=half, image_std=half).save_pretrained(folder)

    def evaluate(self) -> Evaluation:
        scores = retrieval(self.model, self.tokenizer, *self.held_out)
        if isinstance(self.source, Scenes):
            scores |= near_misses_right(
                self.model, self.tokenizer, type(self.source.toybox), self.recipe.data.image_size
            )
        return Evaluation(scores)


@dataclass(frozen=True)
class PreparePairs:
    """Prepares a scene and its hard negatives, each with an image and two captions; other data gives one pair."""

    tokenizer: CLIPTokenizer
    near_misses: int
    two_things: float
    image_size: int

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> images, uint8 (K, S, S, 3); text and, for scenes, retold, ids (K, T)"""
        if "scene" not in item:
            return {"images": item["image"][None], "text": tokenize(self.tokenizer, [item["text"]])}
        scene = item["scene"]
        if rng.random() < self.two_things:
            scene = type(scene).sample(rng, "train", "relation" if isinstance(scene, SceneV1) else "place")
        misses = _misses(scene)
        scenes = [scene, *misses.near_misses(scene, self.near_misses, rng)]
        return {
            "images": np.stack([np.array(scene.render(self.image_size)) for scene in scenes]),
            "text": tokenize(self.tokenizer, [scene.caption(rng) for scene in scenes]),
            "retold": tokenize(self.tokenizer, [misses.turned_round(scene).caption() for scene in scenes]),
        }


def _misses(scene) -> ModuleType:
    """The near misses of the world of toybox that a scene is of."""
    return toybox_v1_misses if isinstance(scene, SceneV1) else toybox_misses


def load_weights(model: CLIPModel, folder: str) -> str:
    """Load another model's weights; returns their digest. Raises ValueError if sizes differ."""
    return copy_weights(load(CLIPModel, folder, "clip"), model, folder)


def held_out_pairs(source: Source) -> tuple[Tensor, list[str]]:
    """256 images, uint8 (N, S, S, 3), and their captions, from another toybox seed, or the first of other data."""
    if isinstance(source, SceneDataset):
        source = type(source)("train", source.size, NEW_SEED, EVALUATED)
    items = [source[i] for i in range(min(EVALUATED, len(source)))]
    return torch.from_numpy(np.stack([item["image"] for item in items])), [item["text"] for item in items]


@torch.no_grad()
def embed_texts(model: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """M texts -> (M, D), normalized, on the CPU"""
    ids = tokenize(tokenizer, list(texts)).to(model.device)
    return F.normalize(model.text_projection(model.text_model(ids).pooler_output), dim=-1).cpu()


@torch.no_grad()
def cosines(model: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, texts: Sequence[str]) -> Tensor:
    """uint8 (N, S, S, 3) and M texts -> (N, M)"""
    pixels = to_tensor(images).to(model.device)
    image_embeddings = F.normalize(model.visual_projection(model.vision_model(pixels).pooler_output), dim=-1).cpu()
    return image_embeddings @ embed_texts(model, tokenizer, texts).T


def retrieval(model: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, texts: Sequence[str]) -> dict[str, float]:
    """Recall@1 among N pairs in both directions; may stay below 1, as two scenes can share a caption."""
    similarity, truth = cosines(model, tokenizer, images, texts), torch.arange(len(texts))
    return {
        "pairs": len(texts),
        "image_to_text_recall_at_1": (similarity.argmax(1) == truth).float().mean().item(),
        "text_to_image_recall_at_1": (similarity.argmax(0) == truth).float().mean().item(),
    }


def near_misses_right(
    model: CLIPModel, tokenizer: CLIPTokenizer, world: type[SceneDataset], size: int, num: int = 128
) -> dict[str, float]:
    """Accuracy of identifying the canonical caption of a two-thing scene among three near misses (chance: 1/4).

    In the first two near misses attributes or places are swapped, which a bag of words cannot detect.

    Returns:
        "near_misses_seen_right": identified from the image; "near_misses_told_right": from the caption that begins with
        the other thing.
    """
    data, from_image, from_text = world("train", size, NEW_SEED + 1, num, world.pairs), 0, 0
    for i in range(num):
        scene, _ = data.scene(i)
        misses = _misses(scene)
        texts = [s.caption() for s in (scene, *misses.near_misses(scene, 3, np.random.default_rng(i)))]
        image = torch.from_numpy(np.array(scene.render(size)))[None]
        again, *words = embed_texts(model, tokenizer, [misses.turned_round(scene).caption(), *texts])
        from_image += int(cosines(model, tokenizer, image, texts).argmax()) == 0
        from_text += int((torch.stack(words) @ again).argmax()) == 0
    return {"near_misses_seen_right": from_image / num, "near_misses_told_right": from_text / num}
