"""What all verbs share: their options, their output, and how a circuit folder is opened with what it refers to."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import tyro

from sparse_circuits.log import SILENT, Progress, TerminalProgress


@dataclass(frozen=True)
class Common:
    """Options of every verb."""

    json: bool = False
    """Print one JSON object on stdout and nothing else."""
    given_seed: Annotated[int | None, tyro.conf.arg(name="seed", metavar="INT", help_behavior_hint="(default: 0)")] = (
        None
    )
    """Seed of everything random."""
    device: str = "cpu"
    """torch device: cpu, cuda, cuda:1, ..."""
    quiet: bool = False
    """No progress on stderr."""

    @property
    def seed(self) -> int:
        """The seed to use where it does not matter whether 0 was given."""
        return self.given_seed or 0

    @property
    def progress(self) -> Progress:
        """Where this call reports progress."""
        return SILENT if self.quiet else TerminalProgress()


class Output(NamedTuple):
    """What a verb has to say."""

    data: dict[str, Any]
    """The object of --json."""
    text: str
    """The same for a person."""


Shared = Annotated[Common, tyro.conf.OmitArgPrefixes]
Where = tyro.conf.Positional[str]
DEFAULTS = Common()


def open_circuit(folder: str, model: str | None, common: Common, task: str | None = None) -> tuple[Any, Any, Any, Any]:
    """A circuit with its model, task and tokenizer, each checked against the circuit's hashes.

    model, task: what to use in place of what the circuit names. Raises ValueError if it has no ablation values.
    """
    from sparse_circuits.circuit.circuit import load_circuit
    from sparse_circuits.circuit.evaluate import own_values
    from sparse_circuits.hub.origins import load_origins

    circuit = load_circuit(folder)
    own_values(circuit)  # before a device is asked for
    found = load_origins(circuit, model=model, task=task, device=usable_device(common.device))
    return circuit, found.model, found.task, found.tokenizer


def headline(summary: dict[str, Any]) -> str:
    """A circuit in two or three lines; what an imported one does not say is `not published`."""

    def number(value: float | None) -> str:
        return "not published" if value is None else f"{value:.4f}"

    lines = [f"{summary['task']}: {summary['nodes']} of {summary['nodes_total']} nodes, {summary['edges']} edges"]
    if (spare := summary["removable"]) is not None:
        lines[0] += f"; {len(spare)} of them could go alone" if spare else "; none of them can go alone"
    if published := summary["published_loss"]:
        claimed = f"published loss {number(published['circuit'])} nats, model {number(published['model'])}"
        lines.append(f"{claimed} (on which prompts is not said)")
    loss, model = summary["loss"], summary["model_loss"] or {"test": None}
    target = "not published" if summary["target_loss"] is None else summary["target_loss"]
    verdict = {True: " met", False: " MISSED", None: ""}[summary["met_target"]]
    if loss is None:
        lines.append(f"losses per split not published, target {target}")
    else:
        lines.append(
            f"test loss {loss['test']:.4f} nats (train {loss['train']:.4f}, val {loss['val']:.4f}), target {target}{verdict}; "
            f"model {number(model['test'])}, empty {number(summary['empty_loss'])}"
        )
    return "\n".join(lines)


def usable_device(name: str) -> str:
    """The device's name. Raises ValueError if torch does not know it or this machine lacks it."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); cpu always works"
        ) from None
    return name
