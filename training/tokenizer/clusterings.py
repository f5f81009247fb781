"""The kinds that cluster the embeddings themselves: RQ-KMeans, product quantisation, hierarchical k-means.

Symbols: n items, D embedding width, L levels, T codes. Knows nothing of autoencoders.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import ConfigError
from service.progress import Advance
from training.checkpoint import Checkpoint
from training.configuration import Count
from training.networks.codebooks import CodebookNetwork
from training.networks.tables import TreeNetwork
from training.networks.tokenized import TokenizerNetwork
from training.tokenizer.description import Description
from training.tokenizer.interface import Tokenizer
from training.tokenizer.items import FloatArray, TrainingItems
from training.tokenizer.parameters import Codes, Levels, TokenizerParameters
from training.tokenizer.start import kmeans, residual_codebooks


class ClusteringParameters(TokenizerParameters):
    """Shape and iterations.

    Attributes
    ----------
    levels, codes : L, T
    kmeans_iterations : of every k-means
    """

    levels: Levels = 4
    codes: Codes = 256
    kmeans_iterations: Count = 25


class RqKMeansParameters(ClusteringParameters):
    """Residual k-means."""

    kind: Literal["rq-kmeans"] = "rq-kmeans"


class RqKMeans(Tokenizer):
    """k-means level by level, on the residuals of the levels before."""

    PARAMETERS = RqKMeansParameters
    parameters: RqKMeansParameters

    def _learn(
        self, items: TrainingItems, checkpoint: Checkpoint | None, advance: Advance
    ) -> tuple[Description, TokenizerNetwork]:
        parameters, description = self.parameters, self._described(items)
        network = self._build(description)
        network.fill(
            residual_codebooks(
                items.embeddings.numpy(),
                parameters.levels,
                parameters.codes,
                parameters.kmeans_iterations,
                parameters.seed,
                same_rows=True,
            )
        )
        advance(1)
        return description, network

    def _build(self, description: Description) -> CodebookNetwork:
        return CodebookNetwork(
            embedding_width=description.embedding_width,
            width=None,
            levels=self.parameters.levels,
            codes=self.parameters.codes,
        )


class ProductParameters(ClusteringParameters):
    """Optimised product quantisation.

    Attributes
    ----------
    rotation_iterations : number of times that rotation and codes are optimised in turn
    """

    kind: Literal["product"] = "product"
    rotation_iterations: Count = 25


class ProductQuantization(Tokenizer):
    """Optimised product quantisation as in VQ-Rec (Hou et al. 2023): one k-means per block of rotated dimensions.

    If L does not divide D, the rotation drops the few surplus dimensions.
    """

    PARAMETERS = ProductParameters
    parameters: ProductParameters

    def _learn(
        self, items: TrainingItems, checkpoint: Checkpoint | None, advance: Advance
    ) -> tuple[Description, TokenizerNetwork]:
        parameters, description = self.parameters, self._described(items)
        if description.embedding_width < parameters.levels:
            raise ConfigError(
                f"levels is {parameters.levels}, but embeddings of {description.embedding_width} values cannot be "
                "parted into so many blocks"
            )
        network = self._build(description)
        x = items.embeddings.numpy()
        rotation = _rotation(x, network.shape.latent_width, parameters)
        rotated, block = x @ rotation.T, network.shape.latent_width // parameters.levels
        codebooks = np.zeros((parameters.levels, parameters.codes, network.shape.latent_width), dtype=np.float32)
        for level in range(parameters.levels):
            own = slice(level * block, (level + 1) * block)
            codebooks[level, :, own] = kmeans(
                rotated[:, own], parameters.codes, parameters.kmeans_iterations, parameters.seed + level
            )
        network.fill(codebooks, rotation)
        advance(1)
        return description, network

    def _build(self, description: Description) -> CodebookNetwork:
        levels = self.parameters.levels
        return CodebookNetwork(
            embedding_width=description.embedding_width,
            width=description.embedding_width // levels * levels,
            levels=levels,
            codes=self.parameters.codes,
        )


def _rotation(x: FloatArray, width: int, parameters: ProductParameters) -> FloatArray:
    """Rotation float32 [width, D] that makes the blocks of dimensions independent, as product quantisation assumes."""
    # With fewer rows than codes faiss fails; with fewer rows than dimensions it writes past the end of its memory.
    bits = max(1, min(parameters.codes, len(x)).bit_length() - 1)
    fewest = max(2, x.shape[1])
    if len(x) < fewest:
        x = np.tile(x, (-(-fewest // len(x)), 1))
    quantizer = faiss.ProductQuantizer(width, parameters.levels, bits)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.cp.seed = parameters.seed + 1
    transform = faiss.OPQMatrix(x.shape[1], parameters.levels, width)
    transform.niter = parameters.rotation_iterations
    transform.pq = quantizer
    transform.train(x)
    return faiss.vector_to_array(transform.A).reshape(width, x.shape[1]).astype(np.float32)


class HierarchicalParameters(ClusteringParameters):
    """Hierarchical k-means; T is the number of children of a cluster, so that T^L clusters hold all items."""

    MOVABLE: ClassVar[bool] = False
    kind: Literal["hierarchical"] = "hierarchical"
    codes: Codes = 32


class HierarchicalKMeans(Tokenizer):
    """Clusters split recursively, as in P5-CID (Hua et al. 2023), by k-means of the embeddings.

    P5-CID clusters the co-purchase graph of items; here all kinds learn from the same embeddings.
    """

    PARAMETERS = HierarchicalParameters
    parameters: HierarchicalParameters

    def _learn(
        self, items: TrainingItems, checkpoint: Checkpoint | None, advance: Advance
    ) -> tuple[Description, TokenizerNetwork]:
        x = items.embeddings.numpy()
        centres: list[FloatArray] = []
        first, count = [], []
        level = [np.arange(len(x))]
        nodes = 0
        for _ in range(self.parameters.levels):
            children: list[NDArray[np.int64]] = []
            for members in level:
                own, of_row = self._parted(x[members])
                first.append(nodes)
                count.append(len(own))
                nodes += len(own)
                centres.append(own)
                children += [members[of_row == child] for child in range(len(own))]
            level = children
        leaves = [0] * len(level)
        description = self._described(items, sizes={"nodes": nodes})
        network = self._build(description)
        network.centres.copy_(torch.from_numpy(np.concatenate(centres)))
        network.first.copy_(torch.tensor(first + leaves))
        network.count.copy_(torch.tensor(count + leaves))
        advance(1)
        return description, network

    def _parted(self, rows: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
        """Centres of at most T non-empty clusters, and the cluster of every row: [k, D] and int64 [m].

        If there are at most T distinct rows, each of them is a cluster.
        """
        codes = self.parameters.codes
        if len(rows) <= codes or len(np.unique(rows, axis=0)) <= codes:
            different, of_row = np.unique(rows, axis=0, return_inverse=True)
            return different, of_row.reshape(-1)
        centres = kmeans(rows, codes, self.parameters.kmeans_iterations, self.parameters.seed)
        index = faiss.IndexFlatL2(rows.shape[1])
        index.add(centres)
        used, of_row = np.unique(index.search(rows, 1)[1][:, 0], return_inverse=True)
        return centres[used], of_row.reshape(-1)

    def _build(self, description: Description) -> TreeNetwork:
        return TreeNetwork(
            embedding_width=description.embedding_width,
            levels=self.parameters.levels,
            codes=self.parameters.codes,
            nodes=description.sizes["nodes"],
        )
