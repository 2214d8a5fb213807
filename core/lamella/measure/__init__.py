"""What a label map says in nm: thickness, critical dimensions, objects."""
