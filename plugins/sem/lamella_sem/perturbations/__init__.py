"""What a second look at a defect changes: framing, column, charging, noise, display. One file each."""
