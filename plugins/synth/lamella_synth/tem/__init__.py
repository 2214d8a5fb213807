"""Cross-sections as a transmission electron microscope sees them."""
