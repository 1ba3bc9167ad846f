"""The verb that makes the models in the box."""

from dataclasses import asdict
from typing import Any

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, usable_device


def bundle(out: str = "runs/bundle", stage: tuple[str, ...] = (), common: Shared = DEFAULTS) -> Output:
    """Makes the models in the box: corpus, sparse model, dense twins, scores, model cards; goes on where it stopped.

    Args:
        out: Folder of everything it makes; one that was begun with another seed or recipe is refused.
        stage: corpus, sparse, dense-same, dense-matched, ship; all of them by default, in this order.
    """
    from sparse_circuits.recipe.bundle import STAGES, build_bundle

    device = usable_device(common.device)
    result = build_bundle(out, stages=stage or STAGES, seed=common.seed, device=device, progress=common.progress)
    return Output(asdict(result), _told(asdict(result)))


def _told(result: dict[str, Any]) -> str:
    lines = [f"{stage}: {seconds:.0f} s" for stage, seconds in result["seconds"].items()]
    for name, found in (result["scores"] or {}).items():
        if "tasks" in found:
            losses = [row["template"]["loss"] for row in found["tasks"].values() if "template" in row]
            solved = sum(loss < 0.05 for loss in losses)
            lines.append(
                f"{name}: validation loss {found['val_loss']:.3f} nats, {solved} of {len(found['tasks'])} tasks below 0.05"
            )
    return "\n".join([*lines, f"in {result['path']}"])
