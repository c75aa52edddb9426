"""Evaluation of image tokenizers, `t2i eval tokenizers`: one pass over real images, one table, one report."""
