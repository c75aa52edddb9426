"""Text: from captions to token ids."""
