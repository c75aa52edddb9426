"""Vector quantization with a codebook updated by exponential moving averages.

van den Oord, Vinyals, Kavukcuoglu 2017, "Neural Discrete Representation Learning", arXiv 1711.00937, §3 and
appendix A.1.
Shapes: N vectors · K codes · D width of a code
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
DISTANCES = 2**22  # between vectors and codes, computed at once: as many as fit into a processor's cache


@torch.no_grad()
def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Vectors (N, D), codebook (K, D) -> index of the nearest code of each vector (N,)"""
    e = codebook.float()  # |z − e|² = |z|² − 2 z·e + |e|², and |z|² is the same for all codes
    squares, rows = e.square().sum(1), max(1, DISTANCES // len(e))
    with torch.autocast(z.device.type, enabled=False):  # in bfloat16, every fifth code would differ
        parts = [torch.addmm(squares, part, e.T, beta=1, alpha=-2).argmin(1) for part in z.float().split(rows)]
    return torch.cat(parts)


class Quantizer(nn.Module):
    """Maps vectors to codes and back, and tracks which codes are used in training.

    Args:
        size: number of codes, K.
        width: of a vector, D.
        code_width: of a quantized vector, by default the same.
        usage_window: about how many batches the usage of codes covers.
    """

    def __init__(self, size: int, width: int, code_width: int | None = None, usage_window: int = 100):
        super().__init__()
        self.size, self.width, self.code_width = size, width, code_width or width
        # Frequency of each code, decayed so that about the last `usage_window` batches count.
        self.usage_decay = 1 - 1 / usage_window
        self.register_buffer("usage", torch.zeros(size))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) -> quantized (N, D) with the straight-through gradient, codes (N,), commitment loss (scalar)."""
        raise NotImplementedError

    def nearest(self, z: Tensor) -> Tensor:
        """(N, D) -> code of each vector (N,)"""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """(...) -> (..., D)"""
        raise NotImplementedError

    @torch.no_grad()
    def track(self, codes: Tensor) -> Tensor:
        """Track the codes (N,) of a training batch; return how often each occurs (K,) in those of all processes."""
        count = torch.bincount(codes, minlength=self.size).to(self.usage.dtype)
        _all_reduce(count)
        self.usage.mul_(self.usage_decay).add_(count)
        return count

    def perplexity(self) -> Tensor:
        """exp of the entropy of the recent code frequencies: K if all codes are used equally, 1 if only one is used."""
        p = self.usage / self.usage.sum().clamp_min(EPSILON)
        return torch.exp(-(p * (p + EPSILON).log()).sum())

    def share_used(self) -> Tensor:
        """The fraction of codes used at least once in about the last `usage_window` batches, in [0, 1]."""
        return (self.usage > 1 / torch.e).float().mean()  # one choice decays to 1/e after usage_window batches


class EMAQuantizer(Quantizer):
    """Vector quantizer with a codebook (K, D); in training mode, every call moves the codes to their assigned vectors.

    The first `warmup_batches` training calls pass the vectors through unquantized, to train encoder and decoder first;
    the next `kmeans_batches` fit the codebook by k-means. A code whose moving count falls below `dead_below` times the
    mean count is reset to a random vector of the batch, with its statistics. Under torch.distributed, all statistics
    are those of the global batch, so that the codebooks of all ranks are equal.
    """

    def __init__(
        self,
        codes: int,
        width: int,
        decay: float = 0.99,
        dead_below: float = 0.03,
        warmup_batches: int = 0,
        kmeans_batches: int = 8,
        usage_window: int = 100,
    ):
        super().__init__(codes, width, usage_window=usage_window)
        self.decay = decay
        self.dead_below = dead_below
        self.warmup_batches = warmup_batches
        self.kmeans_batches = kmeans_batches
        self.register_buffer("codebook", torch.randn(codes, width))
        self.register_buffer("count", torch.ones(codes))  # moving N_i
        self.register_buffer("total", self.codebook.clone())  # moving m_i; a code is m_i / N_i
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) -> quantized (N, D) with the straight-through gradient, codes (N,), commitment loss (scalar).

        The commitment loss is ‖z − sg(e)‖² averaged over N and D: it trains only the encoder (eq. 3, third term). The
        codebook receives no gradient.
        """
        with torch.autocast(z.device.type, enabled=False):  # half precision is too inaccurate for distances and sums
            z = z.float()
            if self.training and self.calls < self.warmup_batches:
                self.calls += 1
                return z, self.nearest(z), z.new_zeros(())
            if self.training and self.calls < self.warmup_batches + self.kmeans_batches:
                self._fit_kmeans(z.detach())
            codes = self.nearest(z)
            quantized = self.lookup(codes)
            if self.training:
                self._update(z.detach(), codes)
            return z + (quantized - z).detach(), codes, F.mse_loss(z, quantized)

    def nearest(self, z: Tensor) -> Tensor:
        """(N, D) -> index of the nearest code (N,)"""
        return nearest(z, self.codebook)

    def lookup(self, codes: Tensor) -> Tensor:
        """(...) -> (..., D)"""
        return F.embedding(codes, self.codebook)

    @torch.no_grad()
    def _update(self, z: Tensor, codes: Tensor) -> None:
        K = self.codebook.shape[0]
        count = self.track(codes)
        total = torch.zeros_like(self.total).index_add_(0, codes, z)
        _all_reduce(total)
        self.count.lerp_(count, 1 - self.decay)  # N_i ← γ N_i + (1 − γ) n_i
        self.total.lerp_(total, 1 - self.decay)  # m_i ← γ m_i + (1 − γ) Σ z
        self._revive(z)
        n = self.count.sum()  # Laplace smoothing keeps rare codes finite
        smoothed = (self.count + EPSILON) / (n + K * EPSILON) * n
        self.codebook.copy_(self.total / smoothed[:, None])
        self.calls += 1

    def _revive(self, z: Tensor) -> None:
        dead = self.count < self.dead_below * self.count.mean()
        if not dead.any():  # the same answer on every rank, since their counts are equal
            return
        pool = _gather(z)
        picks = torch.randint(len(pool), (len(dead),), generator=self._generator()).to(z.device)
        mean = self.count.mean()
        self.count.copy_(torch.where(dead, mean, self.count))
        self.total.copy_(torch.where(dead[:, None], pool[picks] * mean, self.total))

    @torch.no_grad()
    def _fit_kmeans(self, z: Tensor, iterations: int = 5) -> None:
        """Lloyd's algorithm on this batch, from random vectors on the first call, then from the current codebook."""
        pool = _gather(z)
        K = self.codebook.shape[0]
        if self.calls == self.warmup_batches:
            order = torch.randperm(len(pool), generator=self._generator()).to(z.device)
            self.codebook.copy_(pool[order.repeat(-(-K // len(pool)))[:K]])
        for _ in range(iterations):
            codes = self.nearest(pool)
            count = torch.bincount(codes, minlength=K).to(z.dtype)
            total = torch.zeros_like(self.codebook).index_add_(0, codes, pool)
            means = total / count.clamp_min(1)[:, None]
            self.codebook.copy_(torch.where(count[:, None] > 0, means, self.codebook))
        self.count.copy_(count.clamp_min(EPSILON))
        self.total.copy_(self.codebook * self.count[:, None])
        for statistic in (self.codebook, self.count, self.total):  # sums on GPUs may differ in the last digit
            _broadcast(statistic)

    def _generator(self) -> torch.Generator:
        """A generator that depends only on the number of calls: equal on every rank and after resuming."""
        return torch.Generator().manual_seed(int(self.calls))


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _all_reduce(x: Tensor) -> None:
    if _distributed():
        dist.all_reduce(x)


def _broadcast(x: Tensor) -> None:
    if _distributed():
        dist.broadcast(x, src=0)


def _gather(x: Tensor) -> Tensor:
    """(N, D) of each rank -> (world · N, D), in rank order."""
    if not _distributed():
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
