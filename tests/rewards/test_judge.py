"""The judge on the project's own pairs of every category, and its properties."""

import pytest
from pairs import RIGHT, WRONG
