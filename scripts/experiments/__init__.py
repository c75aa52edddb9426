"""What the experiments with blocks share: labelled pictures as a model takes them; accuracies as table and plot."""
