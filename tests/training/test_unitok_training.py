"""Training of UniTok: start and revival of the codes, drawing, resuming, planted data with a known answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ConfigError, InvalidInput, ModelError
from training.checkpoint import CHECKPOINT, Checkpoint
from training.networks.residual_quantizer import ResidualQuantizer
from training.networks.token_moe import TokenMoE
from training.networks.unitok import UniTokNetwork
from training.tokenizer import trainer
from training.tokenizer.configuration import StageParameters, read_stage_parameters, stage_parameters
from training.tokenizer.epoch_figures import code_use
from training.tokenizer.estimator import UniTok
from training.tokenizer.items import TrainingItems
from training.tokenizer.parameters import Parameters
from training.tokenizer.review import HANDICAP_KEPT, Assignment, rebalance, review, revive
from training.tokenizer.start import discriminant, kmeans, residual_codebooks, start_moe
from training.tokenizer.trainer import draw_epoch

Array = np.ndarray[Any, Any]
SMALL: dict[str, Any] = {
    "levels": 3,
    "codes": 16,
    "latent_width": 6,
    "hidden": (24,),
    "batch_size": 64,
    "warmup_epochs": 6,
    "epochs": 4,
    "seed": 5,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def planted(domains: int = 3, items: int = 300, width: int = 20) -> tuple[Array, Array]:
    """Domains of equal size around centres of their own, each spread along directions of its own; unit length."""
    rng = np.random.default_rng(1)
    rows = [
        rng.normal(size=width) + 0.2 * rng.normal(size=(items, 5)) @ rng.normal(size=(5, width)) for _ in range(domains)
    ]
    embeddings = np.concatenate(rows)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings.astype(np.float32), np.repeat([f"domain {k}" for k in range(domains)], items)


# --- the start


def test_kmeans_finds_separate_clusters() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 3)) * 20
    rows = np.concatenate([centre + 0.01 * rng.normal(size=(50, 3)) for centre in centres])
    found = kmeans(rows.astype(np.float32), 8, 20, seed=0)
    # Lloyd's algorithm may merge two clusters and split a third, but not leave rows far from every centroid.
    error = np.square(rows[:, None] - found[None]).sum(axis=2).min(axis=1).sum()
    assert error < 0.05 * np.square(rows - rows.mean(axis=0)).sum()


def test_kmeans_with_fewer_rows_than_centroids_keeps_every_row_and_repeats_none() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = kmeans(rows, 12, 5, seed=0)
    assert found.shape == (12, 3)
    np.testing.assert_array_equal(found[:5], rows)
    assert len(np.unique(found, axis=0)) == 12


def test_each_level_starts_from_what_the_levels_before_leave() -> None:
    rows = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    codebooks = residual_codebooks(rows, 3, 8, 20, seed=0)
    residual, errors = rows.astype(np.float64), []
    for codebook in codebooks:
        nearest = np.square(residual[:, None] - codebook[None]).sum(axis=2).argmin(axis=1)
        residual = residual - codebook[nearest]
        errors.append(np.square(residual).sum())
        assert len(np.unique(nearest)) == 8
    total = float(np.square(rows).sum())
    assert errors[0] < 0.5 * total
    assert errors[2] < 0.6 * errors[1] < 0.4 * errors[0]


def test_router_starts_as_the_discriminant_of_the_domains() -> None:
    rng = np.random.default_rng(0)
    domains = np.repeat([0, 1, 2], [500, 50, 200])
    means = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 0.3]])
    latents = means[domains] + rng.normal(size=(750, 2)) * [1.0, 0.05]
    weight, bias = discriminant(latents.astype(np.float32), domains, 3)
    logits = latents @ weight.T + bias
    # The third mean is near the first, but along a direction in which hardly anything varies.
    assert (logits.argmax(axis=1) == domains).mean() > 0.9


def test_start_uses_each_domains_own_items() -> None:
    torch.manual_seed(0)
    moe = TokenMoE(2, 1, 2, 4, 3)
    rng = np.random.default_rng(0)
    latents = np.concatenate([rng.normal(size=(60, 3)) + 50, rng.normal(size=(60, 3)) - 50]).astype(np.float32)
    start_moe(moe, latents, np.repeat([0, 1], 60), 10, seed=0)
    first = moe.experts.codebooks[:, 0].detach()
    assert (first[0] > 40).all()
    assert (first[1] < -40).all()
    assert (moe.shared.codebooks[0, 0] > 40).all(dim=1).any()
    assert (moe.shared.codebooks[0, 0] < -40).all(dim=1).any()


# --- epochs


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    balance=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_an_epoch_goes_through_domains_evenly(sizes: list[int], balance: float, seed: int) -> None:
    domains = np.repeat(np.arange(len(sizes)), sizes)
    rows = draw_epoch(domains, balance, np.random.default_rng(seed))
    weights = np.asarray(sizes, dtype=float) ** balance
    drawn = np.bincount(domains[rows], minlength=len(sizes))
    np.testing.assert_allclose(drawn, weights / weights.sum() * len(domains), atol=0.5 + 1e-9)
    for domain in range(len(sizes)):
        times = np.bincount(rows[domains[rows] == domain], minlength=len(domains))[domains == domain]
        assert times.max() - times.min() <= 1
    if balance == 1:
        assert sorted(rows.tolist()) == list(range(len(domains)))


def test_dead_codes_restart_at_the_residuals_of_served_items() -> None:
    quantizer = ResidualQuantizer(2, 1, 4, 2)
    quantizer.codebooks.data = torch.tensor([[[[0.0, 0.0], [9.0, 9.0], [8.0, 8.0], [1.0, 1.0]]], [[[5.0, 5.0]] * 4]])
    optimizer = torch.optim.AdamW(quantizer.parameters())
    quantizer.codebooks.grad = torch.ones_like(quantizer.codebooks)
    optimizer.step()
    before = quantizer.codebooks.detach().clone()
    z = torch.tensor([[0.1, 0.0], [0.2, 0.0], [0.0, 0.3], [1.0, 1.2], [1.1, 1.0], [1.0, 1.3]])
    sets = torch.zeros(6, dtype=torch.int64)
    quantized = quantizer(z, sets)
    error = (quantized.residuals - quantized.vectors).square().sum(dim=2).detach()
    assignment = Assignment(sets, quantized.codes, quantized.residuals.detach(), error)
    count = revive(quantizer, assignment, 0.5, optimizer, np.random.default_rng(0))
    assert count == 2
    after = quantizer.codebooks.detach()
    assert torch.equal(after[1], before[1])  # a set that served nothing stays
    assert torch.equal(after[0, 0, [0, 3]], before[0, 0, [0, 3]])
    for code in (1, 2):
        assert (after[0, 0, code] == z).all(dim=1).any()
        assert optimizer.state[quantizer.codebooks]["exp_avg"][0, 0, code].abs().sum() == 0
    assert optimizer.state[quantizer.codebooks]["exp_avg"][0, 0, 0].abs().sum() > 0


def test_no_code_restarts_where_nothing_is_left_to_quantize() -> None:
    quantizer = ResidualQuantizer(1, 1, 4, 2)
    z = quantizer.codebooks.detach()[0, 0, [0, 0, 0]]
    sets = torch.zeros(3, dtype=torch.int64)
    quantized = quantizer(z, sets)
    assignment = Assignment(sets, quantized.codes, quantized.residuals.detach(), torch.zeros(3, 1))
    optimizer = torch.optim.AdamW(quantizer.parameters())
    assert revive(quantizer, assignment, 0.5, optimizer, np.random.default_rng(0)) == 0


def test_codes_that_serve_items_as_second_choices_are_in_use() -> None:
    """Of two experts an item, the second one's codes take part in Eq. 5 and 8, so they are neither dead nor idle."""
    torch.manual_seed(0)
    shape = {"embedding_width": 16, "latent_width": 4, "hidden": (8,), "experts": 3, "experts_per_item": 2}
    network = UniTokNetwork(**shape, levels=2, codes=8)
    x = torch.randn(600, 16)
    with torch.no_grad():
        # The first expert comes first for most items, the second second, the third never.
        network.moe.router.bias.copy_(torch.tensor([5.0, 4.9, -90.0]))
        network.moe.router.weight.mul_(0.3)
        mixed = network.eval().moe(network.encoder(x))
    used = np.zeros((3, 2, 8), dtype=np.int64)
    for experts, codes in zip(mixed.routed.experts, mixed.chosen.codes.reshape(600, 2, 2), strict=True):
        for expert, of_expert in zip(experts, codes, strict=True):
            used[expert, [0, 1], of_expert] += 1
    looked = review(network, x)
    np.testing.assert_array_equal(looked.experts.usage(3, 8), used)
    torch.testing.assert_close(looked.first.codes, mixed.codes())
    assert torch.equal(looked.first.sets, mixed.routed.experts[:, 0])

    before = network.moe.experts.codebooks.detach().clone()
    optimizer = torch.optim.AdamW(network.parameters())
    revive(network.moe.experts, looked.experts, 0.05, optimizer, np.random.default_rng(0))
    changed = (network.moe.experts.codebooks.detach() != before).any(dim=3).numpy()
    dead = used < 0.05 * used.sum(axis=2, keepdims=True) / 8
    np.testing.assert_array_equal(changed, dead)


