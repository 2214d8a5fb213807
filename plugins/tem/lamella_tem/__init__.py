"""Lamella's TEM plugin: modality, noise perturbations, DeepLabV3+, and ways to train it."""
