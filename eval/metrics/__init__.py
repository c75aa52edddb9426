"""Metrics as pure functions over features: arrays or tensors in, numbers out; no models, no files.

Two sets are given as (generated, reference). Everything is computed in float64. Randomness is controlled by a `seed`
argument only.
"""

from t2i.eval.metrics.bootstrap import Interval, bootstrap_interval, half_sample_intervals
from t2i.eval.metrics.clip_score import clip_score, r_precision
from t2i.eval.metrics.common import Scores
from t2i.eval.metrics.frechet import FDInfinity, fd_infinity, frechet_distance
from t2i.eval.metrics.images import diversity, psnr, ssim
from t2i.eval.metrics.inception_score import InceptionScore, inception_score
from t2i.eval.metrics.kernel import KID, cmmd, kid, kid_interval, mmd_error
from t2i.eval.metrics.manifold import DensityCoverage, Manifold, PrecisionRecall, density_coverage, precision_recall
from t2i.eval.metrics.memorization import NearCopies, near_copies, nearest
from t2i.eval.metrics.moments import Gaussian, Moments
from t2i.eval.metrics.proportion import proportion, share
from t2i.eval.metrics.tokenizers import CodeUsage, code_usage, cosine_distance

__all__ = [
    "KID",
    "CodeUsage",
    "DensityCoverage",
    "FDInfinity",
    "Gaussian",
    "InceptionScore",
    "Interval",
    "Manifold",
    "Moments",
    "NearCopies",
    "PrecisionRecall",
    "Scores",
    "bootstrap_interval",
    "clip_score",
    "cmmd",
    "code_usage",
    "cosine_distance",
    "density_coverage",
    "diversity",
    "fd_infinity",
    "frechet_distance",
    "half_sample_intervals",
    "inception_score",
    "kid",
    "kid_interval",
    "mmd_error",
    "near_copies",
    "nearest",
    "precision_recall",
    "proportion",
    "psnr",
    "r_precision",
    "share",
    "ssim",
]
