"""registry.toml: its plugins, aliases and sets, and every mistake in it."""

import pytest
from lamella.errors import ConfigError, RegistryError
from lamella.registry.plugins import RegistryFile


def refused(registry, kind, value, match):
    with pytest.raises(RegistryError, match=match) as caught:
        registry.plan(kind, value, "experiment.toml: trainer")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Sets and aliases


def test_own_sets_override_those_of_plugins(load_registry):
    text = "[sets.soft]\nchain = [{ name = 'blur', sigma = 3 }]\n[sets.new]\nchain = ['flip']"
    registry = load_registry(text)
    assert next(iter(registry.plan("chain", "soft", "here").build())).sigma == (3.0, 3.0)
    assert sorted(registry.sets) == ["new", "shipped", "soft"]
    assert len(registry.plan("chain", "new", "here").build()) == 1


def test_set_with_a_mistake_is_named(load_registry):
    registry = load_registry("[sets.mine]\nchain = [{ name = 'blur', sgima = 3 }]")
    refused(registry, "chain", "mine", r"trainer \(set 'mine'\)\[0\]: .*no parameter 'sgima'")


OTHER = """
from lamella import hookimpl, kornia
LAMELLA_API = 1

@hookimpl
def lamella_perturbations():
    return {"blur": kornia("kornia.augmentation:RandomBoxBlur")}

@hookimpl
def lamella_sets():
    return {"soft": [{"name": "other:blur"}]}
"""


def test_name_claimed_twice_names_both(load_registry):
    registry = load_registry(other=OTHER)
    message = refused(registry, "perturbation", "blur", "'blur' is claimed twice, by mine:blur .* and other:blur")
    assert '[alias] "perturbation:blur" = "mine:blur"' in message
    assert registry.get("perturbation", "other:blur").plugin == "other"
    assert registry.names("perturbation").count("blur") == 1
    assert registry.get("perturbation", "flip").plugin == "mine"  # nothing else changes


def test_set_claimed_twice_names_both_until_it_is_settled(load_registry):
    refused(
        load_registry(other=OTHER), "chain", "soft", r"set 'soft' is claimed twice, by mine and other; .*\[sets.soft\]"
    )
    registry = load_registry("[sets.soft]\nchain = [{ name = 'mine:blur' }]", other=OTHER)
    assert len(registry.plan("chain", "soft", "here").build()) == 1


def test_alias_settles_and_renames(load_registry):
    text = "[alias]\n'perturbation:blur' = 'other:blur'\n'perturbation:soft-focus' = 'blur'"
    registry = load_registry(text, other=OTHER)
    assert registry.get("perturbation", "blur").plugin == "other"
    assert registry.get("perturbation", "soft-focus").plugin == "other"
    assert registry.get("perturbation", "mine:blur").plugin == "mine"
    assert "soft-focus" in registry.names("perturbation")


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ("'perturbation:a' = 'b'\n'perturbation:b' = 'a'", "a → b → a"),
        ("'perturbation:a' = 'a'", "a → a"),
    ],
)
def test_circle_of_aliases_is_refused(load_registry, text, circle):
    registry = load_registry(f"[alias]\n{text}")
    refused(registry, "perturbation", "a", f"registry.toml: the aliases {circle} go round in a circle")
    assert registry.get("perturbation", "blur").plugin == "mine"


def test_alias_to_nothing_is_unknown_when_used(load_registry):
    registry = load_registry("[alias]\n'perturbation:a' = 'mine:blurr'")
    refused(registry, "perturbation", "a", "there is no perturbation 'mine:blurr'")


# The registry file


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[plugin]\nenable = []", r"unknown table \[plugin\]"),
        ("plugins = 3", "plugins must be a table, not 3"),
        ("[plugins]\nenabled = []", r"\[plugins\] has no key 'enabled'; it takes disable, enable, local, path"),
        ("[plugins]\nenable = 'tem'", "enable must be a list of strings, not 'tem'"),
        ("[plugins]\nlocal = [3]", "local must be a list of strings"),
        ("[alias]\nnoise = 'x'", "alias 'noise' must read 'KIND:NAME'"),
        ("[alias]\n'noise:a' = 'x'", "alias 'noise:a' must read 'KIND:NAME' with a kind of backbone"),
        ("[alias]\n'loss:' = 'x'", "must read 'KIND:NAME'"),
        ("[alias]\n'loss:a' = 3", "alias 'loss:a' must name a component, not 3"),
        ("[sets]\na = ['x']", r"\[sets.a\] must hold one key, chain"),
        ("[sets.a]\nchain = ['x']\nextra = 1", r"\[sets.a\] must hold one key, chain"),
        ("[plugins", "not a TOML file"),
    ],
)
def test_registry_file_with_a_mistake_is_refused(tmp_path, text, part):
    path = tmp_path / "registry.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=part) as caught:
        RegistryFile.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_file_in_force(tmp_path, monkeypatch):
    folder = tmp_path / "below"
    folder.mkdir()
    (tmp_path / "registry.toml").write_text("[plugins]\nenable = ['a']")
    monkeypatch.delenv("LAMELLA_REGISTRY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert RegistryFile.find().enable == ("a",)
    monkeypatch.chdir(folder)  # never a parent folder's: it can load code
    assert RegistryFile.find() == RegistryFile() and RegistryFile().enable == ("*",)
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tmp_path / "registry.toml"))
    assert RegistryFile.find().enable == ("a",)
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tmp_path / "no.toml"))
    with pytest.raises(ConfigError, match=r"no.toml: the registry file cannot be read"):
        RegistryFile.find()
