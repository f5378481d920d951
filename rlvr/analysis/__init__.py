"""What training did to the weights: spectra, curvature, entanglement, forgetting, diversity."""
