from __future__ import annotations

import json

import pytest
import torch
import torchattacks
from torch import nn
from torch.nn.functional import cross_entropy

from models.attacks import pgd
from models.attacks.noise import PerImageNoise, derive_seed
from models.attacks.victim import Victim
from models.evaluation import measure
from models.progress import Silent
from tests.models.evaluations import COUNT, CURVE, LADDER, QUICK_CW, numbers, run, spec


@pytest.fixture(scope="module")
def ladder(victim):
    require = {"clean": ">=0.9", "pgd": ">0.99", "worst_case": ">=0"}
    return run(victim, spec(curve=CURVE, require=require, examples=12, precision="float32"))


def test_the_counts_are_those_of_a_plain_loop_over_single_images(victim, ladder):
    params = spec().attacks[1]
    survivors = {"right": 0, "both": 0}
    for index in range(COUNT):
        image = victim.images.images[index : index + 1].float() / 255
        label = victim.images.labels[index : index + 1]
        if victim.model(image).argmax() != label:
            continue
        survivors["right"] += 1
        noise = PerImageNoise(torch.tensor([derive_seed(0, "pgd", index)]))
        point = pgd.run(Victim(victim.model), image, label, params, noise=noise)
        survivors["both"] += int(victim.model(point).argmax() == label)
    row = ladder.result["attacks"][1]
    assert ladder.result["clean_accuracy"] == survivors["right"] / COUNT
    assert row["robust_accuracy"] == survivors["both"] / COUNT
    assert row["success_rate"] == pytest.approx(1 - survivors["both"] / survivors["right"])
    assert row["attacked"] == survivors["right"]
    assert row["ci95"][0] < row["robust_accuracy"] < row["ci95"][1]
    assert 0 < row["robust_accuracy"] < ladder.result["clean_accuracy"]


def test_the_result_has_the_contracts_shape_and_is_json(ladder):
    result = json.loads(json.dumps(ladder.result, allow_nan=False))
    assert result["dataset"] == {"name": "digits", "split": "test", "sha256": "ab", "size": COUNT}
    assert result["model"] == "victim@1"
    for row, asked in zip(result["attacks"], spec().attacks, strict=True):
        assert row["name"] == asked.name and row["spec"] == asked.model_dump(mode="json")
        norm, eps = asked.radius
        assert 0 < row[f"mean_{norm}"] <= eps + 1e-5
        shares = row["per_class"]
        counts = torch.bincount(torch.tensor([int(name) for name in shares]), minlength=10)
        assert counts.tolist() == [1] * 10
    assert result["requirements"][0]["met"] and not result["requirements"][1]["met"]
    assert result["requirements"][1]["got"] == min(
        row["robust_accuracy"] for row in result["attacks"] if row["name"] == "pgd"
    )
    assert [warning["code"] for warning in result["warnings"]] == ["few-images"]


def test_worst_cases_are_at_most_every_attack_of_their_ball(ladder):
    result = ladder.result
    rows = {(row["name"], row["spec"]["norm"]): row["robust_accuracy"] for row in result["attacks"]}
    linf, l2 = result["worst_cases"]
    assert (linf["norm"], linf["attacks"], l2["attacks"]) == ("linf", ["fgsm", "pgd", "cw-linf"], ["pgd"])
    assert linf["accuracy"] <= min(value for (_, norm), value in rows.items() if norm == "linf")
    assert l2["accuracy"] == rows["pgd", "l2"]
    assert result["worst_case_accuracy"] <= min(linf["accuracy"], l2["accuracy"])


def test_the_curve_falls_from_clean_accuracy_and_meets_the_row(ladder):
    curve = ladder.result["curve"]
    values = [point["robust_accuracy"] for point in curve]
    assert [point["eps"] for point in curve] == [0.0, 0.05, 0.1, 0.2, 0.3]
    assert values[0] == ladder.result["clean_accuracy"]
    assert values == sorted(values, reverse=True) and values[-1] < 0.2
    assert values[2] <= ladder.result["attacks"][1]["robust_accuracy"]


def test_each_radius_of_the_curve_starts_where_the_smaller_one_ended(victim):
    """Against single steps of PGD one image at a time, with and without such a start."""
    radii = [0.05, 0.1, 0.15, 0.2]
    attack = {"name": "pgd", "eps": 0.8, "steps": 1, "step_size": 0.4, "random_start": False}
    curve = run(victim, spec([attack], curve={"attack": "pgd", "eps": radii})).result["curve"]
    warm, cold = ([COUNT] * len(radii) for _ in range(2))
    for index in range(COUNT):
        image = victim.images.images[index : index + 1].float() / 255
        label = victim.images.labels[index : index + 1]
        for counts, goes_on in ((warm, True), (cold, False)):
            point, wrong = image, bool(victim.model(image).argmax() != label)
            for place, eps in enumerate(radii):
                if not wrong:
                    start = (point if goes_on else image).detach().requires_grad_(True)
                    (gradient,) = torch.autograd.grad(cross_entropy(victim.model(start), label), start)
                    stepped = start.detach() + eps / 2 * gradient.sign()
                    point = torch.min(torch.max(stepped, image - eps), image + eps).clamp(0, 1)
                    wrong = bool(victim.model(point).argmax() != label)
                counts[place] -= wrong
    assert [point["robust_accuracy"] for point in curve] == [count / COUNT for count in warm]
    assert warm[-1] < cold[-1]


