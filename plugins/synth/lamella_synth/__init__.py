"""Synthetic TEM and SEM devices of exactly known geometry."""
