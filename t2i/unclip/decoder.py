"""The decoder of DALL·E 2: a denoiser given a CLIP image embedding (Ramesh et al. 2022, § 2.1).

As in the paper, the embedding is added to the timestep embedding and becomes a few tokens of the context of
cross-attention. Unlike there, the denoiser is a U-Net in the latent space of an autoencoder and starts from the weights
of a trained text-to-image system: what is new has zero effect at first. So that this holds for the tokens too, they do
not lengthen the context, but are added to its last positions, which in CLIP's texts are padding.

Shapes: B images · D width of the embeddings · L text positions · W width of the text states · K tokens
C, h, w latent
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.nn.linear import Linear
from t2i.unclip.embeddings import EmbeddingStatistics


class ImageProjection(ModelMixin, ConfigMixin):
    """From an image embedding to a U-Net's `class_labels` and `encoder_hidden_states`.

    It also stores the context of images without caption, the text states of the empty one.

    Args:
        embedding_dim, text_width, text_length: D, W, L.
        num_tokens: Tokens of the U-Net's context that hold the image embedding, K; it is also added to the timestep
            embedding.

    Raises ValueError for more tokens than L.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(self, embedding_dim: int, text_width: int, text_length: int, num_tokens: int = 4):
        super().__init__()
        if not 1 <= num_tokens <= text_length:
            raise ValueError(f"num_tokens must lie between 1 and {text_length}, not {num_tokens}")
        self.statistics = EmbeddingStatistics(embedding_dim, embedding_dim)
        self.register_buffer("no_caption", torch.zeros(text_length, text_width))
        self.tokens = Linear(embedding_dim, num_tokens * text_width)
        nn.init.zeros_(self.tokens.weight)
        nn.init.zeros_(self.tokens.bias)

    def forward(
        self, image_embeds: Tensor, states: Tensor | None = None, dropped: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, D) -> labels (B, D) and context (B, L, W).

        Args:
            states: text states of captions, (B, L, W); by default of none.
            dropped: (B,), true where the embedding is withheld, for classifier-free guidance.
        """
        scaled = self.statistics.scale(image_embeds)  # (B, D)
        if dropped is not None:
            scaled = scaled.masked_fill(dropped[:, None], 0)
        states = self.no_caption.expand(len(scaled), -1, -1) if states is None else states
        tokens = self.tokens(scaled).unflatten(1, (-1, states.shape[2]))  # (B, K, W)
        K = tokens.shape[1]
        return scaled, torch.cat([states[:, :-K], states[:, -K:] + tokens], 1)


class Decoder(nn.Module):
    """A U-Net and its projection as one denoiser, for training."""

    def __init__(self, unet: UNet2DConditionModel, projection: ImageProjection):
        super().__init__()
        self.unet, self.projection = unet, projection

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        *,
        image_embeds: Tensor,
        dropped: Tensor | None = None,
    ):
        """The U-Net's output for x (B, C, h, w), text states (B, L, W) and embeddings (B, D)."""
        labels, context = self.projection(image_embeds, encoder_hidden_states, dropped)
        return self.unet(x, timesteps, context, class_labels=labels, encoder_attention_mask=encoder_attention_mask)


def with_embedding(unet: UNet2DConditionModel, embedding_dim: int) -> UNet2DConditionModel:
    """A copy of a U-Net that also takes an embedding (B, D) as its `class_labels`, at first without effect.

    Raises ValueError for a U-Net that takes class labels already.
    """
    if unet.config.class_embed_type is not None or unet.config.num_class_embeds is not None:
        raise ValueError("the U-Net takes class labels already: start from one that is conditioned on text only")
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": embedding_dim}
    new = UNet2DConditionModel.from_config(config)
    unexpected = new.load_state_dict(unet.state_dict(), strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"the U-Net has the weights {unexpected[0]}, which are no part of its config")
    nn.init.zeros_(new.class_embedding.linear_2.weight)
    nn.init.zeros_(new.class_embedding.linear_2.bias)
    return new.to(unet.device, unet.dtype).train(unet.training)
