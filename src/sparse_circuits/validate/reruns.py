"""The controls of a report card that prune again, by the names that `validate --controls` takes (METHOD F10-F13, F15).

They share one `Rerun` (again.py). `seeds` stands first, since the others take the circuits of the unchanged recipe from it; without
it they prune two themselves. What each costs beside those, in runs of learning one seed: nonsense 8, random_init 4, ablation 4,
norm 4 (a third longer each), seeds 10.
"""

from collections.abc import Callable, Mapping

from sparse_circuits.log import Progress
from sparse_circuits.validate.ablations import STANDARD as ABLATION
from sparse_circuits.validate.ablations import ablation_sensitivity
from sparse_circuits.validate.again import Rerun
from sparse_circuits.validate.card import Row
from sparse_circuits.validate.nonsense import STANDARD as NONSENSE
from sparse_circuits.validate.nonsense import nonsense
from sparse_circuits.validate.norms import RISE, SIZE, norms
from sparse_circuits.validate.random_init import STANDARD as RANDOM_INIT
from sparse_circuits.validate.random_init import random_init
from sparse_circuits.validate.seeds import FAILURES, GAPS, OVERLAP, SIZES, seeds
from sparse_circuits.validate.thresholds import Standard

Control = Callable[[Rerun, Progress], tuple[Row, ...]]

CONTROLS: Mapping[str, Control] = {
    "seeds": seeds,
    "nonsense": nonsense,
    "random_init": random_init,
    "ablation": ablation_sensitivity,
    "norm": norms,
}

CONTROL_STANDARDS: Mapping[str, Standard] = {
    "nonsense_control": NONSENSE,
    "random_init_control": RANDOM_INIT,
    "ablation_sensitivity": ABLATION,
    "norm_reliance": RISE,
    "norm_control": SIZE,
    "seed_failures": FAILURES,
    "seed_sizes": SIZES,
    "seed_overlap": OVERLAP,
    "seed_gaps": GAPS,
}
"""Row -> what it must show, as thresholds.STANDARDS has for the other rows."""
