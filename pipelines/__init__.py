"""Prompt → image. The names are imported on first use, so that a command line can refuse bad input without torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
