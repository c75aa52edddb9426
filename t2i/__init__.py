"""t2i: a text-to-image laboratory.

The public names, listed in `__init__.pyi`, are imported on first use, so that `import t2i` takes milliseconds.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
try:
    __version__ = version("t2i")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"
