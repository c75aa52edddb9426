"""Shared by the experiments with labels: labelled images for a model; accuracies as table and plot."""
