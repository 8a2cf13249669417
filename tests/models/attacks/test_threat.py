from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attacks.noise import PerImageNoise
from models.attacks.threat import threat_model, within

ORDER = {"linf": np.inf, "l2": 2}


def sizes(delta, norm):
    return np.array([np.linalg.norm(row.ravel(), ORDER[norm]) for row in delta.double().numpy()])


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["linf", "l2"]), st.floats(0, 2), st.floats(0.01, 10), st.integers(0, 10_000))
def test_projection_lands_in_the_ball_and_leaves_what_is_inside(norm, eps, scale, seed):
    delta = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * scale
    threat = threat_model(norm, eps)
    projected = threat.project(delta)
    assert (sizes(projected, norm) <= eps * (1 + 1e-6) + 1e-7).all()
    inside = sizes(delta, norm) <= eps * (1 - 1e-6)
    np.testing.assert_allclose(projected[inside], delta[inside], rtol=1e-6)
    np.testing.assert_allclose(threat.size(delta), sizes(delta, norm), rtol=1e-5)
    if norm == "l2":  # the nearest point of a Euclidean ball lies on the line to its centre
        cosine = torch.nn.functional.cosine_similarity(projected.flatten(1), delta.flatten(1))
        assert eps < 1e-3 or (cosine > 1 - 1e-5).all()


@pytest.mark.parametrize("side", [32, 384, 1024])
def test_a_projection_of_a_large_image_fits_the_ball_in_float64(side):
    delta = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    projected = threat_model("l2", 3.0).project(delta)
    assert within(threat_model("l2", 0).size(projected.double()), 3.0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_step_has_its_length_and_climbs(norm):
    gradient = torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(0)) * 1e-4
    step = threat_model(norm, 1.0).step(gradient, 0.3)
    np.testing.assert_allclose(sizes(step, norm), 0.3, rtol=1e-5)
    assert ((step * gradient).flatten(1).sum(1) > 0).all()
    assert torch.equal(threat_model(norm, 1.0).step(torch.zeros_like(gradient), 0.3), torch.zeros_like(gradient))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball_inside_the_box(norm):
    images = torch.full((400, 1, 4, 4), 0.5)
    starts = threat_model(norm, 0.2).random_start(images, PerImageNoise(torch.arange(400)))
    lengths = sizes(starts - images, norm)
    assert lengths.max() <= 0.2 + 1e-6 and lengths.max() > 0.19
    assert starts.mean().item() == pytest.approx(0.5, abs=0.01)
    if norm == "l2":
        assert np.median(lengths) == pytest.approx(0.1, abs=0.02)
    corner = threat_model(norm, 2.0).random_start(torch.zeros(4, 1, 4, 4), PerImageNoise(torch.arange(4)))
    assert corner.min() >= 0 and corner.max() <= 1
