"""What a plugin author touches, and nothing else."""
