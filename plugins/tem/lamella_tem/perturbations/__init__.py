"""What spoils a TEM image, one file per perturbation, in the paper's families: sample, machine, post."""
