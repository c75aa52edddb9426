"""`python -m t2i.eval METRIC …`"""

import sys

from t2i.cli_errors import exit_on_bad_input
from t2i.eval.cli import main

with exit_on_bad_input():
    main(sys.argv[1:])
