"""What a microscope burns into its images: the data bar below them, and the scale bar with its lettering."""
