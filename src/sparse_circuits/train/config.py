"""The config of a training run: model, sparsity, optimizer, batch, length, and how often to look and to save."""

from typing import Literal

from sparse_circuits.config import Config
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.train.optimizer import OptimizerConfig
from sparse_circuits.train.sparsity import SparsityConfig


class TrainConfig(Config):
    """Everything that decides a run, given the data."""

    name: str
    """Preset it came from, for people."""
    model: ModelConfig
    """Shape and function of the model."""
    sparsity: SparsityConfig
    """Target sparsity and anneal."""
    optimizer: OptimizerConfig
    """Optimizer and learning rate."""
    steps: int
    """T, optimizer steps."""
    batch_size: int
    """Sequences of model.block_size tokens per step, over all ranks."""
    seed: int = 0
    """Draws the starting weights and the batches."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the matrix products; weights stay fp32. auto = bf16 where the GPU has it, else fp32."""
    eval_every: int = 250
    """Steps between validations."""
    eval_tokens: int = 65_536
    """Validation tokens per look, at most."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    reference_tokens: int = 262_144
    """Training tokens behind the ablation reference values (METHOD D4)."""

    def model_post_init(self, context: object) -> None:  # noqa: ARG002 (pydantic's signature)
        for name in ("steps", "batch_size", "eval_every", "eval_tokens", "checkpoint_every", "reference_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, given {getattr(self, name)}")

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimizer step."""
        return self.batch_size * self.model.block_size
