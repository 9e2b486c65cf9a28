"""Keys to the control plane."""