def test_crowded_codes_are_handicapped_in_training_and_never_at_inference() -> None:
    quantizer = ResidualQuantizer(2, 1, 3, 1)
    quantizer.codebooks.data = torch.tensor([[[[0.0], [1.0], [9.0]]], [[[0.0], [1.0], [9.0]]]])
    z = torch.tensor([[0.1], [-0.1], [0.2], [0.4], [0.9]])
    sets = torch.zeros(5, dtype=torch.int64)
    quantized = quantizer.eval()(z, sets)
    assert quantized.codes[:, 0].tolist() == [0, 0, 0, 0, 1]
    error = (quantized.residuals - quantized.vectors).square().sum(dim=2).detach()
    rebalance(quantizer, Assignment(sets, quantized.codes, quantized.residuals.detach(), error), 1.0)
    handicap = quantizer.handicap.detach()
    mean_error = float(error.mean())
    # Uses of 4, 1 and 0 where 5/3 would be even; the logarithm stops at -1.
    expected = mean_error * np.array([np.log(4 * 3 / 5), np.log(3 / 5), -1.0])
    np.testing.assert_allclose(handicap[0, 0], expected, rtol=1e-5)
    assert not handicap[1].any()  # a set that served nothing
    quantizer.handicap[0, 0] *= 3
    assert quantizer.train()(z, sets).codes[:, 0].tolist() == [0, 0, 0, 1, 1]
    assert quantizer.eval()(z, sets).codes[:, 0].tolist() == [0, 0, 0, 0, 1]
    before = quantizer.handicap[0, 0, 0].item()
    even = Assignment(sets[:3], torch.tensor([[0], [1], [2]]), quantized.residuals[:3].detach(), error[:3])
    rebalance(quantizer, even, 1.0)
    assert quantizer.handicap[0, 0, 0].item() == pytest.approx(HANDICAP_KEPT * before)


