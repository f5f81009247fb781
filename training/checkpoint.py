"""A checkpoint of a network in training: one safetensors file, replaced in one step.

Holds weights, AdamW's moments and the average of the weights, if any. The file's header holds the fingerprint, the
progress of training as JSON, and the seconds that its stage has taken. The state of random generators is not needed:
every epoch or step has its own generator, seeded by its number. Knows nothing of what is being trained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from service.errors import ConfigError
from training.stage import Clock, replacing

CHECKPOINT = "checkpoint.safetensors"
"""File name of the checkpoint in the folder of an unfinished stage."""

_WEIGHT = "weight."
_MOMENT = "optimizer."
_KEYS = ("step", "exp_avg", "exp_avg_sq", "average")


@dataclass(frozen=True)
class Checkpoint:
    """The file of a checkpoint, and the clock of the stage, which resumes from the checkpoint."""

    path: Path
    clock: Clock = field(default_factory=Clock)


def save_checkpoint(
    checkpoint: Checkpoint,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    fingerprint: str,
    progress: dict[str, Any],
) -> None:
    """Write the checkpoint; a kill at any moment leaves the old one or the new.

    Parameters
    ----------
    fingerprint : identifies the parameters and the data of this training
    progress : returned by `load_checkpoint`; JSON
    """
    state, names = network.state_dict(), _names_in_file(network)
    tensors = {_WEIGHT + name: state[name].detach().contiguous() for name in set(names.values())}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{_MOMENT}{key}.{name}"] = value.detach().contiguous()
    header = {"fingerprint": fingerprint, "progress": json.dumps(progress), "seconds": str(checkpoint.clock.seconds())}
    checkpoint.path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(checkpoint.path) as partial:
        save_file(tensors, partial, metadata=header)


def load_checkpoint(
    checkpoint: Checkpoint, network: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> dict[str, Any] | None:
    """Restore weights, moments and the clock, and return the progress; None if there is no checkpoint.

    Raises
    ------
    ConfigError : the file is not a checkpoint, or one of other parameters or data
    """
    path = checkpoint.path
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a readable checkpoint ({error}); delete it to start anew") from None
    if metadata.get("fingerprint") != fingerprint:
        raise ConfigError(
            f"{path}: a checkpoint of other parameters or other data, teachers among them; delete it to start anew, or "
            "put the old ones back"
        )
    network.load_state_dict({name: tensors[_WEIGHT + kept] for name, kept in _names_in_file(network).items()})
    for name, parameter in network.named_parameters():
        keys = [key for key in _KEYS if f"{_MOMENT}{key}.{name}" in tensors]
        if keys:
            # On the parameter's device, as fused optimisers require.
            moments = {key: tensors[f"{_MOMENT}{key}.{name}"].to(parameter.device) for key in keys}
            optimizer.state[parameter] = moments
    # Checkpoints of earlier versions have no seconds.
    checkpoint.clock.before = float(metadata.get("seconds", 0.0))
    progress: dict[str, Any] = json.loads(metadata["progress"])
    return progress


def _names_in_file(network: nn.Module) -> dict[str, str]:
    """Name in the file of each tensor of the state dict; tied tensors share one name."""
    first: dict[tuple[torch.device, int, torch.Size], str] = {}
    names = {}
    for name, tensor in network.state_dict().items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape)
        names[name] = first.setdefault(key, name) if tensor.numel() else name
    return names
