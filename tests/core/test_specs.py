"""Specs within specs: checked whole before anything is built, and built under seeds of their own."""

import sys

import pytest
import torch
from lamella import Chain
from lamella.errors import RegistryError
from lamella.registry.registry import ChainPlan, Plan


def refused(registry, kind, value, match):
    with pytest.raises(RegistryError, match=match) as caught:
        registry.plan(kind, value, "experiment.toml: trainer")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Nested specs


LEARNER = {
    "name": "learner",
    "backbone": {"name": "net", "width": 3},
    "weak": "soft",
    "losses": {"a": "focal", "b": {"name": "focal", "gamma": 1}},
    "strong": [[{"name": "blur"}], "shipped"],
}


def test_nested_specs_are_checked_without_being_built(small_registry):
    plan = small_registry.plan("trainer", LEARNER, "here")
    assert sys.modules["mine_parts"].BUILT == []
    assert isinstance(plan.parameters["backbone"], Plan) and isinstance(plan.parameters["weak"], ChainPlan)
    learner = plan.build(data={"channels": 1, "classes": 2})
    assert sorted(sys.modules["mine_parts"].BUILT) == ["blur", "blur", "blur", "net"]
    assert isinstance(learner.weak, Chain) and next(iter(learner.weak)).sigma == (1.0, 1.0)
    assert [len(chain) for chain in learner.strong] == [1, 2]
    assert learner.losses["b"].keywords == {"gamma": 1.0} and learner.extra is None


def test_a_trainer_has_the_classes_of_its_data_and_a_network_may_have_more_channels(tiny_registry):
    data = {"channels": 1, "classes": 2, "class_names": ["a", "b"]}
    given = {"name": "tiny-plain", "backbone": {"name": "tiny-conv", "channels": 5}}
    built = tiny_registry.plan("trainer", {**given, "class_names": ["a", "b"]}, "here").build(data=data)
    assert built.backbone.first[0].weight.shape[1] == 5
    with pytest.raises(RegistryError, match=r"class_names = \['q'\], where the data have \['a', 'b'\]; leave it out"):
        tiny_registry.plan("trainer", {**given, "class_names": ["q"]}, "here").build(data=data)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"backbone": {"name": "nett"}}, r"there is no backbone 'nett'; did you mean 'net'\?"),
        ({"backbone": {"name": "net", "width": 0}}, r"trainer.backbone: backbone 'net': width = 0: .*greater"),
        ({"weak": "sofft"}, "trainer.weak: there is no perturbation set 'sofft'; the sets are shipped, soft"),
        ({"weak": [{"name": "blur", "sigma": 99}]}, r"trainer.weak\[0\]: perturbation 'blur': .*within 0 and 9"),
        ({"weak": 3}, "a perturbation set is a set's name or a list of specs, not 3"),
        ({"losses": {"a": "focall"}}, "there is no loss 'focall'"),
        ({"strong": [[{"name": "blur", "sgma": 1}]]}, "no parameter 'sgma'; did you mean 'sigma'"),
        ({"backbone": "blur"}, "there is no backbone 'blur'"),
    ],
)
def test_mistakes_in_nested_specs_say_where(small_registry, change, part):
    refused(small_registry, "trainer", {**LEARNER, **change}, part)
    assert sys.modules["mine_parts"].BUILT == []


def test_missing_part_is_named(small_registry):
    refused(small_registry, "trainer", "learner", "parameter 'backbone' must be given")


def test_ready_objects_pass_through(small_registry):
    chain = Chain([])
    plan = small_registry.plan("trainer", {**LEARNER, "weak": chain}, "here")
    assert plan.build(data={"channels": 1, "classes": 2}).weak is chain


def test_a_plan_turns_into_a_spec_with_everything_expanded(small_registry):
    spec = small_registry.plan("trainer", LEARNER, "here").spec()
    assert spec["name"] == "mine:learner" and spec["backbone"] == {"name": "mine:net", "width": 3}
    assert spec["weak"] == [{"name": "mine:blur", "sigma": [1.0, 1.0], "border": "mirror", "p": 1.0}]
    assert [one["name"] for one in spec["strong"][1]] == ["mine:blur", "mine:flip"]
    assert small_registry.plan("trainer", spec, "here").spec() == spec


def test_a_spec_outlives_a_change_of_defaults(small_registry):
    spec = small_registry.plan("backbone", "net", "here").spec()
    assert spec == {"name": "mine:net", "width": 2}
    assert "extra" not in small_registry.plan("trainer", LEARNER, "here").spec(), "no file holds None"
    sys.modules["mine_parts"].Net.__init__.__kwdefaults__["width"] = 5
    assert small_registry.plan("backbone", "net", "here").spec()["width"] == 5
    net = small_registry.plan("backbone", spec, "here").build(data={"channels": 1, "classes": 2})
    assert net.conv.out_channels == 2


# Seeds


def weights(registry, spec, *, seed=0):
    learner = registry.plan("trainer", {"name": "learner", **spec}, "here").build(
        seed=seed, data={"channels": 1, "classes": 2}
    )
    return learner


def test_weights_do_not_depend_on_the_global_generator(small_registry):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = weights(small_registry, {"backbone": "net"})
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    other = weights(small_registry, {"backbone": "net"})
    for key, value in one.state_dict().items():
        assert value.equal(other.state_dict()[key]), key


def test_weights_depend_on_the_seed(small_registry):
    one, other = (weights(small_registry, {"backbone": "net"}, seed=seed) for seed in (0, 1))
    assert not one.backbone.conv.weight.equal(other.backbone.conv.weight)
    assert not one.head.weight.equal(other.head.weight)


def test_weights_do_not_depend_on_siblings(small_registry):
    alone = weights(small_registry, {"backbone": "net"})
    beside = weights(small_registry, {"backbone": "net", "weak": "shipped", "extra": {"name": "net", "width": 7}})
    assert alone.backbone.conv.weight.equal(beside.backbone.conv.weight)
    assert alone.head.weight.equal(beside.head.weight)


def test_two_parts_of_one_kind_have_weights_of_their_own(small_registry):
    two = weights(small_registry, {"backbone": "net", "extra": "net"})
    assert not two.backbone.conv.weight.equal(two.extra.conv.weight)
