from .image_file import ImageError as ImageError
from .image_file import read_image as read_image
from .sources import open_source as open_source
