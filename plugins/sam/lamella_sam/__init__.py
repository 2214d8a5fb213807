"""Lamella's SAM plugin: the place of SeSAMI (paper 2.1). It registers nothing yet."""
