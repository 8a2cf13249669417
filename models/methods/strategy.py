"""LAS-AT's strategy network: which attack each image is trained on (Jia et al. 2022, arXiv 2203.06616, §3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.distributed import gathered, own_rows
from models.networks import ImageModel


class StrategyNetwork(nn.Module):
    """An encoder with one linear head for each thing to choose; each head's softmax is a distribution over choices."""

    def __init__(self, encoder: ImageModel, *, choices: dict[str, Tensor]) -> None:
        """``choices``: name → the values (M,) that this part of an attack may take."""
        super().__init__()
        self.encoder = encoder
        features = encoder.backbone.feature_dim
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(values)) for name, values in choices.items()})
        for name, values in choices.items():
            self.register_buffer(f"choices_{name}", values, persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Log-probabilities (N, M) of each thing to choose, in float32."""
        features = self.encoder(images)
        return {name: head(features).float().log_softmax(dim=1) for name, head in self.heads.items()}

    def values(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the drawn positions (N,) mean: name → values (N,)."""
        return {name: getattr(self, f"choices_{name}")[position] for name, position in drawn.items()}


def draw(log_probabilities: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """A position (N,) for each image and each thing to choose, drawn by its distribution."""
    return {
        name: own_rows(torch.multinomial(gathered(table.detach()).exp(), 1, generator=generator)).squeeze(1)
        for name, table in log_probabilities.items()
    }


def log_likelihood(log_probabilities: dict[str, Tensor], drawn: dict[str, Tensor]) -> Tensor:
    """Log-probability of all that was drawn for an image, averaged over the images: a scalar with a gradient."""
    parts = [table.gather(1, drawn[name][:, None]) for name, table in log_probabilities.items()]
    return torch.cat(parts, dim=1).sum(dim=1).mean()
