"""The plugin's door: it declares the version of the hooks, and has no component to offer yet."""

LAMELLA_API = 1
