"""`python -m t2i.eval.report COMMAND …`"""

import sys

from t2i.cli_errors import exit_on_bad_input
from t2i.eval.report.cli import main

with exit_on_bad_input():
    main(sys.argv[1:])
