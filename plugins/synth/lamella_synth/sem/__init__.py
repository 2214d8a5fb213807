"""Wafer surfaces as a scanning electron microscope sees them from above, each defect at two magnifications."""
