"""Generated images: prompts, generation on all processes, and the manifest of what was made."""
