"""Trains an autoencoder with codes (UniTok paper, Algorithm 1): warm-up, initialisation of codes, epochs with codes.

Batches mix domains. After every epoch with codes all items are reviewed: use of codes is reported, dead codes are
re-initialised, and crowded ones get a handicap. A killed training resumes from its last finished epoch and ends with
the same weights. Knows nothing of files other than the checkpoint.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.errors import ModelError
from service.progress import Advance
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.data.balance import domain_quotas
from training.networks.unitok import Losses, UniTokNetwork
from training.tokenizer.epoch_figures import EpochFigures, code_use
from training.tokenizer.items import TrainingItems
from training.tokenizer.parameters import AutoencoderParameters
from training.tokenizer.review import CHUNK, Review, rebalance, review, revive
from training.tokenizer.start import start_moe
from training.tokenizer.terms import Term


def fingerprint(items: TrainingItems, parameters: AutoencoderParameters) -> str:
    """SHA-256 of everything that determines the training."""
    digest = hashlib.sha256(parameters.model_dump_json().encode())
    digest.update("\0".join(items.names).encode())
    digest.update(np.ascontiguousarray(items.domains.numpy()).data)
    digest.update(np.ascontiguousarray(items.embeddings.numpy()).data)
    if items.extras.collaborative is not None:
        digest.update(np.ascontiguousarray(items.extras.collaborative).data)
    return digest.hexdigest()


def draw_epoch(domains: NDArray[np.int64], balance: float, random: np.random.Generator) -> NDArray[np.int64]:
    """Rows of one epoch, int64 [about n], shuffled over all domains.

    Domain k is drawn in proportion to n_k^balance. A domain drawn more often than it has items is repeated; no item is
    repeated before all others of the domain were drawn as often.
    """
    rows = []
    for domain, count in enumerate(domain_quotas(np.bincount(domains), balance, len(domains))):
        own = np.flatnonzero(domains == domain)
        rounds = math.ceil(count / max(1, len(own)))
        rows.append(np.concatenate([random.permutation(own) for _ in range(rounds)] or [own[:0]])[:count])
    return random.permutation(np.concatenate(rows))


class Trainer:
    """One training from start to end.

    Parameters
    ----------
    network : trained in place
    items, parameters : the training data and the parameters of the training
    checkpoint : where to save progress, and to resume from if the file exists; None: neither
    terms : added to the loss
    """

    def __init__(
        self,
        network: UniTokNetwork,
        items: TrainingItems,
        parameters: AutoencoderParameters,
        checkpoint: Checkpoint | None,
        terms: Sequence[Term] = (),
    ) -> None:
        self.network = network
        self.items = items
        self.parameters = parameters
        self.checkpoint = checkpoint
        self.terms = terms
        self.weights = parameters.weights()
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
        )

    @property
    def epochs(self) -> int:
        """Total number of epochs, the warm-up included."""
        return self.parameters.warmup_epochs + self.parameters.epochs

    def run(self, advance: Advance) -> list[EpochFigures]:
        """Train to the end; `advance(steps, note)` is called after every batch and every epoch.

        Raises
        ------
        ConfigError : the checkpoint is of another training, or damaged
        ModelError : the loss is not finite
        """
        mark = fingerprint(self.items, self.parameters) if self.checkpoint else ""
        log: list[EpochFigures] = []
        self.network.train()
        if self.checkpoint:
            progress = load_checkpoint(self.checkpoint, self.network, self.optimizer, mark)
            if progress is not None:
                log = [EpochFigures(**figures) for figures in progress["log"]]
                advance(len(log) * self.parameters.batches(len(self.items.embeddings)), log[-1].note())
        for epoch in range(len(log), self.epochs):
            if epoch == self.parameters.warmup_epochs:
                self._start_codes()
            log.append(self._epoch(epoch, advance))
            advance(0, log[-1].note())
            if self.checkpoint:
                progress = {"log": [asdict(figures) for figures in log]}
                save_checkpoint(self.checkpoint, self.network, self.optimizer, mark, progress)
        return log

    def _start_codes(self) -> None:
        with torch.no_grad():
            latents = torch.cat([self.network.encoder(x) for x in torch.split(self.items.embeddings, CHUNK)])
        # The last step may have diverged after its loss was computed, and faiss aborts the process on non-finite rows.
        self._require_finite(latents.square().sum(dim=1).numpy(), self.parameters.warmup_epochs - 1)
        start_moe(
            self.network.moe,
            latents.numpy(),
            self.items.domains.numpy(),
            self.parameters.kmeans_iterations,
            self.parameters.seed,
        )

    def _epoch(self, epoch: int, advance: Advance) -> EpochFigures:
        with_codes = epoch >= self.parameters.warmup_epochs
        random = np.random.default_rng([self.parameters.seed, epoch])
        batches = list(self._batches(random))
        sums = np.zeros(3 + len(self.terms))
        for term in self.terms if with_codes else ():
            term.start_epoch(self.network, epoch)
        for step, rows in enumerate(batches):
            self._set_learning_rate(epoch + step / len(batches))
            losses, terms = self._step(rows, with_codes)
            hsic = losses.calibration.values
            sums += (
                losses.reconstruction.item(),
                losses.quantization.item(),
                hsic.mean().item() if len(hsic) else 0.0,
                *terms,
            )
            advance(1)
        self._require_finite(sums, epoch)
        reconstruction, quantization, hsic_mean, *of_terms = (sums / len(batches)).tolist()
        if not with_codes:
            return EpochFigures(epoch + 1, "warm-up", reconstruction, quantization, hsic_mean, {}, {}, {}, {}, 0)
        self.network.eval()
        looked = review(self.network, self.items.embeddings)
        self.network.train()
        for bank in (looked.experts, looked.shared):
            self._require_finite(np.zeros(0) if bank is None else bank.error.numpy(), epoch)
        revived = self._revive(looked, epoch, random)
        self._rebalance(looked, epoch)
        use = code_use(self.items, looked.first)
        return EpochFigures(
            epoch=epoch + 1,
            phase="codes",
            reconstruction=reconstruction,
            quantization=quantization,
            hsic=hsic_mean,
            terms={term.name: value for term, value in zip(self.terms, of_terms, strict=True)},
            perplexity=use.perplexity,
            own_expert=use.own_expert,
            sharing=use.sharing,
            revived=revived,
        )

    def _require_finite(self, numbers: NDArray[np.floating], epoch: int) -> None:
        if not np.isfinite(numbers).all():
            raise ModelError(
                f"epoch {epoch + 1}: the loss is not finite; a lower learning_rate than "
                f"{self.parameters.learning_rate} may help"
            )

    def _batches(self, random: np.random.Generator) -> Iterator[Tensor]:
        rows = draw_epoch(self.items.domains.numpy(), self.parameters.domain_balance, random)
        for part in np.array_split(rows, self.parameters.batches(len(self.items.embeddings))):
            yield torch.from_numpy(part)

    def _set_learning_rate(self, epoch: float) -> None:
        """Constant during the warm-up, then a cosine from `learning_rate` to `final_learning_rate`."""
        first, last = self.parameters.learning_rate, self.parameters.final_learning_rate
        done = max(0.0, epoch - self.parameters.warmup_epochs) / self.parameters.epochs
        rate = last + (first - last) * (1 + math.cos(math.pi * done)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _step(self, rows: Tensor, with_codes: bool) -> tuple[Losses, list[float]]:
        """One optimiser step; returns the losses and terms of the batch, unweighted."""
        x, domains = self.items.embeddings[rows], self.items.domains[rows]
        losses_of = self.network.losses if with_codes else self.network.autoencoder_losses
        losses = losses_of(x, domains, self.weights)
        total, terms = losses.total, [0.0] * len(self.terms)
        if losses.passed is not None:
            for number, term in enumerate(self.terms):
                value = term(losses.passed, rows)
                total = total + term.weight * value
                terms[number] = value.item()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return losses, terms

    def _revive(self, looked: Review, epoch: int, random: np.random.Generator) -> int:
        done = (epoch + 1 - self.parameters.warmup_epochs) / self.parameters.epochs
        if done > self.parameters.revive_until:
            return 0
        moe, below = self.network.moe, self.parameters.revive_below
        revived = revive(moe.experts, looked.experts, below, self.optimizer, random)
        if moe.shared is not None and looked.shared is not None:
            revived += revive(moe.shared, looked.shared, below, self.optimizer, random)
        return revived

    def _rebalance(self, looked: Review, epoch: int) -> None:
        """Handicap crowded codes, less in every epoch: in the end they must settle for assignment by distance alone."""
        done = (epoch + 1 - self.parameters.warmup_epochs) / self.parameters.epochs
        left = 1 - done * (1 - self.parameters.balance_kept)
        moe, strength = self.network.moe, self.parameters.balance * left
        rebalance(moe.experts, looked.experts, strength)
        if moe.shared is not None and looked.shared is not None:
            rebalance(moe.shared, looked.shared, strength)
