"""The difference of logits ratio against its formulas written out for one image."""

from __future__ import annotations

import pytest
import torch

from models.attacks.objectives import dlr, dlr_targeted


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_dlr_is_the_ratio_of_the_paper_and_climbs_wherever_the_label_leads(classes):
    logits = torch.randn(50, classes, generator=torch.Generator().manual_seed(1)) * 5
    for ahead in (False, True):
        labels = logits.argmax(dim=1) if ahead else torch.arange(50) % classes
        for shift in range(1, classes):
            targets = (labels + shift) % classes
            leaf = logits.clone().requires_grad_(True)
            plain, towards = dlr(leaf, labels), dlr_targeted(leaf, labels, targets)
            for row in range(50):
                expected = paper_dlr(logits[row].tolist(), int(labels[row]), int(targets[row]))
                assert plain[row].item() == pytest.approx(expected[0], rel=1e-4)
                assert towards[row].item() == pytest.approx(expected[1], rel=1e-4)
            for values in (plain, towards):
                (gradient,) = torch.autograd.grad(values.sum(), leaf)
                assert torch.isfinite(gradient).all()
                assert not ahead or (gradient.abs().amax(dim=1) > 0).all()


def paper_dlr(row: list[float], label: int, target: int) -> tuple[float, float]:
    """Both ratios of one image; the rule for 2 and 3 classes is ours."""
    ranked = sorted(row, reverse=True)
    lead = max(logit for index, logit in enumerate(row) if index != label) - row[label]
    aim = row[target] - row[label]
    if len(row) == 2:
        return lead, aim
    last = ranked[2:4] if len(row) > 3 else ranked[1:]
    return lead / (ranked[0] - ranked[2]), aim / (ranked[0] - sum(last) / 2)


def test_dlr_does_not_change_when_logits_are_scaled():
    logits, labels = torch.randn(20, 6, generator=torch.Generator().manual_seed(2)), torch.arange(20) % 6
    torch.testing.assert_close(dlr(logits * 1000, labels), dlr(logits, labels))
    targets = (labels + 2) % 6
    torch.testing.assert_close(dlr_targeted(logits * 1000, labels, targets), dlr_targeted(logits, labels, targets))
