"""The curves of a report: which axis a logged figure goes on."""

from lamella.engine.report import _curves, _groups, _positive

ENTRY = {
    "step": 10, "lr": 1e-3, "strong": 0.2, "engaged/set 1": 0.0, "engaged/set 2": 1.0, "loss": 0.3,
    "trouble": "1 step not finite", "validation": {"miou_pooled": 0.5},
}  # fmt: skip


def test_a_name_with_a_slash_goes_on_the_axis_of_its_group():
    assert _groups(ENTRY) == {"loss": ["strong", "loss"], "engaged": ["engaged/set 1", "engaged/set 2"]}


def test_only_losses_decide_about_the_logarithmic_axis():
    assert _positive([ENTRY])
    assert not _positive([ENTRY, {**ENTRY, "strong": 0.0}])


def test_a_group_takes_a_panel_of_its_own():
    without = {name: value for name, value in ENTRY.items() if "/" not in name}
    assert len(_curves([ENTRY])) > len(_curves([without])) > 0