def test_handicaps_even_out_the_use_of_codes() -> None:
    """Four fifths of the items crowd in the middle, where nearest codes alone would leave few codes for many items."""
    random = np.random.default_rng(5)
    spread = np.where(random.random((1500, 1)) < 0.8, 0.3, 1.0)
    embeddings = (random.standard_normal((1500, 16)) * spread).astype(np.float32)
    domains = np.full(len(embeddings), "crowded")
    without, with_handicaps = (
        UniTok(**{**SMALL, "balance": balance, "epochs": 8}).fit(embeddings, domains).log[-1].perplexity["crowded"]
        for balance in (0.0, 0.2)
    )
    assert all(after > before for before, after in zip(without, with_handicaps, strict=True))


@pytest.mark.parametrize(("kept", "strengths"), [(0.0, [0.15, 0.1, 0.05, 0.0]), (0.5, [0.175, 0.15, 0.125, 0.1])])
def test_handicaps_fall_evenly_from_the_first_strength_to_the_last(
    kept: float, strengths: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(trainer, "rebalance", lambda quantizer, assignment, strength: seen.append(strength))
    UniTok(**{**SMALL, "balance": 0.2, "balance_kept": kept, "epochs": 4, "shared_expert": False}).fit(*planted())
    assert seen == pytest.approx(strengths)


# --- the whole


def test_planted_domains_get_experts_of_their_own_without_a_label() -> None:
    embeddings, domains = planted()
    tokenizer = UniTok(**SMALL).fit(embeddings, domains)
    encoded = tokenizer.encode(embeddings)
    names = np.asarray(tokenizer.expert_names)[encoded.experts[:, 0]]
    assert (names == domains).mean() > 0.97
    for name in tokenizer.expert_names:
        for level in range(3):
            assert len(np.unique(encoded.codes[domains == name, level])) >= 8
    spread = np.square(encoded.latent - encoded.latent.mean(axis=0)).sum()
    assert encoded.quantization_error.sum() < 0.1 * spread


def test_codes_lower_the_reconstruction_error_while_they_are_learned() -> None:
    embeddings, domains = planted()
    log = (
        UniTok(
            **SMALL,
        )
        .fit(embeddings, domains)
        .log
    )
    assert [figures.phase for figures in log] == ["warm-up"] * 6 + ["codes"] * 4
    assert log[-1].reconstruction < log[6].reconstruction
    assert set(log[-1].perplexity) == {"domain 0", "domain 1", "domain 2"}
    assert "perplexity" in log[-1].note()
    assert "perplexity" not in log[0].note()


def test_the_last_line_of_the_log_is_of_the_tokenizer_that_comes_out() -> None:
    """Of what is not changed after the last epoch: the codes, how even they are, and how many items share an ID."""
    embeddings, domains = planted()
    tokenizer = UniTok(**{**SMALL, "revive_until": 0.5}).fit(embeddings, domains)
    encoded, last = tokenizer.encode(embeddings), tokenizer.log[-1]
    assert (last.epoch, last.phase, len(tokenizer.log)) == (10, "codes", 10)
    for name in ("domain 0", "domain 1", "domain 2"):
        codes, experts = encoded.codes[domains == name], encoded.experts[domains == name, 0]
        largest = np.bincount(experts).argmax()
        assert last.own_expert[name] == pytest.approx((experts == largest).mean(), abs=1e-4)
        served = codes[experts == largest]
        for level, found in enumerate(last.perplexity[name]):
            shares = np.bincount(served[:, level])[np.unique(served[:, level])] / len(served)
            assert found == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), abs=0.051)
        ids = [(expert, *code) for expert, code in zip(experts.tolist(), codes.tolist(), strict=True)]
        assert last.sharing[name] == pytest.approx(sum(ids.count(each) > 1 for each in ids) / len(ids), abs=1e-4)


