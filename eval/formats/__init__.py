"""Files that problems and samples come in."""
