"""The laboratory on a run: what is measured of its gradients, where that is kept, the picture."""
