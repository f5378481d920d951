"""What every part uses: errors, seeds, files, signals, the process environment."""
