"""The commands that generate images: generate, edit, inpaint, interpolate, upscale, layout, sample."""
