"""What each preset shows, so that nobody changes it unawares: a changed image asks for a raised RENDERER.

``python tests/plugins/synth/test_frozen.py`` writes the record anew.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from lamella_synth.presets import modules, preset
from lamella_synth.sem.presets import PRESETS
from lamella_synth.sem.review import review
from lamella_synth.tem.render import render

RECORD = Path(__file__).with_name("frozen.json")


def seen(name: str) -> dict[str, object]:
    """The hash of a preset and a few figures of its first image, of 64² pixels."""
    if name in PRESETS:
        shot = review(PRESETS[name], seed=0, index=0, size=64)
        figures = [float(shot.high.mean()), float(shot.low.mean()), float(shot.mask_high.mean() * 100)]
        return {"hash": PRESETS[name].hash, "figures": figures}
    made = preset(name)
    plain = render(made, seed=0, index=0, size=64)
    shares = np.bincount(plain.label.ravel(), minlength=len(made.classes)) / 40.96
    return {"hash": made.hash, "figures": [float(plain.image.mean()), float(plain.image.std()), *shares.tolist()]}


@pytest.mark.parametrize("name", [*modules(), *PRESETS])
def test_a_preset_shows_what_it_showed(name: str) -> None:
    record, now = json.loads(RECORD.read_text(encoding="utf-8"))[name], seen(name)
    assert now["hash"] == record["hash"], "the preset changed: its tables are void; write the record anew"
    assert now["figures"] == pytest.approx(record["figures"], abs=0.5), "the renderer changed: raise RENDERER"


if __name__ == "__main__":
    table = {name: seen(name) for name in [*modules(), *PRESETS]}
    for entry in table.values():
        entry["figures"] = [round(figure, 2) for figure in entry["figures"]]  # type: ignore[attr-defined]
    lines = ",\n".join(f'"{name}": {json.dumps(entry)}' for name, entry in table.items())
    RECORD.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