def test_use_of_codes_by_hand() -> None:
    items = TrainingItems(torch.zeros(6, 1), torch.tensor([0, 0, 0, 0, 1, 1]), ("a", "b"))
    codes = torch.tensor([[2, 3], [2, 3], [2, 3], [4, 3], [5, 5], [5, 6]])
    found = code_use(
        items, Assignment(torch.tensor([1, 1, 0, 1, 0, 0]), codes, torch.zeros(6, 2, 1), torch.zeros(6, 2))
    )
    # Of "a" one expert serves three items, and another one item with the same codes, which are another ID then.
    assert found.own_expert == {"a": 0.75, "b": 1.0}
    assert found.sharing == {"a": 0.5, "b": 0.0}
    assert found.perplexity == {"a": [1.9, 1.0], "b": [1.0, 2.0]}


def test_codes_start_anew_until_their_share_of_the_epochs_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def counted(quantizer: ResidualQuantizer, assignment: Assignment, below: float, *_: object) -> int:
        seen.append(below)
        return 3

    monkeypatch.setattr(trainer, "revive", counted)
    for shared, banks in ((True, 2), (False, 1)):
        seen.clear()
        parameters = {**SMALL, "revive_below": 0.25, "revive_until": 0.5, "shared_expert": shared}
        log = UniTok(**parameters).fit(*planted(items=80)).log
        # Of four epochs with codes the first two lie within the half.
        assert [figures.revived for figures in log] == [0] * 6 + [3 * banks] * 2 + [0] * 2
        assert seen == [0.25] * 2 * banks


