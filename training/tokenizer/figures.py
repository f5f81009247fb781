"""The figures of a trained tokenizer by domain: ID quality, use of the experts and HSIC.

Knows nothing of training and of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine.tokenized_items import TokenizedItems
from training.ids.code_vectors import code_error
from training.ids.quality import first_experts, id_quality, neighbourhood, relative_error, share_of_spread
from training.networks.hsic import FEWEST_ITEMS, hsic
from training.tokenizer.holding_out import BoolArray, held_out_sharing
from training.tokenizer.interface import Tokenizer
from training.tokenizer.repair import Repaired

FloatArray = NDArray[np.float32]

HSIC_SAMPLE = 1000
"""Sample size of the HSIC estimate. The estimator's bias falls with the number of items, so domains of at least this
size have the same bias."""


def domain_figures(
    tokenizer: Tokenizer,
    embeddings: FloatArray,
    encoded: TokenizedItems,
    texts: Sequence[str],
    learned: BoolArray | None = None,
) -> dict[str, Any]:
    """All figures of one domain.

    Parameters
    ----------
    embeddings : float32 [n, D]
    encoded : result of `tokenizer.encode(embeddings)`
    texts : n composed texts
    learned : bool [n], the items trained on, for a training domain with held-out items; see `holding_out.py`
    """
    quality = {
        name: _rounded(value) for name, value in asdict(id_quality(encoded.codes, encoded.experts, texts)).items()
    }
    near = neighbourhood(embeddings, encoded.codes)
    shares = np.bincount(first_experts(encoded.experts), minlength=len(tokenizer.expert_names)) / len(embeddings)
    decoded = tokenizer.reconstruct(embeddings)
    every = np.ones(len(embeddings), dtype=np.bool_)
    of_codes = code_error(embeddings, encoded.codes, encoded.experts, every if learned is None else learned)
    held_out = dict[str, Any]()
    if learned is not None:
        held_out = {
            "items_held_out": int((~learned).sum()),
            "sharing_beyond_equal_content_held_out": held_out_sharing(encoded.codes, encoded.experts, texts, learned),
            # Means, like the service's metric of incoming items.
            "quantization_error_learned": float(encoded.quantization_error[learned].mean(dtype=np.float64)),
            "quantization_error_held_out": float(encoded.quantization_error[~learned].mean(dtype=np.float64)),
            "relative_reconstruction_error_learned": relative_error(embeddings[learned], decoded[learned]),
            "relative_reconstruction_error_held_out": relative_error(embeddings[~learned], decoded[~learned]),
        }
    return {
        **quality,
        "main_expert": tokenizer.expert_names[quality["main_expert"]],
        "expert_share": {
            name: _rounded(float(share)) for name, share in zip(tokenizer.expert_names, shares, strict=True) if share
        },
        "relative_reconstruction_error": _rounded(relative_error(embeddings, decoded)),
        # Errors of the items trained on and of the held-out ones, both without the decoder and the shared expert.
        "relative_code_error": None if of_codes is None else _rounded(of_codes.learned),
        "relative_code_error_held_out": None if of_codes is None else _rounded(of_codes.held_out),
        # Of the first expert alone, with weight 1, as a share of the domain's own spread; Eq. 31 does neither.
        "relative_quantization_error": _rounded(
            share_of_spread(float(encoded.quantization_error.sum(dtype=np.float64)), encoded.latent)
        ),
        "neighbourhood_kept": _rounded(near.kept),
        "neighbourhood_chance": _rounded(near.chance),
        "hsic": _rounded(domain_hsic(embeddings, encoded.latent)),
        **{name: _rounded(value) for name, value in held_out.items()},
    }


def repair_figures(repaired: Repaired, experts: NDArray[np.int32], texts: Sequence[str]) -> dict[str, Any]:
    """Collisions that remain in a domain after a repair, and the number of items moved off their nearest code."""
    quality = id_quality(repaired.codes, experts, texts)
    return {
        "items_moved": int(repaired.moved.sum()),
        "moved": _rounded(float(repaired.moved.mean())),
        "repaired_sharing": _rounded(quality.sharing),
        "repaired_sharing_beyond_equal_content": _rounded(quality.sharing_beyond_equal_content),
    }


def domain_hsic(embeddings: FloatArray, latents: FloatArray) -> float:
    """Eq. 9 on a random sample of one domain, bandwidths by the median heuristic; 0 if the domain is too small."""
    if len(embeddings) < FEWEST_ITEMS:
        return 0.0
    rows = np.random.default_rng(0).permutation(len(embeddings))[:HSIC_SAMPLE]
    with torch.no_grad():
        return hsic(torch.from_numpy(embeddings[rows]), torch.from_numpy(latents[rows])).item()


def _rounded(value: Any) -> Any:
    """Round to five decimals: enough to compare, short enough to read."""
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value
