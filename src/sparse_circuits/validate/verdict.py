"""From the rows of a report card to one word, by one rule.

The words, from worst to best; each says what the measurements allow, and not more:
- `unfaithful`: an essential row failed. Essential is what the claim "this is how the model does the task" says about the circuit
  itself: its outputs are the model's (agreement, same_choice, faithfulness), this set of nodes does it and not any other
  (random_circuit), the model needs it (necessity) and breaks as it does (completeness), its nodes and heads do what they do in the
  model (roles, dead_heads, interchange, interchange_accuracy), it does not rest on what the ablation of everything else together
  happens to do (robust_loss, relaxation, resample_ablation), and it fails where the model fails (shifted_splits).
- `unproven`: no essential row failed, but one without which nothing can be said (need `always`) could not be measured; or the
  recipe that found the circuit also finds one where there is nothing to find (control nonsense or random_init failed), so that
  having found this one shows little.
- `faithful`: every essential row that was measured passed. Others, or the two controls, were not (a quick card, a selection).
- `trustworthy`: every essential row that applies passed, and so did the controls nonsense and random_init.

Not essential: sufficiency (a miss of the target by a hair is a miss of the target, and faithfulness says by how much), minimality
(idle nodes make a circuit larger, not wrong), attention (patterns also differ where the task has nothing to ask), binarisation
(how simply a circuit can be read: one that counts is no less true), adversarial (an adversary also breaks models), mined (few
pairs), and the controls on ablation, norms and seeds, which say how far the result depends on choices, not whether it is true of
the model. They are named among the reasons where they fail.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sparse_circuits.validate.card import Row, Word
from sparse_circuits.validate.thresholds import STANDARDS

GATES = ("nonsense", "random_init")
"""Controls without which no circuit is trustworthy: what they ask is whether the recipe can tell something from nothing."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A word and what decided it."""

    word: Word
    reasons: tuple[str, ...]
    """The gravest first; empty where everything was measured and passed."""


def judge(rows: Mapping[str, Row], parts: Mapping[str, tuple[str, ...]]) -> Verdict:
    """The verdict of the rows of a card. parts: measurement or control -> its rows."""
    essential = [name for name, standard in STANDARDS.items() if standard.need != "beside"]
    failed = [rows[name] for name in essential if name in rows and rows[name].outcome == "fail"]
    lacking = [name for name in essential if STANDARDS[name].need == "always" and not _answered(rows.get(name))]
    gates = {gate: [rows[name] for name in parts.get(gate, ())] for gate in GATES}
    unselective = [row for found in gates.values() for row in found if row.outcome == "fail"]
    unmeasured = [name for name in essential if name not in rows and name not in lacking]
    unasked = [gate for gate, found in gates.items() if not any(map(_answered, found))]
    word: Word = "trustworthy"
    if failed:
        word = "unfaithful"
    elif lacking or unselective:
        word = "unproven"
    elif unmeasured or unasked:
        word = "faithful"
    decisive = {row.name for row in (*failed, *unselective)}
    beside = [row for row in rows.values() if row.outcome == "fail" and row.name not in decisive]
    close = [row.name for row in rows.values() if row.outcome == "pass" and row.details.get("close")]
    reasons = [f"{row.name} fails: {row.reason}" for row in failed]
    reasons += [f"{name}: {_why(rows.get(name))}" for name in lacking]
    reasons += [
        f"{row.name} fails, so that having found this circuit shows little: {row.reason}" for row in unselective
    ]
    reasons += [f"not measured: {', '.join(unmeasured)}"] if unmeasured else []
    reasons += [f"controls without an answer: {', '.join(unasked)}"] if unasked else []
    reasons += [f"beside the verdict, {row.name} fails: {row.reason}" for row in beside]
    reasons += [f"passed, with an interval that reaches across the threshold: {', '.join(close)}"] if close else []
    return Verdict(word=word, reasons=tuple(reasons))


def _answered(row: Row | None) -> bool:
    return row is not None and row.outcome != "not applicable"


def _why(row: Row | None) -> str:
    return "not measured" if row is None else row.reason
