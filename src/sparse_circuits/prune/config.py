"""The recipe of a pruning."""

from collections.abc import Mapping
from typing import Any, Literal

from sparse_circuits.circuit.circuit import Ablation, LossKind
from sparse_circuits.config import Config


class PruneConfig(Config):
    """Hyperparameters of learning and choosing a mask (METHOD 1f, D3-D6, D11). Raises ValueError for one outside its range."""

    steps: int = 200
    """Optimizer steps."""
    batch_pairs: int = 16
    """Pairs per step and seed."""
    k_coef: float = 3e-3
    """Price of a kept node, nats."""
    k_coef_warmup: float = 0.2
    """Share of the steps over which the price rises linearly from 0, so that the least useful nodes go first; 0 = at once."""
    steer_to: float | None = 0.25
    """Where between the model's own loss (0) and the target (1) learning is to stay: the price of a node is steered there, growing
    while a seed's task loss is below and shrinking above. None: the price is `k_coef` throughout, as in the paper. One price for
    all tasks left some far below their target, with nodes to spare, and others above it (docs/method.md)."""
    lr: float = 1e-2
    """Learning rate of tau, falling to zero."""
    lr_warmup_frac: float = 0.05
    """Share of the steps with rising learning rate, below 1."""
    beta1: float = 0.9
    beta2: float = 0.95
    """Adam's moment decays."""
    eps: float = 1e-8
    """Added to Adam's root."""
    weight_decay: float = 1e-3
    """AdamW's decay of tau."""
    clip_rms: float = 1.0
    """Largest RMS of the gradient of tau."""
    init_noise_bias: float = 0.1
    """Mean of tau at the start."""
    init_noise_scale: float = 1e-2
    """Standard deviation of tau at the start."""
    temperature: float = 1.0
    """Width of the sigmoid whose slope stands in for the step."""
    least_loss_share: float = 0.1
    """Learning never sees the model below this share of the target loss: a surer model's contrasts are scaled down to it.
    Without it the price of a node outweighs every gradient of a very sure model and all nodes go at once (measured on the
    compiled quote model with W_U doubled: 2 of 12 true nodes kept, 12 of 12 with it). Choosing and scoring use the true loss."""
    objective: Literal["task_loss", "kl_to_model"] = "task_loss"
    """What learning minimises beside the price: the task loss, or KL(p_model || p_circuit) over the two completions, which rewards
    a circuit for agreeing with the model, its errors included (METHOD F1). Choosing and the target stay with the task loss."""
    stochastic_ablation: bool = False
    """Training noise (METHOD F9): in each step every node outside the mask is ablated only with a probability r ~ U(0, 1), so that
    a circuit cannot count on what the ablation of all others together happens to do."""
    ablation: Ablation = "mean_pretrain"
    """Where ablated nodes take their values from (METHOD D4)."""
    loss_kind: LossKind = "binary"
    """Task loss (METHOD D3)."""
    target_on: Literal["loss", "calibrated"] = "loss"
    """Which loss must meet the target (METHOD D6)."""
    train_pairs: int = 2048
    """Training pairs drawn once; batches are sampled from them."""
    val_pairs: int = 64
    """Validation pairs of the fixed batch that chooses nodes (METHOD D11); losses are reported on 512."""
    choice_train_pairs: int = 64
    """Training pairs beside them, on which the target must hold too; 0: validation alone, as METHOD D11 has it. What is chosen on
    the three or four validation templates alone fits them and often misses the target on test (docs/method.md)."""

    def model_post_init(self, context: object) -> None:  # noqa: ARG002 (pydantic's signature)
        for name in ("steps", "batch_pairs", "train_pairs", "val_pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, given {getattr(self, name)}")
        if self.choice_train_pairs < 0:
            raise ValueError(f"choice_train_pairs must be at least 0, given {self.choice_train_pairs}")
        if self.steer_to is not None and not 0 < self.steer_to <= 1:
            raise ValueError(f"steer_to must lie above 0 and at most at 1, or be null, given {self.steer_to}")
        if not self.lr > 0 or self.k_coef < 0 or not self.temperature > 0:
            raise ValueError("lr and temperature must be above 0, k_coef at least 0")
        ranges = {
            "k_coef_warmup": (0 <= self.k_coef_warmup <= 1, "at least 0 and at most 1"),
            "lr_warmup_frac": (0 <= self.lr_warmup_frac < 1, "at least 0 and below 1"),
            "beta1": (0 <= self.beta1 < 1, "at least 0 and below 1"),
            "beta2": (0 <= self.beta2 < 1, "at least 0 and below 1"),
            "eps": (self.eps > 0, "above 0"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "clip_rms": (self.clip_rms > 0, "above 0"),
            "init_noise_scale": (self.init_noise_scale >= 0, "at least 0"),
            "least_loss_share": (0 <= self.least_loss_share <= 1, "at least 0 and at most 1"),
        }
        for name, (holds, allowed) in ranges.items():
            if not holds:
                raise ValueError(f"{name} must be {allowed}, given {getattr(self, name)}")
        if self.objective == "kl_to_model" and self.loss_kind != "binary":
            raise ValueError(
                f"objective kl_to_model compares the two completions: it needs loss_kind binary, given {self.loss_kind}"
            )


def recipe_of(stored: Mapping[str, Any]) -> PruneConfig:
    """The recipe that a circuit names. One from before `choice_train_pairs` chose nodes on validation alone.

    Raises ValueError for the recipe of another library.
    """
    return PruneConfig.from_dict({"choice_train_pairs": 0, **stored})
