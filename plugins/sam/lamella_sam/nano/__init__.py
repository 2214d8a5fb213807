"""The small foundation model: its network, its procedural scenes, and its weights."""