class Folded(nn.Module):
    """Pixels go through a wave: FGSM hits with a short step what it misses with a longer one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images + 0.2 * torch.sin(2 * torch.pi * images / 0.2))


def test_what_a_smaller_radius_of_the_curve_broke_stays_broken(victim):
    radii, model = [0.05, 0.1, 0.2, 0.3], Folded(victim.model).eval()
    other = {"name": "pgd", "eps": 0.05}  # none of the curve's business
    curve = run(victim, spec([other], curve={"attack": "fgsm", "eps": radii}), model=model).result["curve"]
    images, labels = victim.images.images[:COUNT].float() / 255, victim.images.labels[:COUNT]
    wrong = model(images).argmax(1) != labels
    for point, eps in zip(curve, radii, strict=True):
        alone = model(torchattacks.FGSM(model, eps=eps)(images, labels)).argmax(1) != labels
        wrong |= alone
        assert point["robust_accuracy"] == int((~wrong).sum()) / COUNT
    assert (wrong & ~alone).any()


def test_examples_are_a_sample_of_the_attacked_images_with_their_predictions(victim, ladder):
    clean, adversarial = ladder.examples["clean"], ladder.examples["adversarial"]
    told = ladder.result["example_predictions"]
    assert clean.shape == adversarial.shape == (12, 1, 8, 8) and len(told) == 12
    assert len({example["index"] for example in told}) == 12
    with torch.no_grad():
        before, after = victim.model(clean).argmax(1).tolist(), victim.model(adversarial).argmax(1).tolist()
    for row, example in enumerate(told):
        assert torch.equal(clean[row], victim.images.images[example["index"]].float() / 255)
        assert before[row] == example["clean_prediction"] == example["label"] == victim.images.labels[example["index"]]
        assert after[row] == example["adversarial_prediction"]
        assert example["linf"] <= 0.1 + 1e-6 or example["l2"] <= 0.8 + 1e-5, "of an attack that was asked for"
        assert example["linf"] == pytest.approx((adversarial - clean)[row].abs().max().item(), abs=1e-6)


def test_an_example_is_of_a_bounded_attack_where_one_broke_the_image(victim):
    pgd, minimum_norm = {"name": "pgd", "eps": 0.1}, {"name": "deepfool"}
    alone = run(victim, spec([pgd], examples=40), count=60).result["example_predictions"]
    broken = {example["index"] for example in alone if example["adversarial_prediction"] != example["label"]}
    assert 0 < len(broken) < 40
    for attacks in ([pgd, minimum_norm], [minimum_norm, pgd]):
        told = run(victim, spec(attacks, examples=40), count=60).result["example_predictions"]
        assert {example["index"] for example in told if example["attack"] == "pgd"} == broken
        assert all(example["adversarial_prediction"] != example["label"] for example in told)


def test_examples_say_whether_they_survive_rounding_to_8_bits(victim):
    outcome = run(victim, spec([{"name": "pgd", "eps": 0.1}, QUICK_CW], examples=40), count=60)
    told, points = outcome.result["example_predictions"], outcome.examples["adversarial"]
    surviving, broken = 0, 0
    for example, point in zip(told, points, strict=True):
        if example["adversarial_prediction"] == example["label"]:
            assert example["survives_8bit"] is None
            continue
        picture = torch.tensor([round(value * 255) for value in point.flatten().tolist()]).to(torch.uint8)
        again = victim.model(picture.float().view(1, 1, 8, 8) / 255).argmax().item()
        assert example["survives_8bit"] == (again != example["label"])
        broken, surviving = broken + 1, surviving + example["survives_8bit"]
    assert outcome.result["examples_surviving_8bit"] == {"broken": broken, "surviving": surviving}
    assert 0 < surviving < broken, "a minimum-norm attack stops just beyond the boundary"


def test_examples_are_the_same_images_whatever_became_of_them(victim):
    harmless = run(victim, spec([{"name": "pgd", "eps": 1e-4, "steps": 1}], examples=4), count=40)
    harmful = run(victim, spec([{"name": "pgd", "eps": 0.9}], examples=4), count=40)
    told = [outcome.result["example_predictions"] for outcome in (harmless, harmful)]
    assert [e["index"] for e in told[0]] == [e["index"] for e in told[1]]
    assert all(e["adversarial_prediction"] == e["label"] for e in told[0])
    assert all(e["adversarial_prediction"] != e["label"] for e in told[1])
    assert run(victim, spec(examples=0), count=20).examples["clean"].shape == (0, 1, 8, 8)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_does_not_change_the_verdicts(victim, ladder, batch_size):
    other = run(victim, spec(curve=CURVE, examples=12, batch_size=batch_size, precision="float32")).result
    for row, expected in zip(other["attacks"], ladder.result["attacks"], strict=True):
        assert row["per_class"] == expected["per_class"] and row["robust_accuracy"] == expected["robust_accuracy"]
        assert row["mean_l2"] == pytest.approx(expected["mean_l2"], rel=1e-3)
    assert other["curve"] == ladder.result["curve"]
    assert [e["index"] for e in other["example_predictions"]] == [
        e["index"] for e in ladder.result["example_predictions"]
    ]


def test_the_same_seed_repeats_and_another_seed_does_not(victim):
    attack = [{"name": "pgd", "eps": 0.15, "steps": 2}]
    first, again, other = (numbers(run(victim, spec(attack, seed=seed), count=60).result) for seed in (1, 1, 2))
    assert first == again
    assert first["attacks"][0] != other["attacks"][0]


def test_the_model_is_left_bit_for_bit_as_it_was(victim):
    model = victim.model
    model.zero_grad()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model[0].weight.requires_grad_(False)
    try:
        run(victim, spec([*LADDER[:1], {**QUICK_CW, "steps": 2}]), count=30)
        assert all(module.training for module in model.modules())
        assert [parameter.requires_grad for parameter in model.parameters()] == [False, *[True] * 7]
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    finally:
        model[0].weight.requires_grad_(True)
        model.load_state_dict(state)
        model.eval()


def test_eps_zero_is_clean_accuracy_and_a_huge_one_breaks_everything(victim):
    nothing = run(victim, spec([{"name": name, "eps": 0} for name in ("fgsm", "pgd", "cw-linf")])).result
    assert {row["robust_accuracy"] for row in nothing["attacks"]} == {nothing["clean_accuracy"]}
    assert {row["mean_l2"] for row in nothing["attacks"]} == {None}
    everything = run(
        victim,
        spec([{"name": "pgd", "eps": 1}, {"name": "cw-linf", "eps": 1}, {"name": "pgd", "norm": "l2", "eps": 8}]),
    ).result
    assert [row["robust_accuracy"] for row in everything["attacks"]] == [0, 0, 0]
    assert everything["worst_case_accuracy"] == 0


def test_cw_l2_without_a_budget_reports_norms_and_with_one_an_accuracy(victim):
    result = run(victim, spec([QUICK_CW, {**QUICK_CW, "eps": 0.6}]), count=40).result
    free, bounded = result["attacks"]
    assert free["robust_accuracy"] == 0 and free["success_rate"] == 1 and "budget" in free["note"]
    quantiles = list(free["l2_quantiles"].values())
    assert quantiles == sorted(quantiles) and quantiles[0] > 0.05
    assert free["l2_quantiles"]["0.5"] == pytest.approx(free["median_l2"], rel=0.05)
    assert 0 < bounded["robust_accuracy"] < result["clean_accuracy"] and bounded["success_rate"] == 1
    # Half of the attacked images fall below the median: the accuracy at that radius says the same.
    assert (bounded["robust_accuracy"] < result["clean_accuracy"] / 2) == (bounded["median_l2"] < 0.6)
    assert result["worst_case_accuracy"] == bounded["robust_accuracy"]
    assert result["worst_cases"][0]["attacks"] == ["cw-l2"]


def test_failures_of_a_minimum_norm_attack_are_infinite_and_not_zero(victim):
    hopeless = {**QUICK_CW, "steps": 1, "binary_search_steps": 1, "eps": 0.5}
    result = run(victim, spec([hopeless]), count=30).result
    row = result["attacks"][0]
    assert row["success_rate"] == 0 and row["robust_accuracy"] == result["clean_accuracy"]
    assert row["mean_l2"] is None and set(row["l2_quantiles"].values()) == {None}


def test_a_kept_example_does_not_keep_the_images_beside_it_in_memory(victim):
    images = victim.images.take(torch.arange(60))
    evidence = measure(victim.model, images, spec(LADDER[:1], examples=3), reporter=Silent(), device="cpu")
    for example in evidence.examples:
        for pixels in (example.clean, example.adversarial):
            assert pixels.untyped_storage().nbytes() == pixels.nbytes
