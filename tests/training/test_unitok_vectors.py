"""The conformance vectors of the UniTok equations, kept outside the repository, reproduced in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.networks.hsic import calibration
from training.networks.residual_quantizer import ResidualQuantizer
from training.networks.token_moe import TokenMoE

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"

pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="../shared/vectors is absent")


def load(name: str) -> Any:
    return np.load(VECTORS / name, allow_pickle=False)


def quantizer_of(codebooks: np.ndarray) -> ResidualQuantizer:
    """codebooks [E, L, T, d]"""
    quantizer = ResidualQuantizer(*codebooks.shape)
    quantizer.codebooks.data = torch.from_numpy(codebooks)
    return quantizer


def test_residual_quantization() -> None:
    vectors = load("rq.npz")
    z = torch.from_numpy(vectors["z"])
    quantized = quantizer_of(vectors["codebooks"][None])(z, torch.zeros(len(z), dtype=torch.int64))
    np.testing.assert_array_equal(quantized.codes.numpy(), vectors["codes"])
    np.testing.assert_allclose(quantized.total.detach().numpy(), vectors["quantized"], rtol=1e-5, atol=1e-6)
    after = torch.cat([quantized.residuals[:, 1:], (z - quantized.total)[:, None]], dim=1).square().sum(dim=2)
    np.testing.assert_allclose(after.detach().numpy(), vectors["residual_sq_norms"], rtol=1e-5)


def test_quantization_loss() -> None:
    vectors = load("rq_loss.npz")
    z = torch.from_numpy(vectors["z"])
    quantized = quantizer_of(vectors["codebooks"][None])(z, torch.zeros(len(z), dtype=torch.int64))
    loss = quantized.loss(float(vectors["alpha"]))
    np.testing.assert_allclose(loss.detach().numpy(), vectors["loss_per_item"], rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_token_moe(count: int) -> None:
    vectors = load("token_moe.npz")
    experts, levels, codes, width = vectors["expert_codebooks"].shape
    moe = TokenMoE(experts, count, levels, codes, width)
    moe.router.weight.data = torch.from_numpy(vectors["router_weight"])
    moe.router.bias.data = torch.from_numpy(vectors["router_bias"])
    moe.experts.codebooks.data = torch.from_numpy(vectors["expert_codebooks"])
    moe.shared.codebooks.data = torch.from_numpy(vectors["shared_codebooks"])[None]
    mixed = moe(torch.from_numpy(vectors["z"]))
    np.testing.assert_allclose(mixed.routed.gate.detach().numpy(), vectors["gate"], rtol=1e-5)
    np.testing.assert_array_equal(mixed.routed.experts.numpy(), vectors[f"experts_top{count}"])
    np.testing.assert_array_equal(mixed.codes().numpy(), vectors[f"codes_top{count}"])
    np.testing.assert_allclose(mixed.z_hat.detach().numpy(), vectors[f"z_hat_top{count}"], rtol=1e-5, atol=1e-6)


def test_hsic_and_its_gradient() -> None:
    vectors = load("hsic.npz")
    x = [torch.from_numpy(vectors[f"x{domain}"]) for domain in range(3)]
    z = [torch.from_numpy(vectors[f"z{domain}"]) for domain in range(3)]
    latents = torch.cat(z).requires_grad_()
    domains = torch.repeat_interleave(torch.arange(3), torch.tensor([len(rows) for rows in x]))
    calibrated = calibration(
        torch.cat(x),
        latents,
        domains,
        beta=float(vectors["beta"]),
        bandwidth_x=float(vectors["sigma_x"]),
        bandwidth_z=float(vectors["sigma_z"]),
    )
    np.testing.assert_allclose(calibrated.values.detach().numpy(), vectors["hsic"], rtol=1e-5)
    np.testing.assert_allclose(calibrated.loss.item(), vectors["mi_loss"], rtol=1e-5)
    calibrated.loss.backward()  # type: ignore[no-untyped-call]
    assert latents.grad is not None
    for row, column, expected in vectors["grad_entries"]:
        assert latents.grad[int(row), int(column)].item() == pytest.approx(expected, rel=1e-5)
