"""`accelerate launch -m t2i.training RECIPE …`, equivalent to `t2i train RECIPE …`."""

import sys

from t2i.cli import main

main(["train", *sys.argv[1:]])
