"""Plugins are found, loaded, checked and called one by one: a broken one is listed, and nothing else changes."""

import importlib
import re
import sys

import pytest
from lamella.cli.plugins import _as_text
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

    def install(name, source, *, module=None, version="1.0", entry=None):
        module = module or f"{name.replace('-', '_')}_plugin"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{name.replace('-', '_')}_dist-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[lamella]\n{entry or name} = {module}\n")
        importlib.invalidate_caches()
        return info

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


def test_a_distribution_that_cannot_be_read_is_listed_and_the_others_go_on(site, tmp_path):
    site("good", GOOD)
    (site("damaged", GOOD) / "entry_points.txt").write_text("[lamella]\ndamaged\n")
    registry, plugins = load("good", "damaged-dist")
    assert (plugins["damaged-dist"].status, plugins["damaged-dist"].version) == ("failed", "1.0")
    said = rf"entry points of damaged-dist in {re.escape(str(tmp_path))} cannot be read: .*; install it anew"
    assert re.search(said, plugins["damaged-dist"].error)
    assert registry.names("perturbation") == ["good"]
    assert load("good")[1]["damaged-dist"].status == "disabled"


def test_a_distribution_without_metadata_is_listed_all_the_same(site):
    (site("good", GOOD) / "METADATA").unlink()
    _, plugins = load("good")
    assert (plugins["good"].status, plugins["good"].distribution, plugins["good"].version) == ("loaded", "?", "?")


def test_of_two_plugins_with_one_name_the_second_is_not_used(site, capsys):
    site("first", GOOD, entry="same")
    site("second", GOOD, entry="same")
    registry, _ = load("same")
    one, other = [plugin for plugin in registry.plugins if plugin.name == "same"]
    assert (one.status, one.distribution) == ("loaded", "first-dist")
    assert (other.status, other.distribution) == ("failed", "second-dist")
    assert other.error == "ConfigError: first-dist has a plugin of this name already, which is used; remove one"
    assert registry.get("perturbation", "good").distribution == "first-dist"
    assert re.findall("    perturbation: good", _as_text(registry, {})) == ["    perturbation: good"]


def test_a_local_plugin_takes_the_place_of_a_disabled_one_of_its_name(site, tmp_path):
    site("desk", GOOD, module="desk_elsewhere")
    (tmp_path / "desk.py").write_text(GOOD)
    registry, _ = load(local=("desk",))
    assert [plugin.status for plugin in registry.plugins if plugin.name == "desk"] == ["disabled", "loaded"]


def test_what_a_plugin_prints_is_kept_from_what_a_command_prints(site, tmp_path, capsys):
    site("loud", "print('imported')\n" + GOOD.replace("    return", "    print('called')\n    return"))
    (tmp_path / "good_parts.py").write_text("print('resolved')\nGood = dict\n")
    registry, plugins = load("loud")
    registry.get("perturbation", "good").resolve()
    assert plugins["loud"].status == "loaded"
    assert capsys.readouterr() == ("", "imported\ncalled\ncalled\nresolved\n")


def test_every_hook_is_documented_and_returns_an_empty_dict():
    from lamella.registry import hookspecs

    hooks = [name for name in vars(hookspecs) if name.startswith("lamella_")]
    assert {*hookspecs.KINDS.values(), "lamella_sets", "lamella_commands"} == set(hooks)
    for name in hooks:
        assert getattr(hookspecs, name)() == {} and getattr(hookspecs, name).__doc__
