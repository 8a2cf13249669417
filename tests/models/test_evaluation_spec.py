from __future__ import annotations

import pytest
from pydantic import ValidationError

from models.attacks.cw_l2 import CWL2Params
from models.attacks.cw_linf import CWLinfParams
from models.attacks.pgd import PGDParams
from models.attacks.spec import ATTACKS
from models.evaluation_spec import EvaluationParams, parse_requirement

BODY = {"model": "clead-r18@2", "dataset": {"name": "cifar10"}, "attacks": [{"name": "fgsm"}]}


def parse(**fields):
    return EvaluationParams.model_validate({**BODY, **fields})


def errors(**fields):
    with pytest.raises(ValidationError) as caught:
        parse(**fields)
    return {"/" + "/".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors()}


def test_the_contracts_example_is_read_and_repeats_itself_when_posted_again():
    spec = parse(
        dataset={"name": "cifar10", "split": "test", "subset": 1000, "seed": 0},
        attacks=[
            {"name": "fgsm", "eps": "8/255"},
            {"name": "pgd", "norm": "linf", "eps": "8/255", "steps": 20, "step_size": "2/255", "restarts": 1},
            {"name": "cw", "norm": "l2", "steps": 100, "binary_search_steps": 9, "confidence": 0, "lr": 0.01},
            {"name": "cw", "norm": "linf"},
        ],
        curve={"attack": "pgd", "eps": ["0/255", "2/255", "4/255", "8/255", "16/255"]},
        require={"pgd": ">=0.40"},
    )
    assert [type(attack) for attack in spec.attacks[1:]] == [PGDParams, CWL2Params, CWLinfParams]
    assert EvaluationParams.model_validate_json(spec.model_dump_json()) == spec
    resolved = spec.model_dump(mode="json")["attacks"][1]
    assert resolved.items() >= {"norm": "linf", "eps": 8 / 255, "step_size": 2 / 255, "random_start": True}.items()
    assert [point.eps for point in spec.curve_points()] == [0, 2 / 255, 4 / 255, 8 / 255, 16 / 255]
    assert spec.curve_points()[3] == spec.attacks[1]


@pytest.mark.parametrize(
    ("fields", "pointer", "message"),
    [
        ({"attacks": [{"name": "pgd", "step": 20}]}, "/attacks/0/step", "Extra inputs"),
        ({"attacks": [{"name": "fgsm"}, {"name": "pgd", "eps": "8/0"}]}, "/attacks/1/eps", "divides by zero"),
        ({"attacks": [{"name": "pgd", "eps": 8}]}, "/attacks/0/eps", '"8/255"'),
        ({"attacks": [{"name": "pgd", "eps": -0.1}]}, "/attacks/0/eps", "greater than or equal to 0"),
        ({"attacks": [{"name": "apgd-ce", "eps": float("nan")}]}, "/attacks/0/eps", "finite"),
        ({"attacks": [{"name": "autoattack", "steps": 0}]}, "/attacks/0/steps", "greater than or equal to 1"),
        (
            {"attacks": [{"name": "pdg{0}"}]},
            "/attacks/0/name",
            "'pdg{0}' is not an attack; known: apgd-ce, ",
        ),
        ({"attacks": [{"eps": "8/255"}]}, "/attacks/0/name", "known: "),
        ({"attacks": [{"name": ["pgd"]}]}, "/attacks/0/name", "known: "),
        ({"attacks": ["pgd"]}, "/attacks/0", "give an object"),
        ({"attacks": [{"name": "cw"}]}, "/attacks/0/norm", "cw needs its norm"),
        ({"attacks": [{"name": "cw", "norm": ["l2"]}]}, "/attacks/0/norm", "cw needs its norm"),
        ({"attacks": []}, "/attacks", "at least 1"),
        ({"attacks": [{"name": "fgsm", "eps": i / 100} for i in range(33)]}, "/attacks", "at most 32"),
        ({"attacks": [{"name": "pgd"}, {"name": "pgd", "steps": 20}]}, "/attacks/1", "/attacks/0"),
        ({"curve": {"attack": "cw-l2", "eps": [1]}}, "/curve/attack", "give one of: apgd-ce, "),
        ({"curve": {"attack": "fgsm", "eps": [0.1, 2]}}, "/curve/eps/1", "at most 1"),
        ({"curve": {"attack": "fgsm", "eps": []}}, "/curve/eps", "at least 1"),
        ({"require": {"pgd": ">=0.4"}}, "/require/pgd", "possible here: clean, worst_case, fgsm"),
        ({"require": {"fgsm": "<0.4"}}, "/require/fgsm", ">=0.40"),
        ({"require": {"clean": ">=1.2"}}, "/require/clean", "in [0, 1]"),
        ({"examples": 65}, "/examples", "64"),
        ({"batchsize": 3}, "/batchsize", "Extra inputs"),
    ],
)
def test_an_error_points_into_the_clients_json(fields, pointer, message):
    found = errors(**fields)
    assert list(found) == [pointer]
    assert message in found[pointer]


def test_a_minimum_norm_attack_without_a_budget_has_no_accuracy_to_require():
    assert "/require/cw-l2" in errors(attacks=[{"name": "cw-l2"}], require={"cw-l2": ">=0.1"})
    parse(attacks=[{"name": "cw-l2", "eps": 0.5}], require={"cw-l2": ">=0.1", "worst_case": ">0"})


def test_requirements_read_the_comparison():
    assert parse_requirement(">=0.40").meets(0.4, 0.4) and not parse_requirement(">0.40").meets(0.4, 0.4)
    assert parse_requirement("> 1").need == 1.0


def test_the_schema_lists_every_attack_with_bounds():
    schema = EvaluationParams.model_json_schema()["properties"]["attacks"]["items"]
    by_name = {option["properties"]["name"]["const"]: option["properties"] for option in schema["oneOf"]}
    assert list(by_name) == [*ATTACKS, "cw"] and len(by_name) == 18
    for properties in by_name.values():
        assert all("description" in field for field in properties.values()), "a parameter says what it is"
    under_the_other_name = [option for option in schema["oneOf"] if option["properties"]["name"]["const"] == "cw"]
    assert [option["properties"]["norm"]["const"] for option in under_the_other_name] == ["l2", "linf"]
    assert all({"name", "norm"} <= set(option["required"]) for option in under_the_other_name)
    assert by_name["pgd"]["eps"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 1000}
    assert by_name["pgd"]["step_size"]["anyOf"][0]["exclusiveMinimum"] == 0
