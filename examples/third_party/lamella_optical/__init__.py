"""Optical inspection of wafer surfaces for Lamella: a modality in colour, a dataset and two perturbations."""
