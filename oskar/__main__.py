"""``python -m oskar``, and so ``torchrun -m oskar``."""

from oskar.cli import main

main()
