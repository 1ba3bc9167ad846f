"""What passes: one line per row of the report card, each with the reason for its number. These are decisions, not measurements.

Losses are read on one scale: guessing between two completions loses ln 2 = 0.69 nats, so half of that, 0.35, is halfway between
knowing and guessing. A row passes by its value; where its interval reaches across the threshold, its reason says so.

`need` says what a row means for the verdict (verdict.py). `always`: without it nothing can be said. `where it applies`: failing it
is as bad, but some circuits cannot be asked (no attention head, no shifted split). `beside`: the verdict does not rest on it,
because it measures thrift or severity and not whether the circuit is what the model does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sparse_circuits.validate.robustness import BUMP

Need = Literal["always", "where it applies", "beside"]
GUESS = math.log(2)
"""Binary loss of guessing, nats."""
HALF = GUESS / 2


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What one row must show."""

    number: str
    """In the method."""
    unit: str
    low: float = -math.inf
    high: float = math.inf
    need: Need = "where it applies"
    why: str
    """Why this number."""

    @property
    def text(self) -> str:
        """As `at most 0.2`."""
        if self.low == -math.inf:
            return f"at most {self.high:.3g}"
        return f"at least {self.low:.3g}" if self.high == math.inf else f"{self.low:.3g} to {self.high:.3g}"

    def holds(self, value: float) -> bool:
        """Whether a value passes; bounds belong to what passes."""
        return self.low <= value <= self.high


STANDARDS: Mapping[str, Standard] = {
    "agreement": Standard(
        number="F1",
        unit="KL(model || circuit) of the two completions, nats",
        high=0.2,
        need="always",
        why="A circuit that is always right and loses 0.15, the usual target, is 0.15 from a sure model; a third is added.",
    ),
    "same_choice": Standard(
        number="F1",
        unit="share of prompts on which circuit and model choose the same completion",
        low=0.9,
        need="always",
        why="Who predicts the model from the circuit should be wrong on no more than one prompt in ten.",
    ),
    "faithfulness": Standard(
        number="F2",
        unit="share of the way from the empty circuit's loss to the model's",
        low=0.75,
        high=1.25,
        need="always",
        why="At a loss of 0.15 a circuit of a sure model has gone 0.78 of the way; as far beyond the model is as far from it.",
    ),
    "sufficiency": Standard(
        number="F3",
        unit="loss of the circuit, nats",
        high=0.15,
        need="beside",
        why="The target that the circuit was pruned to, or 0.15 where it names none; how far off a miss is, faithfulness says.",
    ),
    "random_circuit": Standard(
        number="F11",
        unit="loss of the circuit, nats",
        high=HALF,
        need="always",
        why="The loss of random circuits less half of what guessing loses (0.35 where they guess): they come not halfway to it.",
    ),
    "necessity": Standard(
        number="F3",
        unit="rise of the model's loss without the circuit, nats",
        low=HALF,
        need="always",
        why="Half of what guessing loses: a model that still does half of the task without the circuit does it in another way.",
    ),
    "completeness": Standard(
        number="F4",
        unit="difference in loss when the same part is ablated in circuit and model, mean over parts, nats",
        high=0.2,
        why="As for agreement: what the usual target allows and a third; beyond it, what breaks the one is made good in the other.",
    ),
    "minimality": Standard(
        number="F5",
        unit="share of nodes whose ablation adds at most 0.01 nats",
        high=0.2,
        need="beside",
        why="One node in five may be there for others' sake; idle nodes make a circuit larger than it is, not wrong.",
    ),
    "roles": Standard(
        number="F6",
        unit="share of nodes whose activation correlates below 0.5 with that in the model",
        high=0.1,
        why="Who reads a node in the circuit should be wrong about the model for no more than one node in ten.",
    ),
    "attention": Standard(
        number="F7",
        unit="total variation between the attention patterns of circuit and model, worst head",
        high=0.5,
        need="beside",
        why="Beyond one half most of a head's attention is elsewhere; much of it may be where the task has nothing to ask.",
    ),
    "dead_heads": Standard(
        number="F7",
        unit="heads that select tokens in the model and are uniform in the circuit, for want of queries or keys",
        high=0.0,
        why="Such a head does nothing that the model's head does; one is enough to make the picture of the circuit wrong.",
    ),
    "binarisation": Standard(
        number="1h",
        unit="rise of the circuit's loss when each of its nodes has two levels, nats",
        high=0.2,
        need="beside",
        why="From the usual target to half of what guessing loses (0.35): nodes that only say yes or no still do the task.",
    ),
    "interchange": Standard(
        number="F8",
        unit="rise of the loss when nodes take the values they have in the other of circuit and model, nats",
        high=0.1,
        why="Two thirds of the usual target: values that mean the same leave the loss where it is.",
    ),
    "resample_ablation": Standard(
        number="F8",
        unit="loss with the surroundings of a prompt with the other answer, nats",
        high=GUESS,
        why="Guessing's loss: beyond it what is outside the circuit decides more than the circuit does.",
    ),
    "interchange_accuracy": Standard(
        number="F8",
        unit="share of prompts and node sets where both answers flip or neither does",
        low=0.9,
        why="The same one in ten as for the choice itself, now under intervention.",
    ),
    "robust_loss": Standard(
        number="F9a",
        unit="loss under partial ablation of what is outside, 95th percentile, nats",
        high=HALF,
        why="Half of what guessing loses: a circuit holds on nearly every way from itself to the model.",
    ),
    "relaxation": Standard(
        number="F9a",
        unit="rise of the loss on the way from circuit to model, mean over orders, nats",
        high=BUMP,
        why="A third of the usual target; more means ablations outside that cancel each other.",
    ),
    "adversarial": Standard(
        number="F9b",
        unit="loss under the worst ablation found outside, nats",
        high=GUESS,
        need="beside",
        why="Guessing's loss; an adversary with thousands of nodes can hurt a faithful circuit, and the model.",
    ),
    "shifted_splits": Standard(
        number="F14",
        unit="difference in accuracy between model and circuit, worst shifted split",
        high=0.1,
        why="One prompt in ten, as on the split itself: the circuit fails where the model fails, and nowhere else.",
    ),
    "mined": Standard(
        number="F14",
        unit="difference in accuracy between model and circuit on pairs from real code",
        high=0.1,
        need="beside",
        why="The same one in ten; beside the verdict, because real code holds few pairs of most tasks.",
    ),
}
"""Row -> what it must show, in the order of the card."""
