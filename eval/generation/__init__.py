"""Generated images: prompts, generation on all processes, and the manifest."""
