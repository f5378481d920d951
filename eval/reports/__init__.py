"""Scores as tables and pages."""
