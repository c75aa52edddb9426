"""Sets of images: folders, features of their images, reference statistics, real and training images."""
