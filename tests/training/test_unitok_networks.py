"""The networks of UniTok against slow NumPy float64 twins, and where their gradients go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from training.networks.hsic import calibration, gaussian_kernel, hsic, median_bandwidth, squared_distances
from training.networks.mlp import MLP, hidden_widths
from training.networks.residual_quantizer import ResidualQuantizer
from training.networks.token_moe import TokenMoE
from training.networks.unitok import UniTokNetwork, Weights

Array = np.ndarray[Any, Any]
shapes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "batch": st.integers(1, 12),
        "experts": st.integers(2, 4),
        "levels": st.integers(1, 4),
        "codes": st.integers(2, 9),
        "width": st.integers(1, 6),
    }
)


def twin_quantize(z: Array, codebooks: Array) -> tuple[list[int], Array, float, float]:
    """One row, one set [L, T, d]: codes, their sum, and the two sums of Eq. 8."""
    residual, codes, total, loss = z.astype(np.float64), [], np.zeros(len(z)), 0.0
    for codebook in codebooks.astype(np.float64):
        distances = [float(((residual - code) ** 2).sum()) for code in codebook]
        best = min(range(len(distances)), key=distances.__getitem__)
        loss += distances[best]
        codes.append(best)
        total = total + codebook[best]
        residual = residual - codebook[best]
    return codes, total, loss, float((residual**2).sum())


def twin_kernel(rows: Array, sigma: float) -> Array:
    return np.array([[np.exp(-((a - b) ** 2).sum() / (2 * sigma**2)) for b in rows] for a in rows])


def twin_hsic(x: Array, z: Array, sigma_x: float, sigma_z: float) -> float:
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n
    product = twin_kernel(x, sigma_x) @ centring @ twin_kernel(z, sigma_z) @ centring
    return float(np.trace(product)) / (n - 1) ** 2


def random_moe(rng: np.random.Generator, shape: dict[str, int], count: int) -> TokenMoE:
    moe = TokenMoE(shape["experts"], count, shape["levels"], shape["codes"], shape["width"]).double()
    for parameter in moe.parameters():
        parameter.data = torch.from_numpy(rng.normal(size=tuple(parameter.shape)))
    return moe


@settings(max_examples=40)
@given(shape=shapes, count=st.integers(1, 2))
def test_token_moe_equals_its_twin(shape: dict[str, int], count: int) -> None:
    rng = np.random.default_rng(shape["seed"])
    moe = random_moe(rng, shape, count)
    z = rng.normal(size=(shape["batch"], shape["width"]))
    mixed = moe(torch.from_numpy(z))
    loss = mixed.loss(0.25)
    router, bias = moe.router.weight.detach().numpy(), moe.router.bias.detach().numpy()
    codebooks = moe.experts.codebooks.detach().numpy()
    for row in range(len(z)):
        logits = router @ z[row] + bias
        gate = np.exp(logits) / np.exp(logits).sum()
        experts = sorted(range(len(gate)), key=lambda expert: -gate[expert])[:count]
        _, z_hat, expected_loss, _ = twin_quantize(z[row], moe.shared.codebooks[0].detach().numpy())
        for expert in experts:
            codes, total, part, _ = twin_quantize(z[row], codebooks[expert])
            z_hat = z_hat + gate[expert] * total
            expected_loss += part
            if expert == experts[0]:
                assert mixed.codes()[row].tolist() == codes
        assert mixed.routed.experts[row].tolist() == experts
        np.testing.assert_allclose(mixed.routed.gate[row].detach().numpy(), gate, rtol=1e-9)
        np.testing.assert_allclose(mixed.z_hat[row].detach().numpy(), z_hat, rtol=1e-9, atol=1e-9)
        assert loss[row].item() == pytest.approx(1.25 * expected_loss, rel=1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(4, 12), min_size=1, max_size=3))
def test_calibration_equals_its_twin(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(size, 5)) for size in sizes]
    z = [rng.normal(size=(size, 3)) for size in sizes]
    domains = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(domains))
    calibrated = calibration(
        torch.from_numpy(np.concatenate(x)[order]),
        torch.from_numpy(np.concatenate(z)[order]),
        torch.from_numpy(domains[order]),
        beta=0.7,
        bandwidth_x=1.3,
        bandwidth_z=0.9,
    )
    expected = [twin_hsic(a, b, 1.3, 0.9) for a, b in zip(x, z, strict=True)]
    np.testing.assert_allclose(calibrated.values.numpy(), expected, rtol=1e-9)
    assert calibrated.loss.item() == pytest.approx(np.var(expected) - 0.7 * np.mean(expected), rel=1e-8)


def test_hsic_gradient_reaches_the_latents() -> None:
    rng = np.random.default_rng(3)
    x, z = rng.normal(size=(9, 4)), rng.normal(size=(9, 2))
    latents = torch.from_numpy(z).requires_grad_()
    (gradient,) = torch.autograd.grad(hsic(torch.from_numpy(x), latents, 1.5, 0.8), latents)
    step = 1e-5
    for row, column in [(0, 0), (4, 1), (8, 0)]:
        moved = [z.copy(), z.copy()]
        moved[0][row, column] += step
        moved[1][row, column] -= step
        slope = (twin_hsic(x, moved[0], 1.5, 0.8) - twin_hsic(x, moved[1], 1.5, 0.8)) / (2 * step)
        assert gradient[row, column].item() == pytest.approx(slope, rel=1e-5)


def test_median_bandwidth_and_scale() -> None:
    rows = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert median_bandwidth(squared_distances(rows)).item() == pytest.approx(3.0)  # of 1 2 3 4 6 7, the lower middle
    x, z = torch.randn(20, 4), torch.randn(20, 3)
    assert hsic(x, 50 * z).item() == pytest.approx(hsic(x, z).item(), rel=1e-5)


def test_bandwidth_of_equal_items() -> None:
    equal = torch.ones(6, 3)
    assert median_bandwidth(squared_distances(equal)).item() == 1
    assert torch.isfinite(gaussian_kernel(equal)).all()
    mostly_equal = torch.cat([equal, torch.zeros(1, 3)])
    assert median_bandwidth(squared_distances(mostly_equal)).item() == pytest.approx((3 * 12 / 42) ** 0.5)


def test_calibration_leaves_out_domains_too_small_to_say() -> None:
    x, z = torch.randn(10, 4), torch.randn(10, 3, requires_grad=True)
    domains = torch.tensor([0] * 7 + [1] * 3)
    assert calibration(x, z, domains).domains.tolist() == [0]
    nothing = calibration(x[:3], z[:3], domains[:3])
    assert nothing.loss.item() == 0
    assert len(nothing.values) == 0


def test_nearest_code_of_equal_codes_is_the_first() -> None:
    quantizer = ResidualQuantizer(1, 1, 4, 2)
    quantizer.codebooks.data = torch.tensor([[[[5.0, 5.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]]])
    z = torch.tensor([[0.9, 0.1], [0.0, 0.0]])
    assert quantizer(z, torch.zeros(2, dtype=torch.int64)).codes.tolist() == [[1], [1]]


def small_network(count: int = 1) -> UniTokNetwork:
    torch.manual_seed(0)
    return UniTokNetwork(
        embedding_width=6, latent_width=3, hidden=(8,), experts=3, experts_per_item=count, levels=2, codes=5
    )


@pytest.mark.parametrize("count", [1, 2])
def test_reconstruction_trains_encoder_router_and_decoder_but_no_code(count: int) -> None:
    network = small_network(count)
    x = torch.randn(32, 6)
    (x - network.reconstruct(x)).square().sum().backward()  # type: ignore[no-untyped-call]
    for part in (network.encoder, network.decoder, network.moe.router):
        for parameter in part.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
    assert network.moe.experts.codebooks.grad is None
    assert network.moe.shared.codebooks.grad is None


def test_quantization_loss_moves_codes_to_residuals_and_latents_to_codes() -> None:
    quantizer = ResidualQuantizer(1, 2, 4, 3)
    z = torch.randn(8, 3, requires_grad=True)
    quantized = quantizer(z, torch.zeros(8, dtype=torch.int64))
    gradients = torch.autograd.grad(quantized.loss(0.25).sum(), [z, quantizer.codebooks])
    errors = (quantized.residuals - quantized.vectors).detach()
    torch.testing.assert_close(gradients[0], 2 * 0.25 * errors.sum(dim=1))
    expected = torch.zeros_like(quantizer.codebooks)
    for row in range(8):
        for level in range(2):
            expected[0, level, quantized.codes[row, level]] -= 2 * errors[row, level]
    torch.testing.assert_close(gradients[1], expected)


def test_calibration_is_part_of_the_gradient() -> None:
    network = small_network()
    x, domains = torch.randn(40, 6), torch.arange(40) % 3
    gradients = []
    for weight in (0.0, 10.0):
        losses = network.losses(x, domains, Weights(lambda_mi=weight))
        (gradient,) = torch.autograd.grad(losses.total, [network.encoder.layers[0].weight])
        gradients.append(gradient)
    assert not torch.allclose(gradients[0], gradients[1])


def test_total_is_the_weighted_sum() -> None:
    network = small_network()
    losses = network.losses(torch.randn(40, 6), torch.arange(40) % 3, Weights(lambda_rq=0.5, lambda_mi=2.0))
    expected = losses.reconstruction + 0.5 * losses.quantization + 2.0 * losses.calibration.loss
    assert losses.total.item() == pytest.approx(expected.item())


def test_inference_emits_the_codes_that_training_uses() -> None:
    network = small_network(2)
    x = torch.randn(20, 6)
    tokenized = network(x)
    mixed = network.moe(network.encoder(x))
    assert torch.equal(tokenized.codes.long(), mixed.codes())
    assert torch.equal(tokenized.experts.long(), mixed.routed.experts)
    chosen = network.moe.experts.codebooks[mixed.routed.experts[:, 0]]
    emitted = sum(chosen[torch.arange(20), level, mixed.codes()[:, level]] for level in range(2))
    torch.testing.assert_close(tokenized.quantization_error, (tokenized.latent - emitted).square().sum(dim=1))


def test_widths_are_those_of_the_paper() -> None:
    assert hidden_widths(2048, 32) == (1024, 512, 256, 128, 64)
    assert hidden_widths(384, 32) == (512, 256, 128, 64)
    assert hidden_widths(3, 1024) == ()


def test_mlp_ends_without_activation() -> None:
    mlp = MLP([4, 8, 3])
    assert [type(layer) for layer in mlp.layers] == [nn.Linear, nn.GELU, nn.Linear]
    assert (mlp(torch.randn(50, 4)) < 0).any()