def test_the_rate_stays_in_the_warm_up_and_falls_along_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def watched(optimizer: torch.optim.AdamW) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    parameters = {**SMALL, "warmup_epochs": 2, "epochs": 2, "batch_size": 60}
    UniTok(**parameters, learning_rate=1e-2, final_learning_rate=1e-3).fit(*planted(items=80))
    # Four batches an epoch; after the warm-up, an eighth of the way a batch.
    falling = [1e-3 + 9e-3 * (1 + np.cos(np.pi * batch / 8)) / 2 for batch in range(8)]
    assert rates == pytest.approx([1e-2] * 8 + falling)


def test_equal_seeds_give_equal_tokenizers() -> None:
    embeddings, domains = planted()
    one, other = (UniTok(**SMALL).fit(embeddings, domains) for _ in range(2))
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [2, 6, 8])
def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path, after: int) -> None:
    embeddings, domains = planted()
    whole = UniTok(**SMALL).fit(embeddings, domains)
    epochs = 0

    def kill(steps: int, note: str | None = None) -> None:
        nonlocal epochs
        epochs += note is not None
        if epochs > after:
            raise Killed

    with pytest.raises(Killed):
        UniTok(**SMALL).fit(embeddings, domains, checkpoint=Checkpoint(tmp_path / CHECKPOINT), advance=kill)
    checkpoint, steps = Checkpoint(tmp_path / CHECKPOINT), list[int]()
    resumed = UniTok(**SMALL).fit(
        embeddings, domains, checkpoint=checkpoint, advance=lambda count, _=None: steps.append(count)
    )
    assert steps[0] == after * round(len(embeddings) / SMALL["batch_size"])
    assert resumed.log == whole.log
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    embeddings, domains = planted(items=80)
    path = tmp_path / CHECKPOINT
    UniTok(**SMALL).fit(embeddings, domains, checkpoint=Checkpoint(path))
    with pytest.raises(ConfigError, match="other parameters or other data"):
        UniTok(**{**SMALL, "alpha": 0.5}).fit(embeddings, domains, checkpoint=Checkpoint(path))
    with pytest.raises(ConfigError, match="other parameters or other data"):
        UniTok(**SMALL).fit(embeddings + 0.01, domains, checkpoint=Checkpoint(path))
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ConfigError, match="not a readable checkpoint"):
        UniTok(**SMALL).fit(embeddings, domains, checkpoint=Checkpoint(path))


def test_a_training_that_diverges_says_so() -> None:
    embeddings, domains = planted(items=80)
    with pytest.raises(ModelError, match=r"loss is not finite.*learning_rate"):
        UniTok(**{**SMALL, "learning_rate": 1e30}).fit(embeddings, domains)


@pytest.mark.parametrize("warmup_epochs", [0, 1])
def test_a_last_step_that_diverges_says_so(warmup_epochs: int) -> None:
    """Of an epoch whose only loss was finite: what comes next is the look at all items, or the start of the codes."""
    embeddings, domains = planted(items=8)
    changes = {"learning_rate": 1e10, "warmup_epochs": warmup_epochs, "epochs": 2}
    with pytest.raises(ModelError, match=r"epoch 1: the loss is not finite.*learning_rate"):
        UniTok(**{**SMALL, **changes}).fit(embeddings, domains)


def test_a_domain_of_one_item_is_no_obstacle() -> None:
    embeddings, domains = planted(items=80)
    domains = domains.astype(object)
    domains[0] = "lonely"
    tokenizer = UniTok(**SMALL).fit(embeddings, domains)
    assert "lonely" in tokenizer.expert_names
    assert np.isfinite(tokenizer.encode(embeddings).latent).all()


