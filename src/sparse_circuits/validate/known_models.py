"""All models whose circuit is known, by name: the answers that pruning has to find (`bench ground-truth`).

Every function takes a seed, which draws the distractors, compiles its model and checks the truth by measurement
(`check_truth`); the docstring of each tells its algorithm in steps.

They are written softly, on purpose: heads that are not quite sure where to look, a large anchor in the norms, means that lie
between the classes. In a saturated head a stronger signal gains nothing and costs norm, so the gradient at the whole model
wants true nodes gone; learned masks then lose them all at once and stand before a flat loss. Measured on surer versions of
induction, binding and counting (a saturated head, thresholds near the counts), all of whose nodes pruning dropped.
"""

from collections.abc import Callable

from sparse_circuits.validate.ground_truth import GroundTruth, quote_model
from sparse_circuits.validate.known_counts import bracket_depth_model, counting_model
from sparse_circuits.validate.known_lookups import binding_model, copy_model, induction_model
from sparse_circuits.validate.known_paths import cancelling_model, distractor_path_model, redundant_model

GROUND_TRUTHS: dict[str, Callable[[int], GroundTruth]] = {
    "quote": quote_model,
    "bracket_depth": bracket_depth_model,
    "binding": binding_model,
    "copy": copy_model,
    "induction": induction_model,
    "counting": counting_model,
    "redundant": redundant_model,
    "distractor_path": distractor_path_model,
    "cancelling": cancelling_model,
}
