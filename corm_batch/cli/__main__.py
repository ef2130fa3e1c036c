"""`python -m corm_batch.cli`: the command line without the console script."""

from corm_batch.cli import main

main()