# --- parameters


def test_unknown_and_wrong_parameters_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lamda_mi.*known keys.*lambda_mi"):
        UniTok(lamda_mi=0.1)
    path = tmp_path / "tokenizer.toml"
    path.write_text("epochs = 0\nlevel = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tokenizer\.toml: (?=.*epochs)(?=.*level:)"):
        read_stage_parameters(path, {})
    path.write_text("epochs = [", encoding="utf-8")
    with pytest.raises(ConfigError, match="not TOML"):
        read_stage_parameters(path, {})
    with pytest.raises(ConfigError, match="no such file"):
        read_stage_parameters(tmp_path / "absent.toml", {})
    with pytest.raises(ConfigError, match="train_domains names a domain twice"):
        stage_parameters({"train_domains": ("a", "a")}, "here")
    with pytest.raises(ConfigError, match="id_domains is empty"):
        stage_parameters({"id_domains": ()}, "here")


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.toml"
    path.write_text('epochs = 7\ntrain_domains = ["a"]\n', encoding="utf-8")
    parameters = read_stage_parameters(path, {"train_domains": ("b", "c")})
    assert parameters.train_domains == ("b", "c")
    assert parameters.tokenizer == Parameters(epochs=7)
    assert read_stage_parameters(None, {}) == StageParameters()


def test_the_reference_configuration_is_valid() -> None:
    path = Path(__file__).resolve().parents[2] / "training" / "configs" / "tokenizer.toml"
    assert len(read_stage_parameters(path, {}).train_domains or ()) == 10


# --- the estimator


def test_save_and_load_keep_every_code(tmp_path: Path) -> None:
    embeddings, domains = planted(items=80)
    tokenizer = UniTok(**{**SMALL, "experts_per_item": 2}).fit(embeddings, domains)
    tokenizer.save(tmp_path)
    loaded = UniTok.load(tmp_path)
    one, other = tokenizer.encode(embeddings), loaded.encode(embeddings)
    assert one.experts.shape == (240, 2)
    for name in ("codes", "experts", "gate", "quantization_error", "latent"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(tokenizer.reconstruct(embeddings), loaded.reconstruct(embeddings))
    assert loaded.parameters == tokenizer.parameters
    assert loaded.expert_names == tokenizer.expert_names


def test_loading_names_what_is_wrong(tmp_path: Path) -> None:
    embeddings, domains = planted(items=80)
    with pytest.raises(ConfigError, match="no tokenizer"):
        UniTok.load(tmp_path)
    UniTok(**SMALL).fit(embeddings, domains).save(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(
        text.replace('"codes":16', '"codes":8').replace('"codes": 16', '"codes": 8')
    )
    with pytest.raises(ModelError, match="codebooks"):
        UniTok.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(text.replace('"format"', '"version"'), encoding="utf-8")
    with pytest.raises(ConfigError, match="version"):
        UniTok.load(tmp_path)


def test_wrong_input_is_refused_with_its_row() -> None:
    embeddings, domains = planted(items=80)
    with pytest.raises(InvalidInput, match="not fitted"):
        UniTok().encode(embeddings)
    with pytest.raises(InvalidInput, match="240 embeddings but 3 domains"):
        UniTok(**SMALL).fit(embeddings, domains[:3])
    with pytest.raises(InvalidInput, match="experts_per_item is 2"):
        UniTok(**{**SMALL, "experts_per_item": 2}).fit(embeddings[:80], domains[:80])
    broken = embeddings.copy()
    broken[17, 3] = np.nan
    with pytest.raises(InvalidInput, match="row 17"):
        UniTok(**SMALL).fit(broken, domains)
    tokenizer = UniTok(**SMALL).fit(embeddings, domains)
    with pytest.raises(InvalidInput, match="takes 20"):
        tokenizer.encode(embeddings[:, :8])
    with pytest.raises(InvalidInput, match=r"floats \[n, D\]"):
        tokenizer.encode(embeddings.astype(int))
