"""How fast `synth` renders: 150 images of device-a at 256² in 15 s on two cores."""

import time

import datasets


def test_150_images_of_device_a(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    from lamella_synth.dataset import synth_tem

    synth_tem(preset="device-a", count=2, seed=987_653, size=256)  # imports and first-use tables
    begun = time.perf_counter()
    found = synth_tem(preset="device-a", count=150, seed=987_654, size=256, workers=2)
    seconds = time.perf_counter() - begun
    assert len(found) == 150
    print(f"150 images of device-a at 256² in {seconds:.1f} s with two workers (target 15 s)")
    assert seconds <= 15
