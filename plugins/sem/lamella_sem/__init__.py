"""Lamella's SEM plugin: the place of magnification-invariant pre-training (paper 2.3). It registers nothing yet."""
