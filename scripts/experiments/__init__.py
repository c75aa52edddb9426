"""What the experiments with blocks share: labelled images as a model takes them; accuracies as table and plot."""
