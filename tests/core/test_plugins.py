"""Plugins are found, loaded, checked and called one by one: a broken one is listed, and nothing else changes."""

import importlib
import re
import sys

import pytest
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry

GOOD = """
from lamella import hookimpl
LAMELLA_API = 1

@hookimpl
def lamella_perturbations():
    return {"good": "good_parts:Good"}

@hookimpl
def lamella_commands():
    return {"greet": ("say hello", "good_parts:greet")}
"""

HOOK = "from lamella import hookimpl\nLAMELLA_API = 1\n\n@hookimpl\ndef {hook}():\n    {body}\n"


def hook(body, *, name="lamella_perturbations"):
    return HOOK.format(hook=name, body=body)


BROKEN = {
    "raises at import": ("raise ValueError('no licence')", "ValueError: no licence"),
    "raises nothing but its name": ("raise ValueError", "ValueError"),
    "imports what is not there": ("import not_installed_anywhere", "ModuleNotFoundError: No module named"),
    "leaves the program": ("raise SystemExit(3)", "SystemExit: 3"),
    "is no Python": ("def (", "SyntaxError"),
    "another version": (GOOD.replace("API = 1", "API = 2"), "version 2 of the hooks; this Lamella has 1"),
    "no version": (GOOD.replace("LAMELLA_API = 1", ""), "it does not say LAMELLA_API = 1"),
    "misspelt hook": (hook("return {}", name="lamella_pertubations"), "there is no hook 'lamella_pertubations'"),
    "hook with arguments": (GOOD.replace("perturbations()", "perturbations(config)"), "config"),
    "hook that raises": (hook("raise RuntimeError('no')"), "RuntimeError: no"),
    "hook that leaves": (hook("raise SystemExit"), "SystemExit"),
    "a list": (hook("return ['good']"), "lamella_perturbations must return a dict of names"),
    "nothing": (hook("pass"), "must return a dict of names, not None"),
    "names that are none": (hook("return {1: 'good_parts:Good'}"), "must return a dict of names"),
    "target that is none": (hook("return {'a': 3}"), "lamella_perturbations: the target of 'a' is 3"),
    "target without a class": (hook("return {'a': 'good_parts'}"), "'good_parts'.*\"package.module:Name\""),
    "set that is no list": (hook("return {'a': 'good'}", name="lamella_sets"), "lamella_sets: the set 'a'"),
    "command without help": (
        hook("return {'a': 'm:f'}", name="lamella_commands"),
        "lamella_commands: the command 'a'",
    ),
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Writes distributions with entry points into a folder of their own and puts it on the path."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name, source, *, module=None, version="1.0"):
        module = module or f"{name.replace('-', '_')}_plugin"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{name.replace('-', '_')}_dist-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[lamella]\n{name} = {module}\n")
        importlib.invalidate_caches()

    yield install
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def load(*enable, disable=(), **others):
    registry = Registry.load(RegistryFile(enable=enable, disable=disable, **others))
    return registry, {plugin.name: plugin for plugin in registry.plugins}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_listed_and_the_others_go_on(site, kind):
    source, error = BROKEN[kind]
    site("a-broken", source)
    site("good", GOOD)
    site("z-broken", source)
    registry, plugins = load("a-broken", "good", "z-broken")
    for name in ("a-broken", "z-broken"):
        assert plugins[name].status == "failed"
        assert re.search(error, plugins[name].error), plugins[name].error
        assert plugins[name].distribution == f"{name}-dist"
        assert plugins[name].offers == {}
    assert plugins["good"].status == "loaded" and plugins["good"].error is None
    assert registry.names("perturbation") == ["good"]
    assert registry.commands == {"greet": ("say hello", "good_parts:greet", "good")}


def test_failed_plugins_are_mentioned_where_a_name_is_not_found(site):
    site("a-broken", "raise ValueError")
    site("good", GOOD)
    registry, _ = load("a-broken", "good")
    with pytest.raises(Exception, match=r"plugin a-broken could not be loaded: see 'lamella plugins'"):
        registry.get("perturbation", "goood")


def test_interrupt_is_not_swallowed(site):
    site("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load("slow")


def test_entry_points_carry_distribution_and_version(site):
    site("good", GOOD, version="2.3")
    _, plugins = load("good")
    assert (plugins["good"].distribution, plugins["good"].version) == ("good-dist", "2.3")


def test_enable_and_disable_by_pattern(site):
    for name in ("lab-a", "lab-b", "other"):
        site(name, GOOD)
    _, plugins = load("lab-*", disable=("*-b",))
    status = {name: plugins[name].status for name in ("lab-a", "lab-b", "other")}
    assert status == {"lab-a": "loaded", "lab-b": "disabled", "other": "disabled"}
    assert "other_plugin" not in sys.modules and "lab_b_plugin" not in sys.modules


def test_enabled_but_not_installed_is_listed(site):
    site("good", GOOD)
    _, plugins = load("good", "gone", "lab-*")
    assert plugins["gone"].status == "failed" and "not installed" in plugins["gone"].error
    assert "lab-*" not in plugins


def test_local_modules_need_no_packaging(tmp_path, site):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "desk.py").write_text(GOOD)
    registry, plugins = load(local=("desk",), folders=(tmp_path / "more",))
    assert plugins["desk"].status == "loaded"
    assert registry.get("perturbation", "desk:good").plugin == "desk"
    sys.path.remove(str(tmp_path / "more"))


def test_local_module_can_be_disabled(tmp_path, site):
    (tmp_path / "desk.py").write_text(GOOD)
    _, plugins = load(local=("desk",), disable=("desk",))
    assert plugins["desk"].status == "disabled"


def test_one_name_from_two_distributions_is_told_apart(site):
    site("good", GOOD)
    site("better", GOOD)
    registry, _ = load("good", "better")
    with pytest.raises(Exception, match=r"better:good \(better-dist\) and good:good \(good-dist\)"):
        registry.get("perturbation", "good")


def test_every_hook_is_documented_and_returns_an_empty_dict():
    from lamella.registry import hookspecs

    hooks = [name for name in vars(hookspecs) if name.startswith("lamella_")]
    assert {*hookspecs.KINDS.values(), "lamella_sets", "lamella_commands"} == set(hooks)
    for name in hooks:
        assert getattr(hookspecs, name)() == {} and getattr(hookspecs, name).__doc__
