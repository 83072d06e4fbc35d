"""A Gaussian at every place of a grid, learned from images that come batch by batch, in the memory of its result.

Symmetric and triangular matrices lie in vertical panels of their lower half: columns s to s + w, rows s to d. That is
all of the half and little more, and unlike a packed triangle every panel is a plain matrix that BLAS works on where it
lies, for all places in one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from uadctl.errors import RunError

if TYPE_CHECKING:
    import torch

# Columns of a panel. Narrower ones waste less (d w / 2 numbers a place), wider ones are read once for more columns.
_WIDTH = 64
# Numbers that a step holds beside its result: 32 MB of float64.
_NUMBERS = 2**22


def panels(dim: int) -> list[slice]:
    """The columns of each panel of a matrix of `dim` rows; its rows begin where its columns do."""
    return [slice(start, min(start + _WIDTH, dim)) for start in range(0, dim, _WIDTH)]


def _blocks(places: int, *, numbers: int) -> Iterator[slice]:
    """All places, so many at a time that `numbers` for each of them are a step's worth."""
    step = max(1, _NUMBERS // numbers)
    return (slice(start, min(start + step, places)) for start in range(0, places, step))


class Moments:
    """Mean and scatter, the sum of (x - mean)(x - mean)ᵀ, of the vectors at each place.

    Batches are merged as by Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances", 1979: every product is one of deviations from a mean, none of raw features, so that nothing cancels and
    float32 is enough for the scatter. The mean is kept in float64. Memory does not depend on the number of images.

    count: images so far. mean: (places, dim) float64.
    """

    def __init__(self, places: int, dim: int, *, device: str = "cpu") -> None:
        import torch

        self.count = 0
        self.mean = torch.zeros((places, dim), dtype=torch.float64, device=device)
        self._scatter = [torch.zeros((places, dim - c.start, c.stop - c.start), device=device) for c in panels(dim)]

    def add(self, batch: torch.Tensor) -> None:
        """Take in (b, places, dim) float32 features. Raises ValueError for NaN and infinity."""
        import torch

        if not bool(torch.isfinite(batch).all()):
            raise ValueError("features contain NaN or infinity")
        b, (places, dim) = len(batch), self.mean.shape
        self.count += b
        share = b / self.count
        for block in _blocks(places, numbers=(b + 1) * dim):
            x = batch[:, block].transpose(0, 1).double()
            mean = x.mean(dim=1, keepdim=True)
            away = mean - self.mean[block, None]
            # The means' distance is one more deviation, which counts for b (count - b) / count images.
            rows = torch.cat([x - mean, away * (share * (self.count - b)) ** 0.5], dim=1).float()
            for columns, panel in zip(panels(dim), self._scatter, strict=True):
                panel[block].baddbmm_(rows[:, :, columns.start :].transpose(1, 2), rows[:, :, columns])
            self.mean[block] += share * away[:, 0]

    def gaussians(self, *, eps: float) -> Gaussians:
        """The Gaussians with the unbiased covariance plus `eps` times the identity; one image has covariance 0.

        Takes place in the memory of the scatter, so that nothing can be added afterwards. Factors are computed in
        float64. Raises RunError where float32 has not kept a covariance positive definite.
        """
        import torch

        places, dim = self.mean.shape
        scatter, self._scatter = self._scatter, []
        for block in _blocks(places, numbers=2 * dim * dim):
            covariance = torch.zeros((block.stop - block.start, dim, dim), dtype=torch.float64, device=self.mean.device)
            for columns, panel in zip(panels(dim), scatter, strict=True):
                covariance[:, columns.start :, columns] = panel[block]
            for panel, factor in zip(scatter, _factor(covariance.div_(max(1, self.count - 1)), eps=eps), strict=True):
                panel[block] = factor
        return Gaussians(self.mean.float(), scatter)


def _factor(covariance: torch.Tensor, *, eps: float) -> list[torch.Tensor]:
    """The panels of the lower Cholesky factors of matrices plus eps I, each panel's top square inverted.

    Inverted squares make solving by the factor a row of matrix products, for all places at once.

    covariance: (places, d, d) float64, of which the lower half counts; eps is added in place.
    """
    import torch

    covariance.diagonal(dim1=1, dim2=2).add_(eps)
    factor, info = torch.linalg.cholesky_ex(covariance)
    if bool(info.any()):
        raise RunError(
            f"eps (={eps:g}) is too small for features that vary so much: a covariance is not positive definite",
            help="Raise eps, to about a millionth of the variance of the features.",
        )
    for columns in panels(factor.shape[1]):
        square = factor[:, columns, columns]
        one = torch.eye(square.shape[1], dtype=square.dtype, device=square.device).expand_as(square)
        factor[:, columns, columns] = torch.linalg.solve_triangular(square, one, upper=False)
    return [factor[:, columns.start :, columns] for columns in panels(factor.shape[1])]


def _lengths(factor: Sequence[torch.Tensor], away: torch.Tensor) -> torch.Tensor:
    """(places, b) the Mahalanobis lengths of (places, d, b) deviations, which are overwritten.

    factor: the panels that `_factor` makes, of these places.
    """
    import torch

    for columns, panel in zip(panels(away.shape[1]), factor, strict=True):
        width = columns.stop - columns.start
        solved = panel[:, :width] @ away[:, columns]
        away[:, columns] = solved
        away[:, columns.stop :] -= panel[:, width:] @ solved
    lengths: torch.Tensor = torch.linalg.vector_norm(away, dim=1)
    return lengths


class Gaussians:
    """A mean at each place, and the Cholesky factor L of the covariance there.

    The Mahalanobis distance, the root of (x - mean)ᵀ C⁻¹ (x - mean) with C = L Lᵀ, is the length of L⁻¹ (x - mean).

    mean: (places, dim) float32. factor: float32 panels as `_factor` makes them.
    """

    def __init__(self, mean: torch.Tensor, factor: Sequence[torch.Tensor]) -> None:
        self.mean = mean
        self.factor = list(factor)

    def distances(self, batch: torch.Tensor) -> torch.Tensor:
        """(b, places) float32 Mahalanobis distance of (b, places, dim) float32 features, each at its own place."""
        import torch

        b, (places, dim) = len(batch), self.mean.shape
        out = torch.empty((b, places), device=batch.device)
        for block in _blocks(places, numbers=3 * b * dim):
            away = (batch[:, block] - self.mean[block]).permute(1, 2, 0).contiguous()
            out[:, block] = _lengths([panel[block] for panel in self.factor], away).T
        return out


class InverseGaussians:
    """A mean at each place, and the inverse of the covariance there, as other programs keep them.

    An inverse that was rounded to float32 need not be symmetric, nor positive: a factor of it need not exist. So the
    square of the distance is the quadratic form itself, and 0 where rounding made it negative.

    mean: (places, dim) float32. inverse: (places, dim, dim) float32; only read, it may be a file's.
    """

    def __init__(self, mean: torch.Tensor, inverse: torch.Tensor) -> None:
        self.mean = mean
        self.inverse = inverse

    def distances(self, batch: torch.Tensor) -> torch.Tensor:
        """(b, places) float32 Mahalanobis distance of (b, places, dim) float32 features, each at its own place."""
        import torch

        b, (places, dim) = len(batch), self.mean.shape
        out = torch.empty((b, places), device=batch.device)
        for block in _blocks(places, numbers=3 * b * dim):
            away = (batch[:, block] - self.mean[block]).transpose(0, 1)
            out[:, block] = ((away @ self.inverse[block]) * away).sum(dim=2).clamp(min=0).sqrt().T
        return out


def left_out_distances(features: torch.Tensor, *, eps: float) -> torch.Tensor:
    """The distance of each image to the Gaussians of the others, as if they had been fitted anew without it.

    With u the deviation of an image from the mean of all n and S their scatter, the others have the mean - u / (n - 1)
    and the scatter S - n / (n - 1) u uᵀ. So all images share one factorisation a place, of A = S / (n - 2) + eps I,
    and differ from it by a matrix of rank one (Sherman and Morrison): with q = uᵀ A⁻¹ u and c = n / (n - 1) / (n - 2)
    the squared distance is (n / (n - 1))² q / (1 - c q). Computed in float64: 1 - c q is small where an image lies far
    outside of what the others span.

    features: (n, places, dim) float32, n at least 2. Returns (n, places) float64. Needs memory for the features in
    float64 and a matrix a place.
    """
    n = len(features)
    if n < 2:
        raise ValueError(f"{n} image leaves no other to compare it with")
    u = features.transpose(0, 1).double()
    u = u - u.mean(dim=1, keepdim=True)
    far = n / (n - 1)
    if n == 2:  # the covariance of a single image is 0
        return far * (u.square().sum(dim=2) / eps).sqrt().T
    factor = _factor(u.transpose(1, 2) @ u / (n - 2), eps=eps)
    q = _lengths(factor, u.transpose(1, 2).contiguous()).square()
    return far * (q / (1 - far / (n - 2) * q)).sqrt().T
