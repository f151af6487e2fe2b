"""`python -m tfvit`."""

from tfvit.cli import main

main(prog_name="tfvit")
