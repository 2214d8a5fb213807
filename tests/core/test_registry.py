"""Names and parameters: how a name becomes an object, and what is said when it cannot."""

import sys
from functools import partial

import pytest
import torch
from lamella import Mean
from lamella.errors import RegistryError


def build(registry, kind, name, /, **parameters):
    return registry.plan(kind, {"name": name, **parameters}, f"{kind} {name!r}").build()


def refused(registry, kind, value, match):
    with pytest.raises(RegistryError, match=match) as caught:
        registry.plan(kind, value, "experiment.toml: trainer")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Lookup


def test_targets_are_imported_when_first_needed(small_registry):
    assert "mine" in sys.modules and "mine_parts" not in sys.modules
    assert "blur" in small_registry.names("perturbation")
    assert "mine_parts" not in sys.modules
    assert build(small_registry, "perturbation", "blur").sigma == (0.5, 1.0)
    assert "mine_parts" in sys.modules


def test_names_are_sorted_and_kinds_are_known(small_registry):
    assert small_registry.names("perturbation") == ["blur", "broken", "flip", "missing", "quits"]
    assert small_registry.names("modality") == []
    with pytest.raises(RegistryError, match="no kind 'noise'; the kinds are backbone, perturbation"):
        small_registry.names("noise")


def test_full_name_always_works(small_registry):
    assert small_registry.get("perturbation", "mine:blur").full_name == "mine:blur"
    refused(small_registry, "perturbation", "other:blur", "there is no perturbation 'other:blur'; did you mean 'blur'?")


def test_unknown_name_suggests(small_registry):
    refused(small_registry, "perturbation", "blurr", r"no perturbation 'blurr'; did you mean 'blur'\?")
    message = refused(small_registry, "perturbation", "xyz", "no perturbation 'xyz'. The names are blur, broken")
    assert "did you mean" not in message
    refused(small_registry, "modality", "tem", "The names are none")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("broken", "ModuleNotFoundError: No module named 'mine_nowhere'"),
        ("missing", "AttributeError: .*'Missing'"),
        ("quits", "SystemExit: enough"),
    ],
)
def test_a_target_that_cannot_be_imported_names_its_plugin(small_registry, name, part):
    refused(small_registry, "perturbation", name, rf"{name}' of plugin 'mine' \(local .*registry.toml\)+ .*{part}")


def test_kornia_component_as_a_target(small_registry):
    assert build(small_registry, "perturbation", "flip").stream_name == "kornia RandomHorizontalFlip"
    refused(small_registry, "perturbation", {"name": "flip", "p": 0.1}, r"no parameter 'p' \(it takes none\)")


# Parameters


def test_parameters_are_validated_and_converted(small_registry):
    blur = build(small_registry, "perturbation", "blur", sigma=2, border="zero")
    assert blur.sigma == (2.0, 2.0) and blur.border == "zero" and blur.p == 1.0


@pytest.mark.parametrize(
    ("parameters", "part"),
    [
        ({"sigmaa": 1}, r"no parameter 'sigmaa'; did you mean 'sigma'\? \(it takes sigma, border, p\)"),
        ({"zzz": 1}, r"no parameter 'zzz' \(it takes sigma, border, p\)"),
        ({"sigma": "wide"}, "sigma = 'wide': input should be a valid tuple"),
        ({"sigma": [2, 1]}, "the lower end 2 is above the upper end 1"),
        ({"sigma": 12}, "must lie within 0 and 9"),
        ({"border": "none"}, "border = 'none': input should be 'mirror' or 'zero'"),
        ({"p": "often"}, "p = 'often': input should be a valid number"),
    ],
)
def test_wrong_parameters_are_explained(small_registry, parameters, part):
    message = refused(small_registry, "perturbation", {"name": "blur", **parameters}, part)
    assert message.startswith("experiment.toml: trainer: perturbation 'blur': ")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("anything", r"it takes \*\*options.*; wrap it in a factory with typed parameters"),
        ("several", r"it takes \*options.*; wrap it in a factory"),
        ("untyped", "parameter 'sigma' has no type annotation"),
        ("misspelt", "of plugin 'mine' .*: its signature cannot be read: AttributeError: .*'Tensro'"),
        ("unreadable", "of plugin 'mine' .*: its signature cannot be read: SyntaxError: .*'no Python"),
    ],
)
def test_signatures_that_are_no_schema_are_refused(small_registry, name, part):
    refused(small_registry, "trainer", name, part)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (3, "3 is no perturbation; write its name, or a table"),
        ({"sigma": 1}, "a perturbation needs a name"),
        ({"name": 3}, "a perturbation needs a name"),
        (["blur"], "is no perturbation"),
    ],
)
def test_what_is_no_spec_is_refused(small_registry, value, part):
    refused(small_registry, "perturbation", value, part)


def test_function_loss_takes_its_keyword_only_parameters(small_registry):
    loss = build(small_registry, "loss", "focal", gamma=3)
    assert isinstance(loss, partial)
    result = loss(torch.ones(2), torch.zeros(2), torch.ones(2))
    assert isinstance(result, Mean) and result.total == 6.0
    refused(small_registry, "loss", {"name": "focal", "logits": 1}, r"no parameter 'logits' .*it takes gamma")
    refused(small_registry, "loss", {"name": "focal", "gamma": -1}, "gamma = -1: input should be greater than or equal")


def test_from_data_is_filled_when_built(small_registry):
    plan = small_registry.plan("backbone", {"name": "net", "width": 5}, "here")
    net = plan.build(data={"channels": 3, "classes": 4, "class_names": ["a"]})
    assert net.conv.weight.shape == (5, 3, 3, 3) and net.classes == 4
    assert small_registry.plan("backbone", {"name": "net", "channels": 2, "classes": 2}, "here").build().classes == 2
    with pytest.raises(RegistryError, match="backbone 'net': 'channels' is filled from the dataset; give it"):
        plan.build()


def test_schema_says_what_the_signature_says(small_registry):
    schema = small_registry.get("perturbation", "blur").json_schema()
    assert list(schema["properties"]) == ["sigma", "border", "p"] and not schema["additionalProperties"]
    assert schema["properties"]["sigma"]["description"] == "in pixels"
    assert schema["properties"]["border"]["enum"] == ["mirror", "zero"]
    net = small_registry.get("backbone", "net").json_schema()
    assert net["properties"]["channels"]["fromData"] and net["required"] == []
    assert net["properties"]["width"] | {"default": 2} == net["properties"]["width"]
    assert small_registry.get("trainer", "learner").json_schema()["required"] == ["backbone"]
    assert small_registry.get("perturbation", "blur").doc.startswith("Blurs.")
