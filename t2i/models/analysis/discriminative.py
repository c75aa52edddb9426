"""Generative classification, p(x | y) with Bayes' rule, and discriminative, p(y | x) (Ng and Jordan 2001, "On
discriminative vs. generative classifiers").

A generative classifier handles missing values by marginalisation: exactly in naive Bayes (any values), autoregressive
models (pixels at the end) and mixtures of Gaussians; within its bound in a VAE, which omits factors given the latents.
Shapes: B batch · C channels · S image side · N dimensions of an image or features · K classes
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from torch import Tensor

from t2i.models.base import GenerativeModel, Generators, density_images
from t2i.notes import with_article

NaiveBayes = GaussianNB | BernoulliNB
VAR_SMOOTHING = 0.02  # fraction of the largest variance: with scikit-learn's 1e-9, constant pixels would dominate


@torch.no_grad()
def bayes_classify(
    model: GenerativeModel,
    images: Tensor,
    prior: Tensor | None = None,
    known: Tensor | None = None,
    generator: Generators = None,
    samples: int = 1,
) -> Tensor:
    """ln p(y | x) by Bayes' rule from a model of p(x | y), or from a bound of it: (B, C, S, S) -> (B, K).

    Args:
        images: images of L levels; a density is scored on one dequantisation of them.
        prior: p(y), (K,), above 0; by default uniform.
        known: bool (S, S) or (B, S, S): the other pixels are ignored; see `GenerativeModel.partial` for what a model
            supports.
        generator, samples: for dequantisation and bounds, see `log_likelihood`; the noise is the same for all classes,
            so that their scores differ only by the model.

    Raises ValueError for a model without labels or likelihood, or without a likelihood of the known pixels.
    """
    if not model.conditional or model.likelihood == "none":
        raise ValueError(f"need a model of p(x | y): {with_article(type(model).__name__)} trained with --conditional")
    if known is not None and model.partial == "none":
        raise ValueError(f"{with_article(type(model).__name__)} cannot score a part of an image: leave out `known`")
    classes = model.num_classes
    if prior is not None and (prior.shape != (classes,) or not (prior > 0).all()):
        raise ValueError(f"the prior must be {classes} probabilities above 0, not {prior}")
    x, _ = density_images(model, images, generator)  # the same for all classes
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
    states, scores = [g.get_state() for g in generators], []
    for k in range(classes):
        for g, state in zip(generators, states, strict=True):
            g.set_state(state)
        y = torch.full((len(x),), k, device=x.device)
        part = {} if known is None else {"known": known}
        exact = model.likelihood == "exact"
        scores.append(model.log_prob(x, y, **part) if exact else model.elbo(x, y, generator, samples, **part))
    joint = torch.stack(scores, dim=1).double()
    return (joint if prior is None else joint + prior.to(joint).log()).log_softmax(1)


def fit_gaussian(x: np.ndarray, y: np.ndarray) -> GaussianNB:
    """Gaussian naive Bayes: mean and variance of each feature per class. (B, N), (B,)"""
    return GaussianNB(var_smoothing=VAR_SMOOTHING).fit(x, y)


def fit_bernoulli(x: np.ndarray, y: np.ndarray, threshold: float = 0.5) -> BernoulliNB:
    """Bernoulli naive Bayes: values above the threshold count as 1. (B, N), (B,)"""
    return BernoulliNB(binarize=threshold).fit(x, y)


def fit_logistic(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    """Logistic regression with scikit-learn's L2 penalty. (B, N), (B,)"""
    return LogisticRegression(max_iter=300).fit(x, y)


def naive_bayes(model: NaiveBayes, x: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """ln p(y | known values): missing ones are marginalised out, by omitting their factors.

    Args:
        model: fitted model.
        x: (B, N); missing values may be any finite number.
        known: bool (N,) or (B, N); by default all.

    Returns:
        (B, K). Raises ValueError for other shapes.
    """
    numbers = model.n_features_in_
    if x.ndim != 2 or x.shape[1] != numbers:
        raise ValueError(f"x must have the shape (B, {numbers}), not {x.shape}")
    known = np.ones(numbers, bool) if known is None else known
    if known.dtype != bool or known.shape not in ((numbers,), x.shape):
        raise ValueError(f"known must be bool ({numbers},) or {x.shape}, not {known.dtype} {known.shape}")
    known = np.broadcast_to(known, x.shape).astype(np.float64)
    if isinstance(model, BernoulliNB):  # ln p(x_n | k) = x ln p + (1 - x) ln (1 - p)
        one = model.feature_log_prob_
        zero = np.log(-np.expm1(one))
        x = (x > model.binarize).astype(np.float64)
        scores, prior = (known * x) @ (one - zero).T + known @ zero.T, model.class_log_prior_
    else:  # ln N(x_n; θ, σ²), a polynomial of x
        mean, variance = model.theta_, model.var_
        constant = -0.5 * (np.log(2 * np.pi * variance) + mean**2 / variance)
        scores = (known * x**2) @ (-0.5 / variance).T + (known * x) @ (mean / variance).T + known @ constant.T
        prior = np.log(model.class_prior_)
    scores = scores + prior
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def impute(x: np.ndarray, known: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Replace missing values by their means over the training set, as discriminative models require.

    x (B, N), known bool (N,) or (B, N), means (N,) -> (B, N)
    """
    return np.where(known, x, means)
