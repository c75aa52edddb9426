"""CLIP (Radford et al. 2021, arXiv 2103.00020): training of tokenizer and model, with transformers' classes.

Shapes: B pairs · T tokens · D dimension of the joint embedding space
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from t2i.text.bpe import known_words

START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"  # end of a word; distinguishes "car" from the beginning of "carpet"
MIN_VOCABULARY = 514  # every byte, every byte that ends a word, and the two special tokens
MAX_LOGIT_SCALE = math.log(100)


def train_clip_tokenizer(captions: Iterable[str], vocab_size: int, length: int) -> CLIPTokenizer:
    """Train a tokenizer with at most `vocab_size` tokens in CLIP's order: bytes, word-final bytes, merges, start, end.

    Texts are padded with the end token, as in CLIP, and truncated to `length` tokens including the end token. The
    tokenizer also stores the captions' words, see `known_words`.

    Raises ValueError for captions that are all empty and for fewer than 514 tokens, which could not encode every text.
    """
    captions = [str(c) for c in captions]
    if not any(c.strip() for c in captions):
        raise ValueError("there is no text to learn a vocabulary from: every caption is empty")
    if vocab_size < MIN_VOCABULARY:
        raise ValueError(f"a CLIP vocabulary has at least {MIN_VOCABULARY} tokens, not {vocab_size}")
    if length < 3:
        raise ValueError(f"a text needs room for a start, a word and an end: length must be at least 3, not {length}")
    like = CLIPTokenizer().backend_tokenizer  # its normaliser and pre-tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=SUFFIX))
    learner.normalizer, learner.pre_tokenizer = like.normalizer, like.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The trainer counts only word-final letters that occur, so that this never gives too few merges.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix=SUFFIX, show_progress=False
    )
    learner.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = dict.fromkeys([*alphabet, *(letter + SUFFIX for letter in alphabet)])
    kept = []
    for pair in merges:
        if len(tokens) == vocab_size - 2:
            break
        tokens["".join(pair)] = None
        kept.append(pair)
    vocabulary = {token: i for i, token in enumerate([*tokens, START, END])}
    known = known_words(captions)
    return CLIPTokenizer(vocab=vocabulary, merges=kept, model_max_length=length, known_words=known)


def make_clip(
    tokenizer: CLIPTokenizer,
    image_size: int,
    text_width: int = 192,
    text_layers: int = 4,
    text_heads: int = 3,
    patch_size: int = 8,
    image_width: int = 128,
    image_layers: int = 5,
    image_heads: int = 4,
    dim: int = 192,
) -> CLIPModel:
    """A new CLIP for the vocabulary of a tokenizer.

    Args:
        tokenizer: The tokenizer, which sets the size of the vocabulary and the length of texts.
        image_size: Side of the images, in pixels.
        text_width: Width of the text encoder, in channels.
        text_layers: Number of layers in the text encoder.
        text_heads: Attention heads per layer in the text encoder.
        patch_size: Side of the image encoder's patches, in pixels.
        image_width: Width of the image encoder, in channels.
        image_layers: Number of layers in the image encoder.
        image_heads: Attention heads per layer in the image encoder.
        dim: Dimensions of the joint embedding space of images and texts, D.

    Raises ValueError if the patches do not tile the image or the heads do not divide the width.
    """
    if image_size % patch_size:
        raise ValueError(f"patches of {patch_size} pixels do not tile an image of {image_size}")
    for width, heads in ((text_width, text_heads), (image_width, image_heads)):
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    places = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    patches = {"image_size": image_size, "patch_size": patch_size}
    config = CLIPConfig(
        text_config=_tower(text_width, text_layers, text_heads, dim) | ends | places,
        vision_config=_tower(image_width, image_layers, image_heads, dim) | patches,
        projection_dim=dim,
    )
    # On a CPU and at these lengths, a training step takes 1.5 times as long with sdpa.
    return CLIPModel._from_config(config, attn_implementation="eager")


def _tower(width: int, layers: int, heads: int, dim: int) -> dict:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": dim}
    return sizes | {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_act": "gelu"}


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Texts -> ids (B, T), T the tokenizer's length, padded with the end token."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]


def contrastive_loss(
    model: CLIPModel, images: Tensor, ids: Tensor, retold: Tensor | None = None, retold_weight: float = 1.0
) -> dict[str, Tensor]:
    """Symmetric contrastive loss between images and texts over the global batch of all processes (figure 3).

    With paraphrases of the captions (`retold`), a second loss of the same form between the two texts is added (as in
    supervised SimCSE, Gao et al. 2021, arXiv 2104.08821, eq. 5).

    Uses open_clip's loss. Features are gathered with gradients, so that two processes with half the batch each give,
    averaged by DistributedDataParallel, the same gradient as one process with the whole batch.

    Args:
        images: (B, 3, S, S) in [-1, 1].
        ids, retold: (B, T), as returned by `tokenize`; the same B on every process.

    Returns:
        Scalars: `loss` to minimise; the retrieval accuracies `image_to_text` and `text_to_image` among the B pairs of
        this process, and with `retold` also `text_to_text`; `logit_scale`.
    """
    with torch.no_grad():
        model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    visual = model.visual_projection(model.vision_model(images).pooler_output)  # (B, D)
    texts = _embed(model, ids if retold is None else torch.cat([ids, retold]))  # (B, D) or (2 B, D)
    with torch.autocast(images.device.type, enabled=False):  # scaled by 100, bfloat16 would be off by a third
        visual, texts = F.normalize(visual.float(), dim=-1), F.normalize(texts.float(), dim=-1)
        texts, *retold_texts = texts.split(len(visual))
        scale, contrastive_loss = model.logit_scale.float().exp(), _loss_over_processes()
        loss = contrastive_loss(visual, texts, scale)
        accuracies = {"image_to_text": _accuracy(visual, texts), "text_to_image": _accuracy(texts, visual)}
        for other in retold_texts:
            loss = loss + retold_weight * contrastive_loss(texts, other, scale)
            accuracies["text_to_text"] = _accuracy(texts, other)
    return {"loss": loss, **accuracies, "logit_scale": scale.detach()}


def _embed(model: CLIPModel, ids: Tensor) -> Tensor:
    """(B, T) -> (B, D), without common padding: with causal attention, tokens after the end have no effect."""
    longest = int((ids == model.config.text_config.eos_token_id).int().argmax(1).max()) + 1
    return model.text_projection(model.text_model(ids[:, :longest]).pooler_output)


def _loss_over_processes():
    from open_clip import ClipLoss

    many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    rank, world = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
    return ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=world)


@torch.no_grad()
def _accuracy(queries: Tensor, candidates: Tensor) -> Tensor:
    """The fraction of rows most similar to the row of the same index."""
    return ((queries @ candidates.T).argmax(1) == torch.arange(len(queries), device=queries.device)).float().mean()
