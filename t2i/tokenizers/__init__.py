"""Image tokenizers: image ⇄ grid of codes or latents."""
