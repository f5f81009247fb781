"""Initialisation of codes and router from the data.

Every level of an expert starts as k-means of the residuals of the levels before it, on the expert's own domain. The
shared expert starts from all domains, and the router as the linear discriminant of the domains. This is the only place,
besides the calibration term, that uses the domain label. Knows nothing of training steps.
"""

from __future__ import annotations

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.networks.token_moe import TokenMoE

FloatArray = NDArray[np.float32]

RIDGE = 1e-3
"""Added to the covariance's diagonal, as a share of its mean: a latent direction without variance must not dominate."""


def kmeans(rows: FloatArray, count: int, iterations: int, seed: int) -> FloatArray:
    """Centroids float32 [count, d] of rows float32 [n, d].

    With at most as many rows as centroids, every row is a centroid; the rest are random rows with a little noise, so
    that no two are equal.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if len(rows) <= count:
        random = np.random.default_rng(seed)
        again = rows[random.integers(len(rows), size=count - len(rows))]
        noise = random.standard_normal(again.shape) * (0.01 * rows.std() + 1e-6)
        return np.concatenate([rows, again + noise]).astype(np.float32)
    clustering = faiss.Kmeans(
        rows.shape[1], count, niter=iterations, seed=seed + 1, min_points_per_centroid=1, max_points_per_centroid=512
    )
    clustering.train(rows)
    return np.asarray(clustering.centroids, dtype=np.float32)


def residual_codebooks(
    rows: FloatArray, levels: int, codes: int, iterations: int, seed: int, *, same_rows: bool = False
) -> FloatArray:
    """Codebooks float32 [L, T, d]: k-means level by level on the residuals of the rows [n, d].

    Parameters
    ----------
    same_rows : k-means of every level starts at the same rows, by one seed. They were initial centroids of the levels
        before, so their residuals are small, and later levels start, and end, with more codes where most rows are:
        codes are used more evenly, and the error is a little larger
    """
    residual = np.array(rows, dtype=np.float32)
    codebooks = []
    for level in range(levels):
        codebook = kmeans(residual, codes, iterations, seed if same_rows else seed + level)
        index = faiss.IndexFlatL2(codebook.shape[1])
        index.add(codebook)
        _, nearest = index.search(residual, 1)
        residual -= codebook[nearest[:, 0]]
        codebooks.append(codebook)
    return np.stack(codebooks)


def discriminant(latents: FloatArray, domains: NDArray[np.int64], count: int) -> tuple[FloatArray, FloatArray]:
    """Weight [K, d] and bias [K] of the linear discriminant of the domains, as a router.

    Logits are -1/2 the squared Mahalanobis distance to each domain's mean, without the term common to all domains. If
    all domains have the same covariance, the softmax of Eq. 4 is then the posterior of each domain under equal priors.
    """
    z = latents.astype(np.float64)
    means = np.stack([z[domains == domain].mean(axis=0) for domain in range(count)])
    deviations = z - means[domains]
    covariance = deviations.T @ deviations / len(z)
    covariance += np.eye(len(covariance)) * (RIDGE * np.trace(covariance) / len(covariance) + 1e-12)
    weight = np.linalg.solve(covariance, means.T).T
    bias = -0.5 * (weight * means).sum(axis=1)
    return weight.astype(np.float32), bias.astype(np.float32)


def start_moe(moe: TokenMoE, latents: FloatArray, domains: NDArray[np.int64], iterations: int, seed: int) -> None:
    """Initialise router and codebooks, in place, from latents float32 [n, d] of domains int64 [n]."""
    experts, levels, codes, _ = moe.experts.codebooks.shape
    with torch.no_grad():
        if moe.router is None:
            domains = np.zeros_like(domains)  # A single expert serves all domains, and starts from all of them.
        else:
            weight, bias = discriminant(latents, domains, experts)
            moe.router.weight.copy_(torch.from_numpy(weight))
            moe.router.bias.copy_(torch.from_numpy(bias))
        for expert in range(experts):
            own = residual_codebooks(latents[domains == expert], levels, codes, iterations, seed + 100 * expert)
            moe.experts.codebooks[expert] = _tensor(own)
        if moe.shared is not None:
            every = residual_codebooks(latents, levels, codes, iterations, seed + 100 * experts)
            moe.shared.codebooks[0] = _tensor(every)


def _tensor(array: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
