"""Lamella's SEM plugin: magnification-invariant pre-training and defect classification (the paper's section 2.3)."""
