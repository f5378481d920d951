"""The sections of the page, from data to blocks."""
